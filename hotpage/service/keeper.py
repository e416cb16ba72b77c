# SPDX-License-Identifier: Apache-2.0
"""One round of the service: a picture of the heat becomes a plan, the plan moves, and both are remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hotpage.errors import KnobError
from hotpage.placement.budget import TokenBucket
from hotpage.placement.history import History, page_keys
from hotpage.placement.movers import Mover
from hotpage.placement.outcome import Outcome, Result
from hotpage.placement.plan import Aim, Plan, Situation
from hotpage.placement.policies import policy
from hotpage.service.bounces import Bounces
from hotpage.service.configuration import Configuration
from hotpage.service.decisions import RecentMoves
from hotpage.service.heatfeed import Picture
from hotpage.service.survey import Surveyor

IDLE_S = 10.0
"""Between plans while no access is seen."""
_THERE = frozenset({Result.MOVED, Result.ALREADY})


class Pace:
    """When the next plan is due: after ``interval_s``, and not before its CPU time is a small enough share.

    A plan looks at every tracked page; on a machine with many it is made more rarely, and costs no more.
    Without a new access there is nothing new to plan by, but room that others took.
    """

    def __init__(self, interval_s: float, percent: float) -> None:
        self._interval_s, self._share = interval_s, percent / 100
        self.period_s = interval_s
        self._planned_s = float("-inf")
        self._events = -1

    def is_due(self, now_s: float, events: int) -> bool:
        """Whether it is time, with so many accesses seen so far."""
        # Pictures come with intervals: asked for a little early, the next one is not missed.
        waited_s = now_s - self._planned_s + self._interval_s / 2
        return waited_s >= (self.period_s if events != self._events else max(self.period_s, IDLE_S))

    def planned(self, now_s: float, cost_s: float, events: int) -> None:
        """A plan was made now, for so many CPU seconds, with so many accesses seen."""
        self.period_s = max(self._interval_s, cost_s / self._share)
        self._planned_s, self._events = now_s, events


@dataclass(frozen=True)
class Step:
    """What one round came to. ``outcome`` is None where there was nothing to move, or nothing could be."""

    picture: Picture
    situation: Situation
    plan: Plan
    outcome: Outcome | None
    plan_s: float
    """CPU seconds from picture to plan."""
    obstacle: str = ""
    """Why nothing could be moved, for people; the next plan tries again."""


@dataclass
class Totals:
    """Since the service began; bytes. ``moved`` by "promotion" and "demotion", then by result."""

    plans: int = 0
    plan_s: float = 0.0
    moved: dict[str, dict[Result, int]] = field(default_factory=lambda: {"promotion": {}, "demotion": {}})
    calls: int = 0
    call_s: float = 0.0


class Keeper:
    """Keeps pages where they belong. ``clock``: the seconds of history and rates, as of time.monotonic."""

    def __init__(
        self,
        configuration: Configuration,
        surveyor: Surveyor,
        make_mover: Callable[[Mapping[int | str, TokenBucket]], Mover],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.configuration = configuration
        self.surveyor = surveyor
        self.bounces = Bounces(configuration.placement.horizon)
        self.history = History()
        self.totals = Totals()
        self.log = RecentMoves()
        self.pace = Pace(configuration.interval, configuration.budget.plan_percent)
        self._clock = clock
        self._make_mover = make_mover
        self._mover = self._new_mover()

    def reconfigure(self, configuration: Configuration) -> None:
        """Go on with another configuration: history and what bounced stay."""
        self.configuration = self.surveyor.configuration = configuration
        self.bounces.set_cap(configuration.placement.horizon)
        self.pace = Pace(configuration.interval, configuration.budget.plan_percent)
        self._mover = self._new_mover()

    def begin_session(self) -> None:
        """Processes are numbered anew: forget what is kept by number. Totals and cgroups' bounces stay.

        Nodes may have come or gone.
        """
        self.history = History()
        self.log = RecentMoves()
        self.bounces.forget_processes()
        self.surveyor.begin_session()

    def _new_mover(self) -> Mover:
        rate = self.configuration.budget.move_rate
        nodes = frozenset(node.id for node in self.surveyor.topology.nodes if node.tier is not None)
        self._limited = nodes
        return self._make_mover({node: TokenBucket(rate, self._clock) for node in nodes})

    def consider(self, picture: Picture, others_follow: bool = True) -> tuple[Situation, Plan]:
        """What would be done now; nothing is."""
        now_s = self._clock()
        situation = self.surveyor.survey(
            picture,
            self.history,
            now_s,
            self.pace.period_s,
            lambda cgroup: self.bounces.control.factor(cgroup, now_s),
            self.bounces.horizon_s,
        )
        return situation, policy(self.configuration.placement.policy)(situation, self._aim(others_follow))

    def step(
        self,
        picture: Picture,
        should_stop: Callable[[], object] = lambda: None,
        others_follow: bool = True,
    ) -> Step:
        """Plan, and move what the plan says."""
        begun_s, now_s = time.thread_time(), self._clock()
        situation, plan = self.consider(picture, others_follow)
        if not self._limited.issuperset(room.node for room in situation.nodes):
            self._mover = self._new_mover()
        self.bounces.note(situation, plan)
        plan_s = time.thread_time() - begun_s + picture.cost_s
        self.totals.plans += 1
        self.totals.plan_s += plan_s
        self.pace.planned(now_s, plan_s, picture.events)
        outcome, obstacle = None, ""
        if plan.moves:
            try:
                outcome = self._mover.run(plan, situation.processes, should_stop)
                self._remember(outcome)
            except KnobError as error:  # such as while another hotpage arms
                obstacle = str(error)
        return Step(picture, situation, plan, outcome, plan_s, obstacle)

    def _aim(self, others_follow: bool) -> Aim:
        # What a policy without a capacity in mind may promote at a time.
        most = self.configuration.budget.move_rate * self.pace.period_s
        named = self.configuration.placement.policy
        return Aim(
            most_bytes=most if named == "random" else float("inf"),
            seed=self.totals.plans,
            explain=True,
            can_wait=others_follow,
        )

    def _remember(self, outcome: Outcome) -> None:
        now_s = self._clock()
        moved, failed = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for one in outcome.moves:
            sums = self.totals.moved["promotion" if one.move.is_promotion else "demotion"]
            for kind, count in one.bytes_by_result().items():
                sums[kind] = sums.get(kind, 0) + count
            process = one.move.process
            for vpn, keys in ((one.vpns(frozenset({Result.MOVED})), moved), (one.to_wait(), failed)):
                keys.append(page_keys(np.full(vpn.size, process, np.int32), vpn))
            self.surveyor.note_moved(process, one.pages(_THERE), one.move.target)
            self.surveyor.note_doubt(process, one.pages(frozenset(Result) - _THERE - {Result.PLANNED}))
        self.totals.calls += outcome.calls
        self.totals.call_s += outcome.call_s
        self.history = self.history.noting(
            np.unique(np.concatenate(moved)), np.unique(np.concatenate(failed)), now_s
        )
        self.log.note(outcome, now_s)
