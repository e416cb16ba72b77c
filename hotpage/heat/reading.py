# SPDX-License-Identifier: Apache-2.0
"""Reading a heat table: the state in cache-sized pieces, each ascending and of one process, and its rates."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Bools, Float32s, Int32s, Int64s, Ticks, first_of_runs
from hotpage.heat.arming import ArmedPages, silence_of_many
from hotpage.heat.columns import PageColumns, float32s
from hotpage.heat.dense import CHUNK_BITS, CHUNK_PAGES, DenseChunks
from hotpage.heat.estimator import OBSERVED_SAMPLES, contradicts, mixed_rate, posterior_rate
from hotpage.heat.grouping import Horizon, to_ticks
from hotpage.heat.halves import widened
from hotpage.heat.keys import SPACE_BITS, PageKeys
from hotpage.heat.sampling import Evidence, SampledPages
from hotpage.heat.sparse import ROW_BITS, SortedPages, SparsePages

_ROWS_AT_ONCE, _ROWS_IN_CACHE, _SCATTER_PAGES = 1 << 13, 1 << 8, 1 << 17
_LONG_ROWS = 8
"""Rows of one process from which a piece of its own is faster than a share in a scatter."""
_FIRST_TICK = np.uint32(1)
PIECE_PAGES = 1 << 15
"""Pages per piece: few enough for the temporaries of a rate to stay in cache, many enough per numpy call."""

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Piece:
    """Tracked pages of one process, ascending, and where ``home`` has them: a run, or rows of 512 positions.

    ``kept`` holds the places within the run or rows that have a page, None if all have.
    """

    process: int
    vpn: Int64s
    home: PageColumns
    where: slice | Int64s
    kept: Int64s | None = None

    def read(self, column: npt.NDArray[_T]) -> npt.NDArray[_T]:
        """These pages' entries of a column of ``home``; may be a view."""
        if isinstance(self.where, slice):
            values = column[self.where]
        else:
            values = column.reshape(-1, CHUNK_PAGES)[self.where].ravel()
        return values if self.kept is None else values.take(self.kept)

    def some(self, place: Int64s) -> "Scatter":
        """Those of these pages that are at ``place``."""
        process, vpn = np.full(place.size, self.process, dtype=np.int32), self.vpn.take(place)
        if self.kept is not None:
            place = self.kept.take(place)
        if isinstance(self.where, slice):
            return Scatter(process, vpn, self.home, place + self.where.start)
        row = self.where.take(place >> CHUNK_BITS)
        return Scatter(process, vpn, self.home, (row << CHUNK_BITS) + (place & (CHUNK_PAGES - 1)))


@dataclass(frozen=True, slots=True)
class Scatter:
    """Single pages of many processes, ascending by key, and their positions in ``home``."""

    process: Int32s
    vpn: Int64s
    home: PageColumns
    position: Int64s

    def read(self, column: npt.NDArray[_T]) -> npt.NDArray[_T]:
        """These pages' entries of a column of ``home``; a copy."""
        return column.take(self.position)

    def some(self, place: Int64s) -> "Scatter":
        """Those of these pages that are at ``place``."""
        if place.size == self.vpn.size:
            return self
        return Scatter(self.process.take(place), self.vpn.take(place), self.home, self.position.take(place))


