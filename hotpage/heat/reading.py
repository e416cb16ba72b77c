# SPDX-License-Identifier: Apache-2.0
"""Reading a heat table: the state in cache-sized pieces, each ascending and of one process, and its rates."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hotpage.heat.arming import ArmedPages
from hotpage.heat.arrays import Floats32, Ints64
from hotpage.heat.columns import Index, PageColumns
from hotpage.heat.dense import CHUNK_BITS, CHUNK_PAGES, DenseChunks
from hotpage.heat.estimator import posterior_rate
from hotpage.heat.grouping import Horizon, to_ticks
from hotpage.heat.keys import SPACE_BITS, PageKeys
from hotpage.heat.sparse import SortedPages

PIECE_PAGES = 1 << 15
"""Pages per piece: the dozen temporaries of a rate, 128 KiB each, stay in the second-level cache."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tracked pages of one process, ascending: their state, and where in ``home`` it is stored."""

    process: int
    vpn: Ints64
    state: PageColumns
    home: PageColumns
    index: Index


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time at which rates are read."""

    now_s: float
    horizons: tuple[Horizon, Horizon]

    def silence(self, piece: Piece, armed: ArmedPages | None) -> Floats32 | None:
        """Seconds armed and silent since each page's last access; None where no page was armed since."""
        return None if armed is None else armed.silence(piece.vpn, piece.state.last, self.now_s)

    def long_rate(self, piece: Piece, silence: Floats32 | None) -> Floats32:
        """Long-horizon rates of a piece in Hz, NaN where unknown."""
        return self._rate(piece, 0, piece.state.accesses_long, piece.state.exposure_long, silence)

    def short_rate(self, piece: Piece, silence: Floats32 | None) -> Floats32:
        """Short-horizon rates of a piece in Hz, NaN where unknown."""
        accesses = piece.state.accesses_short.astype(np.float32)
        return self._rate(piece, 1, accesses, piece.state.exposure_short, silence)

    def accesses(self, piece: Piece) -> Floats32:
        """Long-horizon accesses of a piece, decayed to now."""
        return piece.state.accesses_long * self._decay(piece, 0)

    def _rate(
        self,
        piece: Piece,
        horizon: int,
        accesses: Floats32,
        stored_exposure: npt.NDArray[np.float16],
        silence: Floats32 | None,
    ) -> Floats32:
        exposure = stored_exposure.astype(np.float32)
        exposure *= np.float32(self.horizons[horizon].unit_s)
        if silence is None:
            rate = posterior_rate(accesses, exposure)
            is_known = exposure > 0
        else:
            rate = posterior_rate(accesses, exposure, self._decay(piece, horizon), silence)
            is_known = (exposure + silence) > 0
        if not is_known.all():
            rate[~is_known] = np.nan
        return rate

    def _decay(self, piece: Piece, horizon: int) -> Floats32:
        now = np.uint32(to_ticks(self.now_s))
        last = piece.state.last
        return self.horizons[horizon].decay(np.maximum(now, last) - last)


def dense_pieces(dense: DenseChunks, keys: PageKeys, chosen: Ints64) -> Iterator[Piece]:
    """Pieces of the chunks at the directory places ``chosen``, ascending."""
    chunks, blocks = dense.chunks.take(chosen), dense.blocks.take(chosen).astype(np.int64)
    columns = dense.columns
    for low, high in _cuts(chunks >> (SPACE_BITS - CHUNK_BITS), PIECE_PAGES >> CHUNK_BITS):
        rows = blocks[low:high]
        index: Index
        if (np.diff(rows) == 1).all():
            index = slice(int(rows[0]) << CHUNK_BITS, int(rows[-1] + 1) << CHUNK_BITS)
        else:
            index = ((rows << CHUNK_BITS)[:, None] + np.arange(CHUNK_PAGES)).ravel()
        key = ((chunks[low:high] << CHUNK_BITS)[:, None] + np.arange(CHUNK_PAGES)).ravel()
        has_page = columns.last[index] != 0
        if not has_page.all():
            index = np.flatnonzero(has_page) + index.start if isinstance(index, slice) else index[has_page]
            key = key[has_page]
        if key.size:
            yield _piece(keys, key, columns, index)


def sorted_pieces(part: SortedPages, keys: PageKeys, low: int, high: int) -> Iterator[Piece]:
    """Pieces of the positions [low, high)."""
    key = part.key[low:high]
    for start, end in _cuts(key >> SPACE_BITS, PIECE_PAGES):
        yield _piece(keys, key[start:end], part.columns, slice(low + start, low + end))


def _piece(keys: PageKeys, key: Ints64, home: PageColumns, index: Index) -> Piece:
    space = int(key[0]) >> SPACE_BITS
    process, first_vpn = keys.owner(space)
    vpn = key - np.int64((space << SPACE_BITS) - first_vpn)
    return Piece(process, vpn, home.take(index), home, index)


def _cuts(space: Ints64, limit: int) -> Iterator[tuple[int, int]]:
    """Half-open runs of equal space, none longer than ``limit``."""
    bounds = [0, *(np.flatnonzero(np.diff(space)) + 1).tolist(), space.size]
    for low, high in pairwise(bounds):
        for start in range(low, high, limit):
            yield start, min(start + limit, high)
