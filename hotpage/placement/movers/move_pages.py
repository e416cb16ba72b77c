# SPDX-License-Identifier: Apache-2.0
"""Moves by move_pages(2), verified page by page.

The call is full of traps (docs/kernel-interfaces.md): an entry that is there already, or fails, cuts the
batch; a positive return means that some of a batch failed, without saying which, and that the rest was not
tried; statuses are not written then. So every batch is asked about first, holds one entry per folio and one
target, has a sentinel in every status, and is asked about again afterwards: what counts as moved is what the
kernel says is there.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Int64s, Uint8s, aranges, offsets
from hotpage.machine.folios import PAGE_BYTES
from hotpage.machine.identity import ProcessHandle
from hotpage.machine.numa import MPOL_MF_MOVE, MovePages, Statuses, measure_call_s
from hotpage.machine.tiering import tier_changes
from hotpage.placement.budget import CALL_S, BatchSize, TokenBucket
from hotpage.placement.movers import MoveProgress
from hotpage.placement.movers.whereabouts import Whereabouts
from hotpage.placement.outcome import RESULT_OF_ERRNO, MoveOutcome, Outcome, Result
from hotpage.placement.plan import Move, Plan, ProcessFacts

_SENTINEL = -(1 << 20)
"""No status that the kernel writes."""
_ATTEMPTS = 3
_LATER_PAUSES_S = (0.1, 0.3, 0.6)
"""Before armed and busy pages are tried again, after all others."""
_LEAST_SLEEP_S, _POLL_S = 0.001, 0.1
_REPORT_S = 0.1
_CALLS_IN_A_ROUND = 8
"""Between two looks at what is where, at room and at rates: each look costs as much as many pages' moves."""
_ROOM_S = 0.25
"""How long a look at a node's free memory holds: zoneinfo takes longer to read than some calls to end."""
_FIRST_HUGE_BATCH = 8

# What the call's negative return means, for all pages.
_OF_CALL = {
    errno.EACCES: Result.FORBIDDEN,
    errno.ENODEV: Result.NO_NODE,
    errno.ESRCH: Result.GONE,
    errno.EPERM: Result.NOT_PERMITTED,
    errno.ENOMEM: Result.NO_ROOM,
}
_HOPELESS = frozenset({Result.FORBIDDEN, Result.NO_NODE, Result.GONE, Result.NOT_PERMITTED})
"""What holds for all the rest of a move, too."""


@dataclass
class _Calls:
    count: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0

    def note(self, took_s: float) -> None:
        self.count += 1
        self.total_s += took_s
        self.longest_s = max(self.longest_s, took_s)


class _Work:
    """One move under way. ``results`` of each base page; the pages of folio f start at ``first[f]``.

    ``moved``: how many of them did. ``is_single``: every folio is a base page; so folios and pages have the
    same numbers.
    """

    def __init__(self, move: Move) -> None:
        self.move = move
        self.vpn = move.base_vpn()
        self.results: Uint8s = np.zeros(self.vpn.size, np.uint8)
        self.moved = 0
        self.is_single = self.vpn.size == move.vpn.size
        self.largest_bytes = int(move.pages.max(initial=1)) * PAGE_BYTES
        self.first = self.pending = np.arange(move.vpn.size)
        if not self.is_single:
            self.first = offsets(move.pages)
            # Base pages first: huge pages take another batch size.
            self.pending = np.argsort(move.pages > 1, kind="stable")

    def pages_of(self, folios: Int64s) -> Int64s:
        """Places in ``vpn`` of all pages of some folios."""
        if self.is_single:
            return folios
        return aranges(self.first.take(folios), self.move.pages.take(folios))

    def first_of(self, folios: Int64s, most_bytes: float) -> Int64s:
        """The first of some folios that are no more than so many bytes."""
        if most_bytes >= folios.size * self.largest_bytes:
            return folios
        sums = np.cumsum(self.move.pages[folios], dtype=np.int64) * PAGE_BYTES
        return folios[: int(np.searchsorted(sums, most_bytes, side="right"))]

    def settle(self, folios: Int64s, result: Result) -> None:
        """All pages of these folios that have no result yet get one."""
        places = self.pages_of(folios)
        self.results[places[self.results[places] == Result.UNTRIED]] = result


