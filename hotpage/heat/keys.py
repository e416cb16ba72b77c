# SPDX-License-Identifier: Apache-2.0
"""One int64 per page: a *space* number above 36 bits of page number.

A space is one process's 256 TiB slice of page numbers. Nearly every process has a single one; only programs
that ask for addresses beyond 48 bits (5-level paging) have more. So (process, vpn) pairs of any size fit
one sortable integer, and a process's pages lie together in it.
"""

from collections import defaultdict

import numpy as np

from hotpage.arrays import Int32s, Int64s

SPACE_BITS = 36
_LOW_MASK = np.int64((1 << SPACE_BITS) - 1)
VPN_END = 1 << 52


class PageKeys:
    """Numbers spaces as they first appear, and translates between (process, vpn) and key."""

    def __init__(self) -> None:
        self._first_space: Int32s = np.full(64, -1, dtype=np.int32)  # by process, for vpn < 2^36
        self._high_space: dict[tuple[int, int], int] = {}  # by (process, vpn >> 36) otherwise
        self._process: Int32s = np.full(64, -1, dtype=np.int32)  # by space
        self._high: Int64s = np.zeros(64, dtype=np.int64)
        self._spaces: defaultdict[int, list[int]] = defaultdict(list)  # by process
        self._used = 0
        self._free: list[int] = []  # below ``_used``

    @property
    def nbytes(self) -> int:
        """Bytes held; a few hundred per living process, 4 for each there ever was, none per page."""
        arrays = self._first_space.nbytes + self._process.nbytes + self._high.nbytes
        return arrays + 250 * len(self._spaces) + 32 * len(self._free)

    def encode(self, process: Int32s, vpn: Int64s) -> Int64s:
        """Keys of pages, int64, numbering new spaces; ValueError for process < 0 or vpn outside 0..2^52."""
        if not vpn.size:
            return np.empty(0, dtype=np.int64)
        low_process, high_process = int(process.min()), int(process.max())
        low_vpn, high_vpn = int(vpn.min()), int(vpn.max())
        if low_process < 0 or low_vpn < 0 or high_vpn >= VPN_END:
            raise ValueError("a page needs a process index >= 0 and a page number in 0..2^52")
        if high_vpn >> SPACE_BITS:
            return self._encode_high(process, vpn)
        self._reserve(high_process)
        if low_process == high_process:
            space = int(self._first_space[low_process])
            space = self._number(low_process, 0) if space < 0 else space
            return vpn | np.int64(space << SPACE_BITS)
        spaces = self._first_space.take(process)
        if (spaces < 0).any():
            for unknown in np.unique(process[spaces < 0]).tolist():
                self._number(unknown, 0)
            spaces = self._first_space.take(process)
        return (spaces.astype(np.int64) << SPACE_BITS) | vpn

    def spaces_of(self, process: int) -> list[tuple[int, int]]:
        """(space, first vpn of it) of a process, ascending by vpn."""
        spaces = self._spaces.get(process, [])
        return sorted(
            ((space, int(self._high[space]) << SPACE_BITS) for space in spaces), key=lambda pair: pair[1]
        )

    def space_range(self, process: int, start_vpn: int, end_vpn: int) -> list[tuple[int, int]]:
        """Half-open key ranges that cover a page range of a process, known spaces only."""
        ranges = []
        for space, first_vpn in self.spaces_of(process):
            low = max(start_vpn - first_vpn, 0)
            high = min(end_vpn - first_vpn, 1 << SPACE_BITS)
            if low < high:
                ranges.append(((space << SPACE_BITS) + low, (space << SPACE_BITS) + high))
        return ranges

    def owner(self, space: int) -> tuple[int, int]:
        """(process, first vpn) of a space."""
        return int(self._process[space]), int(self._high[space]) << SPACE_BITS

    def decode(self, key: Int64s) -> tuple[Int32s, Int64s]:
        """(process int32[], vpn int64[]) of keys."""
        space = key >> SPACE_BITS
        return self._process.take(space), (self._high.take(space) << SPACE_BITS) | (key & _LOW_MASK)

    def release(self, process: int) -> None:
        """No page of the process is stored any more: its spaces will be others'."""
        for space in self._spaces.pop(process, ()):
            if high := int(self._high[space]):
                del self._high_space[process, high]
            else:
                self._first_space[process] = -1
            self._free.append(space)

    def _reserve(self, process: int) -> None:
        if process >= self._first_space.size:
            grown = np.full(max(2 * self._first_space.size, process + 1), -1, dtype=np.int32)
            grown[: self._first_space.size] = self._first_space
            self._first_space = grown

    def _number(self, process: int, high: int) -> int:
        if self._free:
            space = self._free.pop()
        else:
            space, self._used = self._used, self._used + 1
            if space == self._process.size:
                self._process, self._high = np.tile(self._process, 2), np.tile(self._high, 2)
        self._process[space], self._high[space] = process, high
        self._spaces[process].append(space)
        if high:
            self._high_space[process, high] = space
        else:
            self._first_space[process] = space
        return space

    def _encode_high(self, process: Int32s, vpn: Int64s) -> Int64s:
        key = vpn & _LOW_MASK
        high = vpn >> SPACE_BITS
        pairs, place = np.unique(np.stack([process.astype(np.int64), high]), axis=1, return_inverse=True)
        spaces = np.empty(pairs.shape[1], dtype=np.int64)
        for i, (one, top) in enumerate(pairs.T.tolist()):
            self._reserve(one)
            known = self._high_space.get((one, top), -1) if top else int(self._first_space[one])
            spaces[i] = known if known >= 0 else self._number(one, top)
        return (spaces[place.ravel()] << SPACE_BITS) | key
