# SPDX-License-Identifier: Apache-2.0
"""Where pages were when the kernel was last asked: that costs 0.16 us a page, so answers are kept a while."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Bools, Int16s, Int64s, find, first_of_runs
from hotpage.placement.plan import ABSENT
from hotpage.placement.ranking import SMALL_CHUNK, chunks

_BITS = 9
_PAGES = 1 << _BITS
_UNASKED = -2

Query = Callable[[Int64s], npt.NDArray[np.int32]]


class NodeMap:
    """Of one process; a byte a page in chunks of 512 neighbours. Nodes up to 127."""

    def __init__(self) -> None:
        self._chunk: Int64s = np.empty(0, np.int64)  # ascending
        self._node = np.empty((0, _PAGES), np.int8)
        self._turn = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._chunk.nbytes + self._node.nbytes

    def nodes(self, vpn: Int64s, query: Query) -> Int16s:
        """The node of each page (ascending), ``ABSENT`` where there is none; the kernel is asked about pages
        of which nothing is known. Chunks without any of these pages are forgotten.
        """
        self._cover(vpn)
        nodes = np.empty(vpn.size, np.int16)
        for part in chunks(vpn.size, SMALL_CHUNK):
            nodes[part] = self._of_some(vpn[part], query)
        return nodes

    def _of_some(self, vpn: Int64s, query: Query) -> npt.NDArray[np.int8]:
        row, column = np.searchsorted(self._chunk, vpn >> _BITS), vpn & (_PAGES - 1)
        known: npt.NDArray[np.int8] = self._node[row, column]
        unasked = np.flatnonzero(known == _UNASKED)
        if unasked.size:
            answer = query(vpn[unasked])
            known[unasked] = np.where(answer < 0, ABSENT, answer)
            self._node[row[unasked], column[unasked]] = known[unasked]
        return known

    def are_on(self, vpn: Int64s, nodes: frozenset[int]) -> Bools:
        """Whether each page was on one of these nodes when the kernel was last asked."""
        row, found = find(self._chunk, vpn >> _BITS)
        found[found] = np.isin(self._node[row[found], vpn[found] & (_PAGES - 1)], [*nodes])
        return found

    def put(self, vpn: Int64s, node: int) -> None:
        """These pages are there now."""
        row, found = find(self._chunk, vpn >> _BITS)
        self._node[row[found], vpn[found] & (_PAGES - 1)] = node

    def doubt(self, vpn: Int64s) -> None:
        """Ask about these pages again."""
        self.put(vpn, _UNASKED)

    def age(self, share: float) -> None:
        """Ask again about this share of the pages, others each time."""
        low, self._turn = self._turn, self._turn + min(share, 1.0)
        count = len(self._chunk)
        self._node[int(low * count) : int(np.ceil(self._turn * count))] = _UNASKED
        if self._turn >= 1.0:
            self._turn = 0.0

    def _cover(self, vpn: Int64s) -> None:
        parts = [vpn[part] >> _BITS for part in chunks(vpn.size, SMALL_CHUNK)]
        parts = [chunk[first_of_runs(chunk)] for chunk in parts]
        wanted = np.concatenate([np.empty(0, np.int64), *parts])
        wanted = wanted[first_of_runs(wanted)]
        if np.array_equal(wanted, self._chunk):
            return
        node = np.full((wanted.size, _PAGES), _UNASKED, np.int8)
        row, found = find(self._chunk, wanted)
        node[found] = self._node[row[found]]
        self._chunk, self._node = wanted, node
