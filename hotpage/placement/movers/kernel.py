# SPDX-License-Identifier: Apache-2.0
"""Moves by the kernel's own promotion and demotion, told how much and, by a threshold, what is hot.

The kernel chooses the pages: by hint faults those to promote, by its lists those to demote, and of every
process. So what becomes of the plan's pages is read back page by page, and what it did besides is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from hotpage.arrays import Bools, Int64s, Uint8s
from hotpage.machine.folios import PAGE_BYTES
from hotpage.machine.tiering import TieringCounters
from hotpage.placement.movers import MoveProgress
from hotpage.placement.movers.whereabouts import Whereabouts
from hotpage.placement.outcome import MoveOutcome, Outcome, Result
from hotpage.placement.plan import Costs, Move, Plan, ProcessFacts

_LOOK_S = 1.0
"""Between two looks at what has been promoted; the kernel counts its rate by the second, too."""
_DEMOTED_AT_ONCE = 8 << 20
_IDLE_TRIES = 3
_LEAST_RATE = 0.25
"""MiB/s under which promotion is given up: it has not been worth it for seconds."""
_MIB = 1 << 20


class Tiering(Protocol):
    """What the mover asks of the kernel; machine.tiering.KernelTiering, or a fake one in tests."""

    def require_promotion(self) -> None:
        """Raise UnsupportedError where there is none."""

    def require_demotion(self, node: int, cgroup: str) -> None:
        """Raise UnsupportedError where there is none."""

    def allow_promotion(self, hot_hz: float) -> tuple[str, ...]:
        """Begin, at a rate of nothing; notes for people."""

    def limit_promotion(self, mib_per_s: int) -> None:
        """Set the rate."""

    def allow_demotion(self) -> None:
        """Let reclaim demote."""

    def demote(self, node: int, cgroup: str, size_bytes: int) -> bool:
        """Have so much of a node reclaimed; whether it was."""

    def counters(self) -> TieringCounters:
        """Pages moved since boot."""


class _Work:
    """One move. ``results`` of each base page; ``pending``: places of those on their source so far."""

    def __init__(self, move: Move, facts: ProcessFacts) -> None:
        self.move, self.facts = move, facts
        self.vpn = move.base_vpn()
        self.results: Uint8s = np.zeros(self.vpn.size, np.uint8)
        self.pending: Int64s = np.arange(self.vpn.size)
        self.is_hidden: Bools = np.zeros(self.vpn.size, np.bool_)
        """Of those pending: armed, on a kernel that does not tell where such pages are."""
        self.was_tried = False


def steered(rate: float, ceiling: float, promoted: int, gain_s: float, costs: Costs) -> float:
    """The next rate in MiB/s: doubled while what was promoted gains more than it costs, else halved.

    ``promoted``: pages of whatever process; ``gain_s``: stall time that those among them save which the plan
    asked for. Nothing promoted says nothing.
    """
    if not promoted:
        return rate
    is_worth_it = gain_s > costs.margin * promoted * costs.promotion_s
    return min(2 * rate, ceiling) if is_worth_it else rate / 2


class KernelMover:
    """Carries plans out as far as the kernel does. ``promotion_s``: for how long it may promote.

    ``run`` raises UnsupportedError, before anything is changed, where the kernel cannot do what the plan
    asks for, and KnobError.
    """

    def __init__(
        self,
        tiering: Tiering,
        promotion_s: float,
        where: Whereabouts | None = None,
        *,
        costs: Costs | None = None,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._tiering = tiering
        self._promotion_s = promotion_s
        self._where = where or Whereabouts.here()
        self._costs = costs or Costs()
        self._clock = clock
        self._sleep = sleep

    def require(self, plan: Plan, processes: Mapping[int, ProcessFacts]) -> None:
        """Raise UnsupportedError where the kernel cannot do what the plan asks for; changes nothing."""
        downs = [move for move in plan.moves if not move.is_promotion]
        for node, cgroup in dict.fromkeys((move.source, processes[move.process].cgroup) for move in downs):
            self._tiering.require_demotion(node, cgroup)
        if len(downs) < len(plan.moves):
            self._tiering.require_promotion()

    def run(
        self,
        plan: Plan,
        processes: Mapping[int, ProcessFacts],
        should_stop: Callable[[], object] = lambda: None,
        on_progress: Callable[[MoveProgress], None] = lambda progress: None,
    ) -> Outcome:
        """Demote first, then let promote; pages that the kernel did not choose, or put back, are LEFT."""
        self.require(plan, processes)
        works = [_Work(move, processes[move.process]) for move in plan.moves]
        ups = [work for work in works if work.move.is_promotion]
        downs: dict[tuple[int, str], list[_Work]] = {}
        for work in works:
            if not work.move.is_promotion:
                downs.setdefault((work.move.source, work.facts.cgroup), []).append(work)

        def report() -> None:
            left = sum(work.pending.size for work in works)
            total = sum(work.results.size for work in works)
            moved = sum(int((work.results == Result.MOVED).sum()) for work in works)
            on_progress(MoveProgress(total * PAGE_BYTES, (total - left) * PAGE_BYTES, moved * PAGE_BYTES))

        begun_s = self._clock()
        before = self._tiering.counters()
        self._look(works, Result.ALREADY)
        for (node, cgroup), group in downs.items():
            self._demote(node, cgroup, group, should_stop, report)
        notes = list(self._promote(ups, plan.hot_hz, should_stop, report))
        for work in works:
            hidden = work.pending[work.is_hidden[work.pending]]
            work.results[work.pending] = Result.LEFT if work.was_tried else Result.UNTRIED
            work.results[hidden] = Result.ARMED
            work.pending = work.pending[:0]
        self._look_back(works)
        report()
        after = self._tiering.counters()
        promoted, demoted = (after.promoted - before.promoted), (after.demoted - before.demoted)
        notes.append(
            f"the kernel promoted {promoted * PAGE_BYTES / _MIB:.1f} MiB and demoted "
            f"{demoted * PAGE_BYTES / _MIB:.1f} MiB meanwhile, of all processes"
        )
        outcomes = [MoveOutcome(work.move, work.results) for work in works]
        return Outcome(outcomes, self._clock() - begun_s, notes=tuple(notes))

    def _look(self, works: Sequence[_Work], there: Result) -> None:
        """Settle what is no longer on its source; pages on the target become ``there``."""
        for work in works:
            if not work.pending.size:
                continue
            results = self._results(work, work.pending)
            results[results == Result.ALREADY] = there
            work.is_hidden[work.pending] = results == Result.ARMED
            settled = (results != Result.UNTRIED) & (results != Result.ARMED)
            work.results[work.pending[settled]] = results[settled]
            work.pending = work.pending[~settled]

    def _results(self, work: _Work, places: Int64s) -> Uint8s:
        return self._where.results(work.move, work.facts, work.vpn[places])

    def _look_back(self, works: Sequence[_Work]) -> None:
        """Pages that the kernel moved and has put back since did not stay: they are LEFT after all."""
        for work in works:
            moved = np.flatnonzero(work.results == Result.MOVED)
            if moved.size:
                back = self._results(work, moved) == Result.UNTRIED
                work.results[moved[back]] = Result.LEFT

    def _demote(
        self,
        node: int,
        cgroup: str,
        works: Sequence[_Work],
        should_stop: Callable[[], object],
        report: Callable[[], None],
    ) -> None:
        """Have as many bytes demoted as the plan takes off a node, whichever they are."""
        left = sum(work.pending.size for work in works)
        if not left or should_stop():
            return
        for work in works:
            work.was_tried = True
        self._tiering.allow_demotion()
        idle = 0
        while left > 0 and idle < _IDLE_TRIES and not should_stop():
            before = self._tiering.counters().demoted
            self._tiering.demote(node, cgroup, min(left * PAGE_BYTES, _DEMOTED_AT_ONCE))
            demoted = self._tiering.counters().demoted - before
            left -= demoted
            idle = 0 if demoted else idle + 1
            self._look(works, Result.MOVED)
            report()

    def _promote(
        self,
        works: Sequence[_Work],
        hot_hz: float,
        should_stop: Callable[[], object],
        report: Callable[[], None],
    ) -> Sequence[str]:
        """Let the kernel promote, at a rate steered by what its promotions turn out to be worth."""
        pending = sum(work.pending.size for work in works)
        if not pending or should_stop():
            return ()
        for work in works:
            work.was_tried = True
        notes = self._tiering.allow_promotion(hot_hz)
        # All of it within half of the time, if every promotion were one of the plan's.
        ceiling = rate = max(2 * pending * PAGE_BYTES / _MIB / self._promotion_s, 1.0)
        self._tiering.limit_promotion(_whole(rate))
        deadline_s = self._clock() + self._promotion_s
        promoted = self._tiering.counters().promoted
        while pending and self._clock() < deadline_s and not should_stop():
            self._sleep(min(_LOOK_S, max(deadline_s - self._clock(), 0.0)))
            before = [int((work.results == Result.MOVED).sum()) for work in works]
            self._look(works, Result.MOVED)
            gain_s = sum(
                (int((work.results == Result.MOVED).sum()) - count) * work.move.gain_s / work.results.size
                for work, count in zip(works, before, strict=True)
            )
            now = self._tiering.counters().promoted
            next_rate = steered(rate, ceiling, now - promoted, gain_s, self._costs)
            promoted = now
            if next_rate < _LEAST_RATE:
                notes += ("promotion was given up: the kernel promoted other pages than these",)
                break
            if _whole(next_rate) != _whole(rate):
                self._tiering.limit_promotion(_whole(next_rate))
            rate = next_rate
            pending = sum(work.pending.size for work in works)
            report()
        self._tiering.limit_promotion(0)
        self._look(works, Result.MOVED)  # what was promoted since the last look
        return notes


def _whole(rate: float) -> int:
    return max(round(rate), 1)