class PieceRates:
    """Rates of a piece at a moment; what several of them need is read and computed once: single pages lie
    far apart in memory. ``last`` is in ticks.

    By process: what was ``armed`` of it, and ``sampled``.
    """

    def __init__(
        self,
        piece: Piece | Scatter,
        now_s: float,
        horizons: tuple[Horizon, Horizon],
        armed: Mapping[int, ArmedPages],
        sampled: Mapping[int, SampledPages],
    ) -> None:
        self.piece = piece
        self._long, self._short = horizons
        self._now = np.uint32(to_ticks(now_s))
        self._columns: dict[str, npt.NDArray[Any]] = {}
        self.last: Ticks = self.read("last")
        self._silence_s: Float32s | None = None
        self.is_sampled: Bools | bool = False
        """Of all pages, or each."""
        self._samples: Evidence | None = None
        if isinstance(piece, Scatter):
            self._look_up(piece, now_s, armed, sampled)
            return
        if piece.process in armed:
            self._silence_s = armed[piece.process].silence(piece.vpn, self.last, now_s)
        if piece.process in sampled:
            self.is_sampled = True
            self._samples = sampled[piece.process].evidence(piece.vpn, now_s, horizons)

    def _look_up(
        self,
        scatter: Scatter,
        now_s: float,
        armed: Mapping[int, ArmedPages],
        sampled: Mapping[int, SampledPages],
    ) -> None:
        first = first_of_runs(scatter.process)
        bounds = [*first.tolist(), scatter.process.size]
        owners = scatter.process.take(first).tolist()
        # Most pages asked about were accessed a moment ago, and their process has not been armed since.
        oldest = np.minimum.reduceat(self.last, first).tolist()
        silent = [
            pages if (pages := armed.get(owner)) is not None and pages.armed_after(tick) else None
            for owner, tick in zip(owners, oldest, strict=True)
        ]
        self._silence_s = silence_of_many(silent, bounds, scatter.vpn, self.last, now_s)
        if sampled:
            self.is_sampled = np.isin(scatter.process, list(sampled))
            horizons = self._long, self._short
            found = [
                replace(one, place=low + one.place)
                for owner, (low, high) in zip(owners, pairwise(bounds), strict=True)
                if owner in sampled
                and (one := sampled[owner].evidence(scatter.vpn[low:high], now_s, horizons)) is not None
            ]
            self._samples = Evidence.joined(found) if found else None

    def some(self, place: Int64s, pages: Scatter) -> "PieceRates":
        """Those of ``pages``, which are at ``place`` (ascending); what has been looked up serves again."""
        part = copy(self)
        part.piece = pages
        if place.size == self.last.size:
            return part
        part._columns = {name: values.take(place) for name, values in self._columns.items()}
        part.last = part._columns["last"]
        if self._silence_s is not None:
            part._silence_s = self._silence_s.take(place)
        if not isinstance(self.is_sampled, bool):
            part.is_sampled = self.is_sampled.take(place)
        if self._samples is not None:
            part._samples = self._samples.among(place)
        return part

    def read(self, name: str) -> npt.NDArray[Any]:
        """These pages' entries of a column; may be a view."""
        if name not in self._columns:
            self._columns[name] = self.piece.read(getattr(self.piece.home, name))
        return self._columns[name]

    def long(self) -> Float32s:
        """Long-horizon rates in Hz, NaN where unknown."""
        rate = self._rate(self._long)
        if (seen := self._samples) is not None:
            hints = self._hint_accesses(self._long)[seen.place]
            rate[seen.place] = mixed_rate(rate[seen.place], hints, seen.samples, seen.exposure_s)
        return rate

    def short(self) -> Float32s:
        """Short-horizon rates in Hz, NaN where unknown."""
        rate = self._rate(self._short)
        if (seen := self._samples) is not None:
            hints = self._hint_accesses(self._short)[seen.place]
            alone = rate[seen.place]
            mixed = mixed_rate(alone, hints, seen.samples_short, seen.exposure_short_s)
            # Samples that this horizon has forgotten observe nothing, and pull no rate down.
            use = np.isnan(alone) | (seen.samples_short >= np.float32(OBSERVED_SAMPLES))
            rate[seen.place] = np.where(use, mixed, alone)
        return rate

    def accesses(self, short: bool = False) -> Float32s:
        """Accesses and samples that the rates of a horizon rest on, decayed to now."""
        accesses = self._hint_accesses(self._short if short else self._long)
        if (seen := self._samples) is not None:
            accesses[seen.place] += seen.samples_short if short else seen.samples
        return accesses

    def current(self) -> tuple[Float32s, Float32s]:
        """Rates in Hz for who has to choose one, and the accesses that they rest on.

        Those of the long horizon, unless the short one contradicts it: then the page has another rate since.
        """
        rate, short = self.long(), self.short()
        accesses = self.accesses()
        # What the short horizon has forgotten since the last access is still the newest there is.
        few = np.maximum(self.accesses(short=True), float32s(self.read("accesses_short")))
        changed = np.flatnonzero(contradicts(rate, accesses, short, few))
        rate[changed], accesses[changed] = short.take(changed), few.take(changed)
        return rate, accesses

    def _hint_accesses(self, horizon: Horizon) -> Float32s:
        return float32s(self.read(f"accesses_{horizon.name}")) * self._decay(horizon)

    def _rate(self, horizon: Horizon) -> Float32s:
        accesses = float32s(self.read(f"accesses_{horizon.name}"))
        exposure = widened(self.read(f"exposure_{horizon.name}"))
        exposure *= np.float32(horizon.unit_s)
        if self._silence_s is None:
            rate = posterior_rate(accesses, exposure)
        else:
            rate = posterior_rate(accesses, exposure, self._decay(horizon), self._silence_s)
            exposure += self._silence_s
        if not exposure.all():
            rate[exposure == 0] = np.nan
        return rate

    def _decay(self, horizon: Horizon) -> Float32s:
        return horizon.decay(np.maximum(self._now, self.last) - self.last)


