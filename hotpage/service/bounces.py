# SPDX-License-Identifier: Apache-2.0
"""What was moved in vain: it slows its cgroup down, and shortens the time in which moves must pay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Int64s
from hotpage.placement.budget import BounceControl
from hotpage.placement.history import BOUNCE_S, page_keys
from hotpage.placement.plan import Fate, Plan, ProcessFacts, Situation

JUDGE_S = 15.0
"""Between two judgements: shorter than a move is remembered, longer than a plan takes to show its effect."""
LEAST_MOVES = 64
"""Pages moved from which on their share of bounces says something."""
FELT_SHARE = 0.001
"""Of a CPU's time that moves in vain may take: holding a cgroup back from better places costs more."""
SHORTEST_HORIZON_S = 2.0


@dataclass(frozen=True)
class Judgement:
    """Of the pages moved in the last ``BOUNCE_S``, by cgroup: how many, and how many would go back."""

    moves: Mapping[str, int]
    bounces: Mapping[str, int]

    @property
    def share(self) -> float:
        """Bounces among moves; NaN without moves."""
        moves = sum(self.moves.values())
        return sum(self.bounces.values()) / moves if moves else float("nan")


class Bounces:
    """Watches plans for pages that the ranking would put back within ``BOUNCE_S`` of their move.

    P (how long a ranking holds: docs/placement.md, "fit") is the half-life of a ranking of which this share
    is wrong after ``BOUNCE_S``, at most its cap. Until its move is as old as that a page stays where it is.
    """

    def __init__(self, horizon_s: float) -> None:
        self.control = BounceControl()
        self.total = 0
        self.last = Judgement({}, {})
        self._cap_s = horizon_s
        self.forget_processes()
        self._noted_s = float("-inf")
        self._judged_s = 0.0

    def forget_processes(self) -> None:
        """Their numbers will be those of others; what cgroups did, and the totals, stay."""
        self._horizon_s: dict[int, float] = {}
        self._seen: Int64s = np.empty(0, np.int64)
        """Pages of which a move of the last minute bounced; ``_counted``: the last one."""
        self._counted: Int64s = self._seen

    def horizon_s(self, process: int) -> float:
        """P of a process now."""
        return self._horizon_s.get(process, self._cap_s)

    def set_cap(self, horizon_s: float) -> None:
        """Change the largest P."""
        self._cap_s = horizon_s
        self._horizon_s = {one: min(p, horizon_s) for one, p in self._horizon_s.items()}

    def note(self, situation: Situation, plan: Plan) -> None:
        """Look at a plan; each page counts once for each of its moves.

        What goes back counts as well as what is held; not what a node gives up that is short of memory, for
        that says nothing about the ranking.
        """
        history = situation.history
        recent = history.moved[history.moved_s > situation.now_s - BOUNCE_S]
        moved_since = history.moved[history.moved_s >= self._noted_s]
        self._noted_s = situation.now_s
        self._seen = self._seen[np.isin(self._seen, recent)]
        self._counted = np.setdiff1d(self._counted[np.isin(self._counted, recent)], moved_since)
        candidates = situation.candidates
        short = [room.node for room in situation.nodes if room.free_bytes < room.watermark_bytes]
        rows = np.flatnonzero((plan.fate == Fate.BOUNCE) | (plan.fate == Fate.MOVED))
        rows = rows[(plan.fate[rows] == Fate.BOUNCE) | ~np.isin(candidates.node[rows], short)]
        if rows.size and recent.size:
            keys = page_keys(candidates.process.take(rows), candidates.vpn.take(rows))
            new = np.setdiff1d(keys[np.isin(keys, recent)], self._counted, assume_unique=True)
            self.total += new.size
            self._counted = np.union1d(self._counted, new)
            self._seen = np.union1d(self._seen, new)
        if situation.now_s - self._judged_s >= JUDGE_S:
            self._judged_s = situation.now_s
            self._judge(situation, recent)

    def _judge(self, situation: Situation, recent: Int64s) -> None:
        facts = situation.processes
        moves, bounces = _by_process(recent, facts), _by_process(self._seen, facts)
        for process in facts:
            half_life_s = ranking_half_life_s(moves.get(process, 0), bounces.get(process, 0))
            self._horizon_s[process] = min(max(half_life_s, SHORTEST_HORIZON_S), self._cap_s)
        for process in self._horizon_s.keys() - facts.keys():
            del self._horizon_s[process]
        self.last = Judgement(_by_group(moves, facts), _by_group(bounces, facts))
        for cgroup, count in self.last.moves.items():
            vain = self.last.bounces.get(cgroup, 0)
            cost_s = vain * (situation.costs.promotion_s + situation.costs.demotion_s)
            is_felt = cost_s > FELT_SHARE * BOUNCE_S
            self.control.note(cgroup, count, vain if is_felt else 0, situation.now_s)


def ranking_half_life_s(moves: int, bounces: int) -> float:
    """The half-life of a ranking by which so many of ``moves`` would be undone within ``BOUNCE_S``."""
    if moves < LEAST_MOVES or not bounces:
        return float("inf")
    return -BOUNCE_S / math.log2(1 - bounces / moves) if bounces < moves else 0.0


def _by_process(keys: Int64s, facts: Mapping[int, ProcessFacts]) -> dict[int, int]:
    """Pages of each process that is still there."""
    found = {}
    for index in facts:
        bounds = page_keys(np.array([index, index + 1], np.int32), np.zeros(2, np.int64))
        first, past = np.searchsorted(keys, bounds)
        if past > first:
            found[index] = int(past - first)
    return found


def _by_group(counts: Mapping[int, int], facts: Mapping[int, ProcessFacts]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for index, count in counts.items():
        sums[facts[index].cgroup] = sums.get(facts[index].cgroup, 0) + count
    return sums
