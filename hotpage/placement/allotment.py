# SPDX-License-Identifier: Apache-2.0
"""What may still be moved: room and rate of each node, share and rate of each cgroup, cpusets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hotpage.arrays import Bools, Int16s, Int32s, Int64s, Uint8s
from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.plan import Fate, GroupLimits, Situation


@dataclass
class _Group:
    """A limited cgroup; all in pages. ``other_pages`` of its ``fast_pages`` are no candidates."""

    limits: GroupLimits
    fast_pages: float
    other_pages: float
    rate_pages: float

    @property
    def share_pages(self) -> float:
        """What it may get in fast memory still."""
        return self.limits.ceiling_bytes / PAGE_BYTES - self.fast_pages

    @property
    def spare_pages(self) -> float:
        """What it may lose of its fast memory."""
        return self.fast_pages - self.limits.floor_bytes / PAGE_BYTES


class Limited(NamedTuple):
    """A cgroup with limits, in pages.

    ``most_pages``: candidates in fast memory at its ceiling. ``share_pages``: what it may get there still.
    ``excess_pages``: candidates there above its ceiling, whatever else it has there, which is page cache
    mostly. ``spare_pages``: what it may lose; ``has_floor``: that there is anything that it may not.
    """

    processes: list[int]
    most_pages: float
    share_pages: float
    excess_pages: float
    spare_pages: float
    has_floor: bool


class Allotment:
    """Deducts what is chosen from what may be moved. Sizes in base pages.

    ``room`` by node: what it may take. Where a part of the headroom is used that is nothing, and the part is
    ``owed``: pages still change places one for one. Below the high watermark ``room`` is negative.
    ``reserve``: the headroom above that watermark.
    """

    def __init__(self, situation: Situation, fast: frozenset[int]) -> None:
        self._candidates = situation.candidates
        self._fast = fast
        self.all_single = not len(self._candidates) or int(self._candidates.pages.max()) == 1
        self._present = list(situation.processes)
        above = {r.node: (r.free_bytes - r.headroom_bytes) // PAGE_BYTES for r in situation.nodes}
        self.reserve = {
            r.node: max(r.headroom_bytes - r.watermark_bytes, 0) // PAGE_BYTES for r in situation.nodes
        }
        self.owed = {node: min(max(-pages, 0), self.reserve[node]) for node, pages in above.items()}
        self.room = {node: pages + self.owed[node] for node, pages in above.items()}
        self._rate = {r.node: r.rate_bytes / PAGE_BYTES for r in situation.nodes}
        count = situation.process_count
        highest = max(self.room, default=0)
        self._allowed = np.zeros((count, highest + 1), np.bool_)
        self._group = np.full(count, -1, np.int32)
        self._groups: list[_Group] = []
        names: dict[str, int] = {}
        for index, process in situation.processes.items():
            self._allowed[index, [node for node in process.allowed_nodes if node <= highest]] = True
            if process.cgroup in situation.limits:
                self._group[index] = names.setdefault(process.cgroup, len(names))
        if names:
            self._enter_groups(situation, names)

    def _enter_groups(self, situation: Situation, names: dict[str, int]) -> None:
        rows = self._candidates
        is_fast = np.isin(rows.node, list(self._fast))
        seen = np.bincount(
            self._group.take(rows.process[is_fast]) + 1, rows.pages[is_fast], minlength=len(names) + 1
        )[1:]
        for name, place in names.items():
            limits = situation.limits[name]
            fast_pages = seen[place] if limits.fast_bytes is None else limits.fast_bytes / PAGE_BYTES
            rate_pages = limits.rate_bytes / PAGE_BYTES
            self._groups.append(_Group(limits, fast_pages, fast_pages - seen[place], rate_pages))

    def groups(self) -> Iterator[Limited]:
        """The cgroups that have limits, as they are now."""
        for place, one in enumerate(self._groups):
            processes = np.flatnonzero(self._group == place).tolist()
            ceiling_pages = one.limits.ceiling_bytes / PAGE_BYTES
            yield Limited(
                processes,
                most_pages=ceiling_pages - one.other_pages,
                share_pages=one.share_pages,
                excess_pages=one.fast_pages - one.other_pages - ceiling_pages,
                spare_pages=one.spare_pages,
                has_floor=one.limits.floor_bytes > 0,
            )

    def barred(self) -> list[int]:
        """The processes of which nothing may be promoted: by their cpuset, or for their cgroup is halted."""
        may: Bools = np.any(self._allowed[:, sorted(self._fast & self.room.keys())], axis=1)
        for place, one in enumerate(self._groups):
            may[self._group == place] &= one.rate_pages >= 1
        return [process for process in self._present if not may[process]]

    def room_to_swap(self, node: int, coming_pages: int) -> int:
        """What the node may take if so many pages may leave it in exchange, which are worth headroom."""
        return self.room[node] + min(self.reserve[node] - self.owed[node], coming_pages)

    def sizes(self, rows: Int64s) -> Int32s:
        """Base pages of each of ``rows``."""
        if self.all_single:  # most often; reading them in the order of heat would miss the caches
            return np.ones(rows.size, np.int32)
        return self._candidates.pages.take(rows)

    def by_group(self, rows: Int64s, is_promotion: bool) -> Uint8s:
        """``Fate.MOVED`` for each of ``rows`` that its cgroup's share and rate have room for, else why not.

        Earlier rows come first.
        """
        fate = np.zeros(rows.size, np.uint8)
        if not self._groups:
            return fate
        group = self._groups_of(rows)
        pages = self.sizes(rows)
        for place, one in enumerate(self._groups):
            mine = group == place
            sums = np.cumsum(pages * mine)
            fate[mine & (sums > one.rate_pages)] = Fate.RATE
            fate[mine & (sums > (one.share_pages if is_promotion else one.spare_pages))] = Fate.GROUP
        return fate

    def affordable_swaps(self, free: Int64s, rows: Int64s, victims: Int64s, partner: Int64s) -> int:
        """How many of ``rows`` the rates of cgroups have pages for, with what goes for them and what comes
        besides.

        ``partner``: up to which of ``victims`` go for each of ``rows``. ``free`` come into room that is free.
        """
        count = rows.size
        for place, one in enumerate(self._groups):
            if np.isfinite(one.rate_pages) and count:
                (coming, going, besides) = (self._running(some, place) for some in (rows, victims, free))
                spent = coming + going.take(partner) + (besides[-1] if besides.size else 0)
                count = min(count, int(np.searchsorted(spent, one.rate_pages, side="right")))
        return count

    def _groups_of(self, rows: Int64s) -> Int32s:
        """The place of each row's cgroup among those with limits, -1 for others."""
        return self._group.take(self._candidates.process.take(rows))

    def _running(self, rows: Int64s, group: int) -> Int64s:
        """The running sum of pages of that cgroup."""
        is_mine = self._groups_of(rows) == group
        return np.cumsum(self.sizes(rows) * is_mine, dtype=np.int64)

    def by_node(self, rows: Int64s, target: int, room_pages: float = float("inf")) -> Uint8s:
        """``Fate.MOVED`` for each of ``rows`` that may and fits into the room on the target, else why not."""
        fate = np.zeros(rows.size, np.uint8)
        allowed = np.ones(rows.size, np.bool_)
        if not self._allowed[self._present, target].all():
            allowed = self._allowed[:, target].take(self._candidates.process.take(rows))
        sums = np.cumsum(self.sizes(rows) * allowed)
        fate[sums > self._rate[target]] = Fate.RATE
        fate[sums > room_pages] = Fate.ROOM
        fate[~allowed] = Fate.FORBIDDEN
        return fate

    def commit(self, rows: Int64s, source: Int16s, target: Int16s, is_promotion: bool) -> None:
        """Deduct moves. What demotions free may be filled again, for they are carried out first."""
        pages = self.sizes(rows)
        for node, count in _sums(target, pages).items():
            self.room[node] -= count
            self._rate[node] -= count
        if not is_promotion:
            for node, count in _sums(source, pages).items():
                self.room[node] += count
        if not self._groups:
            return
        group = self._groups_of(rows)
        for place, one in enumerate(self._groups):
            count = int(pages[group == place].sum(dtype=np.int64))
            one.rate_pages -= count
            one.fast_pages += count if is_promotion else -count


def _sums(node: Int16s, pages: Int32s) -> dict[int, int]:
    sums = np.bincount(node, weights=pages) if node.size else np.empty(0)
    return {int(place): round(sums[place]) for place in np.flatnonzero(sums)}


def accepted(fate: Uint8s) -> Bools:
    """Which rows a fate lets pass."""
    passed: Bools = fate == Fate.MOVED
    return passed
