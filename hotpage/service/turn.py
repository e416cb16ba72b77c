# SPDX-License-Identifier: Apache-2.0
"""Which silent pages a plan looks at, where a process has more of them than one plan may look at."""

from __future__ import annotations

import numpy as np

from hotpage.arrays import Int64s
from hotpage.placement.silent import SilentMemory
from hotpage.service.nodemap import NodeMap

MOST_PAGES = 1 << 20
"""In one plan; the kernel is asked where they are, 0.16 us a page, and candidates take some 60 bytes each."""
NEW_PAGES = MOST_PAGES // 4
"""Of them, in each plan after the first: few enough to ask about, and there is room for what is known."""
_ADDRESSES = 1 << 52
_NO_PAGES: Int64s = np.empty(0, np.int64)


class Turn:
    """Of one process: each plan takes the pages that come next, and goes on at the lowest address at the end.

    Of pages that it took before, those in fast memory stay in sight: they are what can be demoted.
    """

    def __init__(self, most_pages: int = MOST_PAGES, new_pages: int = NEW_PAGES) -> None:
        self._most, self._new = most_pages, new_pages
        self._next_vpn = 0
        self._taken = _NO_PAGES  # empty as long as one plan looks at all

    def take(self, memory: SilentMemory, nodes: NodeMap, fast: frozenset[int]) -> Int64s:
        """Ascending, at most ``most_pages``. ``nodes``: where pages of the process were in the last plan."""
        begin = self._next_vpn
        ahead = memory.vpn(begin, most_pages=self._most)
        behind = memory.vpn(past_vpn=begin, most_pages=self._most - ahead.size)
        if ahead.size + behind.size < self._most:
            self._taken = _NO_PAGES
            return np.concatenate((behind, ahead))
        new = np.concatenate((ahead, behind))[: self._new if self._taken.size else self._most]
        self._next_vpn = int(new[-1]) + 1
        known = self._taken[nodes.are_on(self._taken, fast)]
        known = self._latest(known[memory.has(known)], begin)[: self._most - new.size]
        self._taken = np.sort(np.concatenate((new, known)))
        return self._taken

    def _latest(self, vpn: Int64s, begin: int) -> Int64s:
        """Those outside of what is new, [begin, next), by how shortly ago they were new."""
        ago = (begin - 1 - vpn) % _ADDRESSES
        order = np.argsort(ago, kind="stable")
        return vpn[order[: np.searchsorted(ago[order], (begin - self._next_vpn) % _ADDRESSES)]]
