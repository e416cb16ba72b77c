# SPDX-License-Identifier: Apache-2.0
"""What all policies share: which pages are hot, who may move at all, and filling nodes by swaps.

``Choice`` classifies every candidate once and then only touches the rows that could move. A policy orders
rows; ``fill`` promotes them in that order, first into free room and then 1:1 against the coldest pages of the
target, which are demoted first.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hotpage.arrays import Bools, Float64s, Int16s, Int64s, Uint8s, Uint32s
from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.allotment import Allotment, accepted
from hotpage.placement.census import FAST, GONE, SLOW, Census, places
from hotpage.placement.gate import Gate
from hotpage.placement.history import page_keys
from hotpage.placement.pairing import Swaps, paired
from hotpage.placement.plan import (
    ABSENT,
    Aim,
    Fate,
    Move,
    Plan,
    Situation,
    gap_ns,
    horizons_s,
    moves_of,
    route,
)
from hotpage.placement.ranking import (
    KEY_COUNT,
    OCTAVE,
    UNKNOWN_KEY,
    chunks,
    coldest_first,
    hottest_first,
    hottest_that_fit,
    key_rate_hz,
    rank_keys,
)

_SLACK, _LEAST_VICTIMS = 1.25, 4096
_UNKNOWN, _KNOWN, _COLD, _WARM, _HOT = range(5)
# What becomes of a row by heat and place, unless something else is said of it.
_FATES = np.full((5, 4), Fate.LEFT_ALONE, np.uint8)
_FATES[:, GONE] = Fate.ABSENT
_FATES[_UNKNOWN, (FAST, SLOW)] = Fate.UNKNOWN
_FATES[_KNOWN, (FAST, SLOW)] = Fate.NOT_CHOSEN
_FATES[_COLD, (FAST, SLOW)] = Fate.NOT_NEEDED, Fate.COLD_IN_PLACE
_FATES[_WARM, (FAST, SLOW)] = Fate.WARM
_FATES[_HOT, (FAST, SLOW)] = Fate.HOT_IN_PLACE, Fate.NOT_CHOSEN
_BY_CLASS = 255
"""In place of a row's fate: what ``_FATES`` says of its heat and place, which is enough for most rows."""