def pieces_of_rows(
    dense: DenseChunks, sparse: SparsePages, keys: PageKeys, rows: Sequence[Bools]
) -> Iterator[Piece | Scatter]:
    """All pages of some rows: of the dense chunks in the order of the directory, and of each sparse part."""
    chosen = np.flatnonzero(rows[0])
    space = dense.chunks.take(chosen) >> (SPACE_BITS - CHUNK_BITS)
    count = np.diff(first_of_runs(space), append=space.size)
    is_long = np.repeat(count >= _LONG_ROWS, count)
    yield from dense_pieces(dense, keys, chosen[is_long])
    yield from _dense_scatters(dense, keys, chosen[~is_long], _FIRST_TICK)
    for part, some in zip(sparse.parts, rows[1:], strict=True):
        yield from _sparse_scatters(part, keys, some, _FIRST_TICK)


def single_pages(
    dense: DenseChunks, sparse: SparsePages, keys: PageKeys, wanted: Int64s, skipped: Sequence[Bools]
) -> Iterator[Scatter]:
    """Some pages, by ascending key. ``skipped``: rows to leave out, as for ``pieces_of_rows``."""
    skipped_blocks = np.zeros(len(dense.columns) >> CHUNK_BITS, dtype=np.bool_)
    skipped_blocks[dense.blocks] = skipped[0]
    stores: tuple[DenseChunks | SortedPages, ...] = (dense, *sparse.parts)
    for store, skip in zip(stores, (skipped_blocks, *skipped[1:]), strict=True):
        if not wanted.size:
            return
        position, found = store.locate(wanted)
        place = np.flatnonzero(found)
        position = position.take(place)
        kept = ~skip.take(position >> ROW_BITS)
        kept &= store.columns.last.take(position) != 0
        yield from _scatters(wanted.take(place[kept]), store.columns, position[kept], keys)
        wanted = wanted[~found]


def seen_since(
    dense: DenseChunks, sparse: SparsePages, keys: PageKeys, tick: int, skipped: Sequence[Bools]
) -> Iterator[Scatter]:
    """The pages last seen at ``tick`` or later."""
    first = np.uint32(tick)
    yield from _dense_scatters(dense, keys, np.flatnonzero(~skipped[0]), first)
    for part, skip in zip(sparse.parts, skipped[1:], strict=True):
        yield from _sparse_scatters(part, keys, ~skip, first)


