# SPDX-License-Identifier: Apache-2.0
"""Pages of well-filled chunks: 512 consecutive pages (2 MiB) in 512 consecutive positions, no key per page.

A sorted directory maps a chunk (page key >> 9) to its block of positions: 12 bytes per 512 pages. The
columns grow by 1/16 at a time, so that the spare room stays below one byte per page.
"""

import numpy as np

from hotpage.arrays import Bools, Int64s, first_of_runs
from hotpage.heat.columns import PageColumns

CHUNK_BITS = 9
CHUNK_PAGES = 1 << CHUNK_BITS
_GROWTH = 1 / 16
_REMOVED_AT_ONCE = 1024


class DenseChunks:
    """A growing set of chunks; ``columns`` holds the pages."""

    def __init__(self) -> None:
        self.columns = PageColumns.empty(0)
        self.chunks = np.empty(0, dtype=np.int64)
        self.blocks = np.empty(0, dtype=np.int32)
        self.pages = 0
        self._free_blocks: list[int] = []

    @property
    def nbytes(self) -> int:
        """Bytes held, spare room included."""
        free = 8 * len(self._free_blocks)
        return self.columns.nbytes + self.chunks.nbytes + self.blocks.nbytes + free

    def locate(self, key: Int64s) -> tuple[Int64s, Bools]:
        """(position, found) of ascending keys; a position not found is undefined."""
        chunk = key >> CHUNK_BITS
        first = first_of_runs(chunk)
        block, known = self._find(chunk.take(first))
        count = np.diff(first, append=key.size)
        position = np.repeat(block << CHUNK_BITS, count)
        position += key & (CHUNK_PAGES - 1)
        return position, np.repeat(known, count)

    def add(self, chunks: Int64s) -> None:
        """Make room for chunks (ascending, none of them present)."""
        used = self.chunks.size + len(self._free_blocks)
        recycled = sorted(self._free_blocks.pop() for _ in range(min(len(self._free_blocks), chunks.size)))
        fresh = range(used, used + chunks.size - len(recycled))
        self._reserve(used + len(fresh))
        place = np.searchsorted(self.chunks, chunks)
        self.chunks = np.insert(self.chunks, place, chunks)
        self.blocks = np.insert(self.blocks, place, np.array([*recycled, *fresh], dtype=np.int32))

    def remove(self, start_key: int, end_key: int) -> None:
        """Forget the pages with start_key <= key < end_key; emptied chunks give their block back."""
        low = int(np.searchsorted(self.chunks, start_key >> CHUNK_BITS))
        high = int(np.searchsorted(self.chunks, (end_key - 1) >> CHUNK_BITS, side="right"))
        if low >= high:
            return
        is_empty = np.zeros(self.chunks.size, dtype=np.bool_)
        for first in range(low, high, _REMOVED_AT_ONCE):
            some = slice(first, min(first + _REMOVED_AT_ONCE, high))
            key = (self.chunks[some, None] << CHUNK_BITS) + np.arange(CHUNK_PAGES)
            position = (self.blocks[some, None].astype(np.int64) << CHUNK_BITS) + np.arange(CHUNK_PAGES)
            leaving = position[(key >= start_key) & (key < end_key)]
            self.pages -= int(np.count_nonzero(self.columns.last[leaving]))
            self.columns.clear(leaving)
            is_empty[some] = ~self.columns.last[position].any(axis=1)
        self._free_blocks.extend(self.blocks[is_empty].tolist())
        self.chunks, self.blocks = self.chunks[~is_empty], self.blocks[~is_empty]
        if len(self._free_blocks) > self.chunks.size:
            self._compact()

    def _find(self, chunk: Int64s) -> tuple[Int64s, Bools]:
        if not self.chunks.size:
            return np.zeros(chunk.size, dtype=np.int64), np.zeros(chunk.size, dtype=np.bool_)
        place = np.searchsorted(self.chunks, chunk)
        np.minimum(place, self.chunks.size - 1, out=place)
        return self.blocks.take(place).astype(np.int64), self.chunks.take(place) == chunk

    def _reserve(self, blocks: int) -> None:
        room = len(self.columns) >> CHUNK_BITS
        if blocks > room:
            self.columns.resized(max(blocks, int(room * (1 + _GROWTH))) << CHUNK_BITS)

    def _compact(self) -> None:
        """Renumber blocks in chunk order and give the free ones back to the system."""
        rows = (self.blocks.astype(np.int64)[:, None] << CHUNK_BITS) + np.arange(CHUNK_PAGES)
        self.columns = self.columns.take(rows.ravel())
        self.blocks = np.arange(self.chunks.size, dtype=np.int32)
        self._free_blocks = []