class MovePagesMover:
    """Carries out plans. ``room_bytes(node, freed_bytes)``: what a node can still take after this plan has
    freed so much there; ``rates``: token buckets.

    Buckets by node number and by cgroup path; a missing one means no limit. ``call_s``: what a call is to end
    within. ``around``: held while pages move to a faster tier. Raises
    UnsupportedError where there is no such system call.
    """

    def __init__(
        self,
        where: Whereabouts | None = None,
        *,
        room_bytes: Callable[[int, float], float] = lambda node, freed_bytes: float("inf"),
        rates: Mapping[int | str, TokenBucket] | None = None,
        call_s: float = CALL_S,
        around: Callable[[], AbstractContextManager[None]] = tier_changes,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        fixed_s = 0.0
        if where is None:
            where = Whereabouts.here()
            fixed_s = measure_call_s(MovePages())
        self._where = where
        self._kernel = where.kernel
        self._around = around
        self._room_bytes = room_bytes
        self._rates = rates or {}
        self._clock = clock
        self._sleep = sleep
        self._rooms: dict[int, tuple[float, float]] = {}
        self._freed: Counter[int] = Counter()
        self._sizes = {
            False: BatchSize(fixed_s, call_s),
            True: BatchSize(fixed_s, call_s, first=_FIRST_HUGE_BATCH),
        }

    def run(
        self,
        plan: Plan,
        processes: Mapping[int, ProcessFacts],
        should_stop: Callable[[], object] = lambda: None,
        on_progress: Callable[[MoveProgress], None] = lambda progress: None,
    ) -> Outcome:
        """Carry the plan out, in its order; what is not tried when ``should_stop`` is said so."""
        is_upward = any(move.is_promotion for move in plan.moves)
        with self._around() if is_upward else nullcontext():
            return self._run(plan, processes, should_stop, on_progress)

    def _run(
        self,
        plan: Plan,
        processes: Mapping[int, ProcessFacts],
        should_stop: Callable[[], object],
        on_progress: Callable[[MoveProgress], None],
    ) -> Outcome:
        begun_s = self._clock()
        calls = _Calls()
        self._freed.clear()
        works = [_Work(move) for move in plan.moves]
        later: list[tuple[_Work, Int64s]] = []

        reported_s = begun_s

        def report(last: bool = False) -> None:
            nonlocal reported_s
            if not last and self._clock() - reported_s < _REPORT_S:  # counting takes time as well
                return
            reported_s = self._clock()
            settled = sum(int(np.count_nonzero(work.results)) for work in works)  # UNTRIED is 0
            moved = sum(work.moved for work in works)
            total = sum(work.results.size for work in works)
            on_progress(MoveProgress(total * PAGE_BYTES, settled * PAGE_BYTES, moved * PAGE_BYTES))

        for work in works:
            waiting = self._carry_out(work, processes[work.move.process], calls, should_stop, report)
            if waiting.size:
                later.append((work, waiting))
        for pause_s in _LATER_PAUSES_S:
            if not later or should_stop():
                break
            self._sleep(pause_s)
            again = []
            for work, folios in later:
                places = work.pages_of(folios)
                retried = np.isin(work.results[places], (Result.ARMED, Result.BUSY))
                work.results[places[retried]] = Result.UNTRIED
                work.pending = folios
                waiting = self._carry_out(work, processes[work.move.process], calls, should_stop, report)
                if waiting.size:
                    again.append((work, waiting))
            later = again
        report(last=True)
        return Outcome(
            [MoveOutcome(work.move, work.results) for work in works],
            self._clock() - begun_s,
            calls.count,
            calls.total_s,
            calls.longest_s,
        )

    def _carry_out(
        self,
        work: _Work,
        facts: ProcessFacts,
        calls: _Calls,
        should_stop: Callable[[], object],
        report: Callable[[], None],
    ) -> Int64s:
        """Try all pending folios of a move; those that may succeed a little later."""
        handle = self._where.open(facts)
        if handle is None:
            work.settle(work.pending, Result.GONE)
            return work.pending[:0]
        tried = work.pending
        attempts = 0
        with handle:
            while work.pending.size and attempts < _ATTEMPTS:
                stuck: list[Int64s] = []
                while work.pending.size and not should_stop():
                    folios = self._next_round(work, facts, should_stop)
                    if not folios.size:
                        break
                    stuck.append(self._try(work, folios, handle, facts.cgroup, calls, should_stop))
                    report()
                if work.pending.size:  # told to stop, or no room
                    break
                work.pending = np.concatenate([*stuck, work.pending])
                attempts += 1
            if work.pending.size and attempts == _ATTEMPTS:
                work.settle(work.pending, Result.PINNED)
        work.pending = work.pending[:0]
        results = work.results[work.first[tried]]
        waiting: Int64s = tried[(results == Result.ARMED) | (results == Result.BUSY)]
        return waiting

    def _next_round(self, work: _Work, facts: ProcessFacts, should_stop: Callable[[], object]) -> Int64s:
        """The next folios that size, room and rates allow; empty when there is no room or a stop is asked."""
        target = work.move.target
        is_huge = bool(work.move.pages[work.pending[0]] > 1)
        batch = work.pending[: _CALLS_IN_A_ROUND * self._sizes[is_huge].folios]
        if not work.is_single:
            batch = batch[(work.move.pages[batch] > 1) == is_huge]
        batch = work.first_of(batch, self._room(target))
        if not batch.size:
            work.settle(work.pending, Result.NO_ROOM)
            work.pending = work.pending[:0]
            return batch
        buckets = self._buckets(target, facts.cgroup)
        least_bytes = int(work.move.pages[batch[0]]) * PAGE_BYTES
        while buckets and not should_stop():
            wait_s = max(bucket.wait_s(least_bytes) for bucket in buckets)
            if wait_s <= 0:
                allowed = work.first_of(batch, min(bucket.available for bucket in buckets))
                return batch[: max(allowed.size, 1)]
            self._sleep(min(max(wait_s, _LEAST_SLEEP_S), _POLL_S))
        return batch[:0] if buckets else batch

    def _room(self, node: int) -> float:
        """Bytes that a node can take, by a look not long ago less what was moved there since."""
        now_s = self._clock()
        if node not in self._rooms or now_s - self._rooms[node][1] > _ROOM_S:
            self._rooms[node] = (self._room_bytes(node, max(self._freed[node], 0)), now_s)
        return self._rooms[node][0]

    def _took(self, node: int, cgroup: str, count_bytes: int) -> None:
        """So much was moved to a node."""
        self._freed[node] -= count_bytes
        if node in self._rooms:
            room, seen_s = self._rooms[node]
            self._rooms[node] = (room - count_bytes, seen_s)
        for bucket in self._buckets(node, cgroup):
            bucket.take(count_bytes)

    def _buckets(self, target: int, cgroup: str) -> list[TokenBucket]:
        return [self._rates[key] for key in (target, cgroup) if key in self._rates]

    def _try(
        self,
        work: _Work,
        folios: Int64s,
        handle: ProcessHandle,
        cgroup: str,
        calls: _Calls,
        should_stop: Callable[[], object],
    ) -> Int64s:
        """Calls for the first folios pending, and the questions before and after; those to try again.

        What the calls do not come to stays pending.
        """
        move, pid = work.move, handle.pid
        before = self._kernel.query(pid, move.vpn[folios])
        if not handle.is_same():
            work.settle(work.pending, Result.GONE)
            work.pending = work.pending[:0]
            return work.pending
        on_source = before == move.source
        count = folios.size
        place = np.arange(count) if on_source.all() else np.flatnonzero(on_source)
        if place.size < count:
            self._settle_by_status(work, folios, before, pid, Result.ALREADY)
            folios = folios[place]
        if not folios.size:
            work.pending = work.pending[count:]
            return folios
        addresses = move.vpn[folios].astype(np.uint64) * np.uint64(PAGE_BYTES)
        status = np.full(folios.size, _SENTINEL, np.int32)
        nodes = np.full(folios.size, move.target, np.int32)
        size = self._sizes[bool(move.pages[folios[0]] > 1)]
        first = end = returned = 0
        is_same = True
        while returned == 0 and is_same and end < folios.size and not (end and should_stop()):
            if end and folios.size - end < size.folios and work.pending.size > count:
                break  # the rest is no call of its own
            first, end = end, min(end + size.folios, folios.size)
            call = slice(first, end)
            begun_s = self._clock()
            returned = self._kernel(pid, addresses[call], nodes[call], status[call], MPOL_MF_MOVE)
            took_s = self._clock() - begun_s
            size.learn(end - first, took_s)
            calls.note(took_s)
            is_same = handle.is_same()
        work.pending = work.pending[place[end] if end < place.size else count :]
        if returned == 0 and is_same:
            first = end  # the last call is like the others
        left = self._verify(work, folios[:first], status[:first], 0, handle, True, cgroup)
        if first == end:
            return left
        rest = slice(first, end)
        more = self._verify(work, folios[rest], status[rest], returned, handle, is_same, cgroup)
        return np.concatenate((left, more))

    def _verify(
        self,
        work: _Work,
        folios: Int64s,
        status: Statuses,
        returned: int,
        handle: ProcessHandle,
        was_same: bool,
        cgroup: str,
    ) -> Int64s:
        """See where every page is now; the folios that neither moved nor failed for a known reason.

        A call that returns 0 says where it has put each folio. Otherwise, and of huge pages, which it may
        have split, every page is asked about. ``was_same``: after the call it was the process that is meant.
        """
        move = work.move
        places = work.pages_of(folios)
        if returned == 0 and was_same and work.is_single and (status == move.target).all():
            self._note_moved(work, places, cgroup)
            return folios[:0]
        now = self._kernel.query(handle.pid, work.vpn[places])
        is_same = handle.is_same()
        if not is_same:  # what was said may be about another process
            now[:] = -errno.ESRCH
        there = places[(now == move.target) & (work.results[places] == Result.UNTRIED)]
        self._note_moved(work, there, cgroup)
        if there.size == places.size:
            return folios[:0]
        heads = now[offsets(move.pages[folios])]
        rest = heads != move.target
        # One that is just ending, without memory already, is EINVAL to the kernel.
        result = _OF_CALL.get(-returned, Result.REFUSED) if is_same else Result.GONE
        if returned < 0 and result != Result.NO_ROOM:
            work.settle(folios, result)
            if result in _HOPELESS:
                work.settle(work.pending, result)
                work.pending = work.pending[:0]
            return folios[:0]
        # A page that is not there any more says so when it is asked about; the move's status says why not.
        told = np.where(heads < 0, heads, np.where((status < 0) & (status != _SENTINEL), status, 0))
        self._settle_by_status(work, folios[rest], told[rest], handle.pid, None)
        left: Int64s = folios[rest & (told == 0)]
        split = folios[~rest & (move.pages[folios] > 1)]
        work.settle(split, Result.NO_ROOM)  # a huge page that was split, and only a part of it found room
        if returned == -errno.ENOMEM:
            work.settle(left, Result.NO_ROOM)
            if not there.size:  # really full: every further call would make the kernel reclaim in vain
                work.settle(work.pending, Result.NO_ROOM)
                work.pending = work.pending[:0]
            return left[:0]
        return left

    def _note_moved(self, work: _Work, places: Int64s, cgroup: str) -> None:
        work.results[places] = Result.MOVED
        work.moved += places.size
        self._freed[work.move.source] += places.size * PAGE_BYTES
        self._took(work.move.target, cgroup, places.size * PAGE_BYTES)

    def _settle_by_status(
        self, work: _Work, folios: Int64s, status: Statuses, pid: int, there: Result | None
    ) -> None:
        """Results for the folios whose status says one; those on their source, or of status 0, get none."""
        move = work.move
        if there is not None:
            places = work.pages_of(folios[status == move.target])
            if (move.pages[folios] > 1).any():  # of a huge page that was split, parts may be elsewhere
                node = self._kernel.query(pid, work.vpn[places])
                work.results[places[node != move.target]] = Result.ELSEWHERE
            work.settle(folios[status == move.target], there)
            work.settle(
                folios[(status >= 0) & (status != move.target) & (status != move.source)], Result.ELSEWHERE
            )
        for code in np.unique(status[status < 0]).tolist():
            mine = folios[status == code]
            if -code == errno.ENOENT and self._where.hides_armed:
                present = self._where.is_present(pid, move.vpn[mine])
                work.settle(mine[present], Result.ARMED)
                mine = mine[~present]
            work.settle(mine, RESULT_OF_ERRNO.get(-code, Result.REFUSED))
