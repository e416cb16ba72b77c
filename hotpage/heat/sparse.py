# SPDX-License-Identifier: Apache-2.0
"""Scattered pages: a sorted array of keys beside the columns, 23 bytes a page and no slack.

New pages go to a small sorted *fresh* part first and are merged into the *settled* one when it exceeds an
eighth of it, so that a batch of newcomers does not rewrite everything. A merge also finds the chunks that
have filled up.
"""

from dataclasses import dataclass, field

import numpy as np

from hotpage.arrays import Bools, Int64s, find, first_of_runs
from hotpage.heat.columns import PageColumns, interleave
from hotpage.heat.dense import CHUNK_BITS

CROWDED_PAGES = 192
"""Pages from which a chunk is better off dense: 15 * 512 bytes over 192 pages is 40 bytes a page."""
ROW_BITS = 9
_FRESH_MIN = 16384
_FRESH_SHARE = 8


def crowded_chunks(key: Int64s) -> Int64s:
    """Chunks of which ascending page keys hold enough pages to be dense."""
    chunk = key >> CHUNK_BITS
    first = first_of_runs(chunk)
    return chunk[first[np.diff(first, append=chunk.size) >= CROWDED_PAGES]]


@dataclass(slots=True)
class SortedPages:
    """Keys, ascending, and their state."""

    key: Int64s = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    columns: PageColumns = field(default_factory=lambda: PageColumns.empty(0))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.key.nbytes + self.columns.nbytes

    def locate(self, key: Int64s) -> tuple[Int64s, Bools]:
        """(position, found) of ascending keys; a position not found is undefined."""
        return find(self.key, key)

    def insert(self, key: Int64s, columns: PageColumns) -> None:
        """Add pages (ascending, none of them present)."""
        place = np.searchsorted(self.key, key) + np.arange(key.size)
        is_old = np.ones(self.key.size + key.size, dtype=np.bool_)
        is_old[place] = False
        self.key = interleave(self.key, key, place, is_old)
        self.columns.merged(place, columns)

    def keep(self, kept: Bools) -> None:
        """Drop the pages that are not ``kept``."""
        self.key = self.key[kept]
        self.columns.keep(kept)

    def remove(self, start_key: int, end_key: int) -> None:
        """Forget the pages with start_key <= key < end_key."""
        low, high = np.searchsorted(self.key, (start_key, end_key))
        if low < high:
            kept = np.ones(self.key.size, dtype=np.bool_)
            kept[low:high] = False
            self.keep(kept)


class SparsePages:
    """Two sorted parts, ``settled`` and ``fresh``; a page is in one of them."""

    def __init__(self) -> None:
        self.settled = SortedPages()
        self.fresh = SortedPages()

    @property
    def parts(self) -> tuple[SortedPages, SortedPages]:
        """Both parts."""
        return self.settled, self.fresh

    @property
    def pages(self) -> int:
        """Pages held."""
        return self.settled.key.size + self.fresh.key.size

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.settled.nbytes + self.fresh.nbytes

    @property
    def is_due(self) -> bool:
        """Whether the fresh part has outgrown its share and ``settle`` should be called."""
        return self.fresh.key.size > max(_FRESH_MIN, self.settled.key.size // _FRESH_SHARE)

    def settle(self) -> Int64s:
        """Merge the fresh part into the settled one; the chunks that are crowded now, ascending."""
        self.settled.insert(self.fresh.key, self.fresh.columns)
        self.fresh = SortedPages()
        return crowded_chunks(self.settled.key)

    def extract(self, chunks: Int64s) -> list[SortedPages]:
        """Take all pages of the given chunks (ascending) out, as one set per part."""
        taken = []
        for part in self.parts:
            _, leaving = find(chunks, part.key >> CHUNK_BITS)
            if leaving.any():
                taken.append(SortedPages(part.key[leaving], part.columns.take(leaving)))
                part.keep(~leaving)
        return taken

    def remove(self, start_key: int, end_key: int) -> None:
        """Forget the pages with start_key <= key < end_key."""
        for part in self.parts:
            part.remove(start_key, end_key)