class Choice:
    """A plan in the making. ``key``: rank keys, weighted by cgroup; ``fate``: see ``_BY_CLASS``."""

    def __init__(self, situation: Situation, aim: Aim) -> None:
        self.situation, self.aim = situation, aim
        self.places = places(situation.nodes, aim)
        self.allotment = Allotment(situation, self.places.fast)
        self.census = Census(situation, self.places, self.allotment)
        self.key = self.census.key
        self.fate: Uint8s = np.full(len(situation.candidates), _BY_CLASS, np.uint8)
        self.capacity, self._payable = self._capacity()
        self._fates = _fates_by_key(None, Fate.NOT_CHOSEN)
        self._routes: list[tuple[Int64s, Uint32s]] = []
        self._held: Int64s = np.empty(0, np.int64)
        self._horizon_s = horizons_s(situation)
        self.hot_key = UNKNOWN_KEY
        self.ran_short = False
        """Whether more victims could have made a difference."""

    def _highest_node(self) -> int:
        nodes = [room.node for room in self.situation.nodes]
        return max(*nodes, int(self.situation.candidates.node.max(initial=0)), 0)

    def _capacity(self) -> tuple[float, float]:
        """What the fast nodes can hold of the candidates, in pages, and how many have to go for the headroom.

        That is what they have there now, and the free room above the headroom. If others have used the
        headroom, the candidates give back what they have beyond its size, and no more: however much others
        take, as long as the high watermark is kept, so many pages can still change places. Nothing is given
        back on one fast node while another has as much room.
        """
        allotment, fast = self.allotment, self.places.fast & self.allotment.room.keys()
        room = [allotment.room[node] for node in fast]
        held = float(self.census.fast_by_key.sum()) + sum(room)
        least = min(held, float(sum(allotment.reserve[node] for node in fast)))
        owed = sum(allotment.owed[node] for node in fast) - sum(max(pages, 0) for pages in room)
        capacity = max(held - max(owed, 0), least)
        return capacity, max(held - capacity, 0.0)

    def capacity_key(self) -> int:
        """The key from which pages are hot when the hottest fill the capacity.

        Pages that are kept out of fast memory need no room there: those that may not come now, and of a
        cgroup with a ceiling all but the hottest.
        """
        stranded, process = self._stranded(), self.situation.candidates.process
        by_key = self.known_by_key - self.census.by_key(stranded)
        for group in self.allotment.groups():
            if np.isfinite(group.most_pages):
                of_group = self.census.by_key(self.census.rows_of(group.processes, FAST, SLOW))
                of_group -= self.census.by_key(stranded[np.isin(process.take(stranded), group.processes)])
                least_key = hottest_that_fit(of_group, group.most_pages)
                by_key[:least_key] -= of_group[:least_key]
        return hottest_that_fit(by_key, self.capacity)

    def _stranded(self) -> Int64s:
        """Rows on slow nodes that no plan could promote now."""
        barred = self.census.rows_of(self.allotment.barred(), SLOW)
        waiting = self.situation.history.waiting(self.situation.now_s)
        return np.union1d(barred, self.census.rows_at(waiting, SLOW)) if waiting.size else barred

    @property
    def known_by_key(self) -> Float64s:
        """Pages of known rate on all nodes that count, by key."""
        by_key: Float64s = self.census.fast_by_key + self.census.slow_by_key
        return by_key

    def victims_of(self, processes: Iterable[int], most_key: int) -> Int64s:
        """Their pages in fast memory up to a key that nothing keeps but a floor of their cgroup's or their
        youth, coldest first.
        """
        rows = self.census.rows_of(processes, FAST)
        is_free = np.isin(self.fate.take(rows), (_BY_CLASS, Fate.GROUP, Fate.YOUNG))
        return coldest_first(self._free_to_move(rows[(self.key.take(rows) <= most_key) & is_free]), self.key)

    def old_enough(self, rows: Int64s) -> Int64s:
        """Those whose processes are not too young to tell what is cold."""
        young = np.zeros(self.situation.process_count, np.bool_)
        for index, process in self.situation.processes.items():
            young[index] = process.age_s < self.aim.young_s
        if not young.any():
            return rows
        return self.drop(rows, young.take(self.situation.candidates.process.take(rows)), Fate.YOUNG)

    def key_of_aim(self) -> int | None:
        """The hot key that the aim names by rate or by size, if it does."""
        if self.aim.hot_rate_hz is not None:
            return int(rank_keys(np.array([self.aim.hot_rate_hz], np.float32))[0])
        if self.aim.hot_bytes is not None:
            return hottest_that_fit(self.known_by_key, self.aim.hot_bytes / PAGE_BYTES)
        return None

    def victim_keys(self, least_key: int) -> tuple[int, int]:
        """Keys from which on no page of a fast node has to go: likely, and surely.

        Likely: the coldest, a quarter more of them than what may come from ``least_key`` on. Surely: all that
        are an octave colder than the hottest slow page, or simply all where the headroom has to be restored.
        """
        room = sum(self.allotment.room.get(node, 0) for node in self.places.fast)
        need = float(self.census.slow_by_key[least_key:].sum()) - room + self._payable
        sums = np.cumsum(self.census.fast_by_key)
        likely = int(np.searchsorted(sums, _SLACK * need + _LEAST_VICTIMS)) + 1
        present = np.flatnonzero(self.census.slow_by_key)
        surely = max(int(present[-1]) + 1 - OCTAVE, 0) if present.size else 0
        if self._is_short:
            surely = UNKNOWN_KEY
        if likely < surely and sums[surely - 1] < 2 * sums[likely - 1]:
            likely = surely  # to look at all is quicker than perhaps to look twice
        return min(likely, surely), surely

    def classify(
        self, hot_key: int, least_key: int = 0, victim_key: int = 0, idle: Fate = Fate.NOT_CHOSEN
    ) -> tuple[Int64s, Int64s]:
        """Give every row its fate unless chosen; hot rows on slow nodes, and rows that may leave fast ones.

        Hot rows under ``least_key`` are left out, with the fate ``idle``. Rows under ``victim_key`` or an
        octave under hot may leave. Rows that history holds back, and young ones that may leave, are left out.
        """
        self.hot_key = hot_key
        self._fates = _fates_by_key(hot_key, idle)
        if hot_key >= UNKNOWN_KEY:  # nothing fits: that a page is cold is not why it stays
            self._fates[SLOW, self.least_key() : UNKNOWN_KEY] = Fate.ROOM
        above, below = max(hot_key, least_key), max(hot_key - OCTAVE, min(victim_key, UNKNOWN_KEY))
        ups, downs = [], []
        for part in chunks(self.fate.size):
            key, place = self.key[part], self.census.place[part]
            up = (place == SLOW) & (key >= above) & (key < UNKNOWN_KEY)
            ups.append(np.flatnonzero(up) + part.start)
            downs.append(np.flatnonzero((place == FAST) & (key < below)) + part.start)
        return self._free_to_move(_joined(ups)), self.old_enough(self._free_to_move(_joined(downs)))

    @property
    def _is_short(self) -> bool:
        """Whether a fast node is below its high watermark, or has to give something back."""
        return self._payable > 0 or any(self.allotment.room.get(node, 0) < 0 for node in self.places.fast)

    def known(self, nodes: Iterable[int]) -> Int64s:
        """The rows of known rate on some nodes."""
        wanted = np.isin(self.situation.candidates.node, list(nodes))
        return self._free_to_move(np.flatnonzero((self.key < UNKNOWN_KEY) & wanted))

    def _free_to_move(self, rows: Int64s) -> Int64s:
        history = self.situation.history
        if not rows.size or not (history.moved.size or history.failed.size):
            return rows
        candidates = self.situation.candidates
        process = candidates.process.take(rows)
        keys = page_keys(process, candidates.vpn.take(rows))
        lately = history.moved_lately(keys, self.situation.now_s, self._horizon_s.take(process))
        if self._is_short:  # else those that were moved first would have to go, and they are the hottest
            lately &= self.census.place.take(rows) != FAST
        self._held = np.concatenate((self._held, rows[lately]))
        rows = self.drop(rows, lately, Fate.BOUNCE)
        keys = page_keys(candidates.process.take(rows), candidates.vpn.take(rows))
        return self.drop(rows, history.is_waiting(keys, self.situation.now_s), Fate.FAILED_BEFORE)

    def drop(self, rows: Int64s, mask: Bools, fate: Fate) -> Int64s:
        """The rows without those of ``mask``, which get the fate."""
        self.fate[rows[mask]] = fate
        return rows[~mask]

    def excuse(self, rows: Int64s, victims: Int64s, gate: Gate) -> None:
        """Of the rows that were moved lately, only those are bounces that would go back now if they could.

        ``rows`` had no room and ``victims`` might go, both in order; what did move is passed over.
        """
        held, self._held = self._held, self._held[:0]
        if not held.size:
            return
        self.fate[held] = _BY_CLASS
        is_slow = self.census.place.take(held) == SLOW
        back = self.settle(held[is_slow], self.allotment.by_group(held[is_slow], is_promotion=True))
        rows = np.concatenate((rows, back))
        victims = np.concatenate((self.unmoved(victims), held[~is_slow]))
        rows, victims = hottest_first(rows, self.key), coldest_first(victims, self.key)
        on = self.situation.candidates.node.take(victims)
        for node in self.places.fast & self.allotment.room.keys():
            room, there = max(self.allotment.room[node], 0), victims[on == node]
            rows = rows[gate.worth_promoting(rows, node)]
            free = int(np.searchsorted(np.cumsum(self.allotment.sizes(rows)), room, side="right"))
            swaps = paired(self.allotment, rows[free:], there, 0, node, gate, rows[:free])
            going = np.concatenate((rows[:free], swaps.rows[: swaps.count], there[swaps.order[: swaps.used]]))
            self.fate[np.intersect1d(going, held)] = Fate.BOUNCE
            rows = swaps.rows[swaps.count :]

    def settle(self, rows: Int64s, fates: Uint8s) -> Int64s:
        """The rows that a limit lets pass; the others get their fates."""
        passed = accepted(fates)
        self.fate[rows[~passed]] = fates[~passed]
        return rows[passed]

    def least_key(self) -> int:
        """The key under which no promotion is worth its cost, whatever the pair of nodes and the weight."""
        gap = max((self.gaps_ns(node).max() for node in self.places.fast), default=0.0)
        costs = self.situation.costs
        if gap <= 0:
            return UNKNOWN_KEY
        rate_hz = costs.margin * costs.promotion_s / (gap * 1e-9 * costs.horizon_s)
        rate_hz *= float(self.census.weight.min(initial=1))
        return int(rank_keys(np.array([rate_hz], np.float32))[0])

    def gaps_ns(self, target: int) -> Float64s:
        """What an access gains on ``target``, by the node it is on now; 0 for nodes that nobody knows."""
        rooms = self.situation.nodes
        gaps = np.zeros(self._highest_node() + 1)
        for room in rooms:
            gaps[room.node] = gap_ns(self.situation, room.node, target)
        return gaps

    def nearest(self, source: int, targets: Iterable[int]) -> list[int]:
        """The targets by distance from the source, then by number."""
        known = self.situation.room_of[source].distances
        return sorted(set(targets) - {source}, key=lambda node: (known.get(node, 255), node))

    def promotion_order(self) -> list[int]:
        """The fast nodes, the nearest to the slow ones first."""
        fast = self.places.fast & frozenset(room.node for room in self.situation.nodes)
        source = min(self.places.slow, default=None)
        return sorted(fast) if source is None else self.nearest(source, fast)

    def demotable(
        self, rows: Int64s, targets: list[int], coming: Int64s | None = None, *, in_group: bool = False
    ) -> tuple[Int64s, Int16s, Uint8s]:
        """Those of ``rows``, in order, that could be demoted; their targets; the fates of all ``rows``.

        ``coming``: rows that might be promoted in exchange. ``in_group``: they are of the same cgroup, which
        loses nothing then.
        """
        fates = np.zeros(rows.size, np.uint8)
        if not in_group:
            fates = self.allotment.by_group(rows, is_promotion=False)
        target = np.full(rows.size, ABSENT, np.int16)
        left = np.flatnonzero(accepted(fates))
        fates[left] = Fate.ROOM
        for node in targets:
            room = self.allotment.room[node]
            if coming is not None:
                from_there = coming[self.situation.candidates.node.take(coming) == node]
                room = self.allotment.room_to_swap(node, int(self.allotment.sizes(from_there).sum()))
            answer = self.allotment.by_node(rows[left], node, room)
            fates[left] = answer
            target[left[accepted(answer)]] = node
            left = left[~accepted(answer)]
        passed = target != ABSENT
        return rows[passed], target[passed], fates

    def demote(self, rows: Int64s, targets: list[int], need_pages: float = float("inf")) -> None:
        """Demote ``rows`` in order until ``need_pages`` are."""
        could, target, fates = self.demotable(rows, targets)
        count = self.until(need_pages, could)
        if count == could.size:
            self.settle(rows, fates)
        self.commit(could[:count], target[:count], is_promotion=False)

    def commit(self, rows: Int64s, target: Int16s, is_promotion: bool, is_eviction: bool = False) -> None:
        """These rows will move."""
        self.fate[rows] = Fate.MOVED
        if rows.size:
            source = self.situation.candidates.node.take(rows)
            self._routes.append((rows, route(source, target, is_promotion, is_eviction)))
            self.allotment.commit(rows, source, target, is_promotion)

    def fill(self, node: int, rows: Int64s, victims: Int64s, gate: Gate | None) -> Int64s:
        """Promote ``rows`` to a node, in order, against ``victims`` there; the rows it had no room for.

        Without a gate every swap is as good as another.
        """
        allotment = self.allotment
        if gate is not None:
            rows = self.drop(rows, ~gate.worth_promoting(rows, node), Fate.NOT_WORTH_IT)
        rows = self.settle(rows, allotment.by_group(rows, is_promotion=True))
        fates = allotment.by_node(rows, node)
        left_over = rows[~accepted(fates)]
        rows = self.settle(rows, fates)
        room = allotment.room[node]
        sums = np.cumsum(allotment.sizes(rows), dtype=np.int64)
        free = int(np.searchsorted(sums, max(room, 0), side="right"))
        spare = room - (int(sums[free - 1]) if free else 0)
        targets = self.nearest(node, self.places.demote_to)
        could, target, fates = self.demotable(victims, targets, rows)
        if spare < 0:  # below the high watermark: whether anything is promoted or not
            first = self.until(-spare, could)
            self.commit(could[:first], target[:first], is_promotion=False)
            spare = allotment.room[node]
            could, target = could[first:], target[first:]
        swaps = paired(self.allotment, rows[free:], could, spare, node, gate, rows[:free])
        rest = swaps.rows[swaps.count :]
        self.fate[rest] = swaps.why_not
        short_of_victims = swaps.used == could.size
        self.ran_short |= bool(rest.size and short_of_victims) or spare < 0
        if rest.size and short_of_victims:
            self.settle(victims[~accepted(fates)], fates[~accepted(fates)])
        self._exchange(node, rows[:free], swaps, could, target)
        if allotment.owed[node] and self._payable > 0:
            self._pay_back(node, self.unmoved(could), targets)
        return np.concatenate((left_over, rest))

    def swap(
        self, node: int, rows: Int64s, victims: Int64s, gate: Gate, spare_pages: float = float("inf")
    ) -> Int64s:
        """Have ``rows`` change places with ``victims`` of the same cgroup on a node, as far as that is worth
        it; those left. At most ``spare_pages`` more go than come.
        """
        is_able = accepted(self.allotment.by_node(rows, node))
        targets = self.nearest(node, self.places.demote_to)
        could, target, _ = self.demotable(victims, targets, rows, in_group=True)
        swaps = paired(self.allotment, rows[is_able], could, 0, node, gate, rows[:0], spare_pages)
        self._exchange(node, rows[:0], swaps, could, target)
        return self.unmoved(rows)

    def _exchange(self, node: int, rows: Int64s, swaps: Swaps, could: Int64s, target: Int16s) -> None:
        """Promote ``rows`` and those of ``swaps``; their victims among ``could`` go to their targets."""
        used = swaps.order[: swaps.used]
        self.commit(could[used], target[used], is_promotion=False)
        promoted = np.concatenate((rows, swaps.rows[: swaps.count]))
        self.commit(promoted, np.full(promoted.size, node, np.int16), is_promotion=True)

    def unmoved(self, rows: Int64s) -> Int64s:
        """Those that will not move, as far as is decided."""
        left: Int64s = rows[self.fate.take(rows) != Fate.MOVED]
        return left

    def until(self, need_pages: float, rows: Int64s) -> int:
        """How many of ``rows`` have so many pages together, or all."""
        if need_pages <= 0:
            return 0
        made = np.cumsum(self.allotment.sizes(rows), dtype=np.int64)
        return min(int(np.searchsorted(made, need_pages, side="left")) + 1, rows.size)

    def _pay_back(self, node: int, victims: Int64s, targets: list[int]) -> None:
        """Demote the first of ``victims``, as many as have to go for the headroom."""
        rows, target, _ = self.demotable(victims, targets)
        need_pages = min(self.allotment.owed[node] - max(self.allotment.room[node], 0), self._payable)
        count = self.until(need_pages, rows)
        paid = int(self.allotment.sizes(rows[:count]).sum(dtype=np.int64))
        self.ran_short |= paid < need_pages
        self._payable -= paid
        self.commit(rows[:count], target[:count], is_promotion=False)

    def plan(self, policy: str, reasons: tuple[str, str], knows_hot: bool = True) -> Plan:
        """The plan; ``reasons`` of demotions and promotions."""
        return Plan(
            policy,
            self._moves(reasons),
            self._kept_bytes(),
            key_rate_hz(self.hot_key) if knows_hot and self.hot_key < UNKNOWN_KEY else float("nan"),
            self._every_fate() if self.aim.explain else np.empty(0, np.uint8),
        )

    def _moves(self, reasons: tuple[str, str]) -> tuple[Move, ...]:
        rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in self._routes)])
        routes = np.concatenate([np.empty(0, np.uint32), *(routes for _, routes in self._routes)])
        order = np.argsort(rows)
        rows = rows[order]
        return moves_of(self.situation, rows, self.allotment.sizes(rows), routes[order], reasons)

    def _every_fate(self) -> Uint8s:
        return np.where(self.fate == _BY_CLASS, self._fates[self.census.place, self.key], self.fate)

    def _kept_bytes(self) -> dict[Fate, int]:
        """Bytes by fate, moved ones left out: by class, put right by the rows with a fate of their own."""
        sums = np.bincount(self._fates.reshape(-1), self.census.pages.reshape(-1), len(Fate))
        rows = _joined(
            [np.flatnonzero(self.fate[part] != _BY_CLASS) + part.start for part in chunks(self.fate.size)]
        )
        pages = self.allotment.sizes(rows)
        sums -= np.bincount(self._fates[self.census.place.take(rows), self.key.take(rows)], pages, len(Fate))
        sums += np.bincount(self.fate.take(rows), pages, len(Fate))
        return {kind: round(sums[kind]) * PAGE_BYTES for kind in Fate if kind and round(sums[kind])}


def _fates_by_key(hot_key: int | None, idle: Fate) -> Uint8s:
    """Fate by place and key, uint8[4, KEY_COUNT]; ``idle`` of hot rows on slow nodes.

    Without a hot key nothing is known of a row but whether its rate is.
    """
    heat = np.full(KEY_COUNT, _KNOWN, np.uint8)
    if hot_key is not None:
        heat[:] = _COLD
        heat[max(hot_key - OCTAVE, 0) :] = _WARM
        heat[hot_key:] = _HOT
    heat[UNKNOWN_KEY:] = _UNKNOWN
    fates = _FATES.copy()
    fates[_HOT, SLOW] = idle
    return np.ascontiguousarray(fates[heat].T)


def _joined(parts: list[Int64s]) -> Int64s:
    return np.concatenate([np.empty(0, np.int64), *parts])