def _dense_scatters(dense: DenseChunks, keys: PageKeys, rows: Int64s, first: np.uint32) -> Iterator[Scatter]:
    """The pages in rows (places in the directory) that were last seen at ``first`` or later."""
    last = dense.columns.last.reshape(-1, CHUNK_PAGES)
    for low in range(0, rows.size, _ROWS_AT_ONCE):
        some = rows[low : low + _ROWS_AT_ONCE]
        block = dense.blocks.take(some).astype(np.int64)
        hit = np.concatenate(
            [
                np.flatnonzero(last[block[few : few + _ROWS_IN_CACHE]] >= first) + (few << CHUNK_BITS)
                for few in range(0, block.size, _ROWS_IN_CACHE)
            ]
        )
        row, page = hit >> CHUNK_BITS, hit & (CHUNK_PAGES - 1)
        key = (dense.chunks.take(some).take(row) << CHUNK_BITS) + page
        yield from _scatters(key, dense.columns, (block.take(row) << CHUNK_BITS) + page, keys)


def _sparse_scatters(part: SortedPages, keys: PageKeys, rows: Bools, first: np.uint32) -> Iterator[Scatter]:
    """The same of a sparse part; ``rows`` is a mask."""
    if not rows.any():
        return
    inside = np.repeat(rows, 1 << ROW_BITS)[: part.key.size]
    position = np.flatnonzero(inside & (part.columns.last >= first))
    yield from _scatters(part.key.take(position), part.columns, position, keys)


def _scatters(key: Int64s, home: PageColumns, position: Int64s, keys: PageKeys) -> Iterator[Scatter]:
    for low in range(0, key.size, _SCATTER_PAGES):
        some = slice(low, low + _SCATTER_PAGES)
        yield Scatter(*keys.decode(key[some]), home, position[some])


def dense_pieces(dense: DenseChunks, keys: PageKeys, chosen: Int64s) -> Iterator[Piece]:
    """Pieces of the chunks at the directory places ``chosen``, ascending."""
    chunks, blocks = dense.chunks.take(chosen), dense.blocks.take(chosen).astype(np.int64)
    for low, high in _cuts(chunks >> (SPACE_BITS - CHUNK_BITS), PIECE_PAGES >> CHUNK_BITS):
        process, first_vpn = _origin(keys, int(chunks[low]) << CHUNK_BITS)
        vpn = (((chunks[low:high] << CHUNK_BITS) + first_vpn)[:, None] + np.arange(CHUNK_PAGES)).ravel()
        rows = blocks[low:high]
        where: slice | Int64s = rows
        if (rows[1:] - rows[:-1] == 1).all():
            where = slice(int(rows[0]) << CHUNK_BITS, int(rows[-1] + 1) << CHUNK_BITS)
        piece = Piece(process, vpn, dense.columns, where)
        last = piece.read(dense.columns.last)
        if not last.all():
            kept = np.flatnonzero(last)
            piece = Piece(process, vpn.take(kept), dense.columns, where, kept)
        if piece.vpn.size:
            yield piece


def sorted_pieces(part: SortedPages, keys: PageKeys, low: int, high: int) -> Iterator[Piece]:
    """Pieces of the positions [low, high)."""
    key = part.key[low:high]
    for start, end in _cuts(key >> SPACE_BITS, PIECE_PAGES):
        process, first_vpn = _origin(keys, int(key[start]))
        yield Piece(process, key[start:end] + first_vpn, part.columns, slice(low + start, low + end))


def _origin(keys: PageKeys, key: int) -> tuple[int, np.int64]:
    """(process, what to add to its keys to get page numbers) for the space of a key."""
    space = key >> SPACE_BITS
    process, first_vpn = keys.owner(space)
    return process, np.int64(first_vpn - (space << SPACE_BITS))


def _cuts(space: Int64s, limit: int) -> Iterator[tuple[int, int]]:
    """Half-open runs of equal space, long ones in even parts of about ``limit``."""
    for low, high in pairwise([*first_of_runs(space).tolist(), space.size]):
        parts = max(round((high - low) / limit), 1)
        yield from pairwise([low + (high - low) * part // parts for part in range(parts + 1)])
