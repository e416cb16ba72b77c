# SPDX-License-Identifier: Apache-2.0
"""What was moved in vain: it slows its cgroup down, and shortens the time in which moves must pay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hotpage.placement.budget import HALVE_SHARE, BounceControl
from hotpage.placement.history import BOUNCE_S, Ints64, page_keys
from hotpage.placement.plan import Fate, Plan, ProcessFacts, Situation

JUDGE_S = 15.0
"""Between two judgements: shorter than a move is remembered, longer than a plan takes to show its effect."""
LEAST_MOVES = 64
"""Pages moved from which on their share of bounces says something."""
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

    P (policy.md, section 3: how long a ranking holds) starts at its cap. Where more than a tenth of a
    process's moves bounce, the ranking has held for less than ``BOUNCE_S``: its P is halved with every
    judgement, and doubled again when the share is below half of that.
    """

    def __init__(self, horizon_s: float) -> None:
        self.control = BounceControl()
        self.total = 0
        self.last = Judgement({}, {})
        self._cap_s = horizon_s
        self._horizon_s: dict[int, float] = {}
        self._seen: Ints64 = np.empty(0, np.int64)
        self._judged_s = 0.0

    def horizon_s(self, process: int) -> float:
        """P of a process now."""
        return self._horizon_s.get(process, self._cap_s)

    def set_cap(self, horizon_s: float) -> None:
        """Change the largest P."""
        self._cap_s = horizon_s
        self._horizon_s = {one: min(p, horizon_s) for one, p in self._horizon_s.items()}

    def note(self, situation: Situation, plan: Plan) -> None:
        """Look at a plan; each page counts once for each of its moves."""
        rows = np.flatnonzero(plan.fate == Fate.BOUNCE)
        history = situation.history
        recent = history.moved[history.moved_s > situation.now_s - BOUNCE_S]
        self._seen = self._seen[np.isin(self._seen, recent)]
        if rows.size:
            candidates = situation.candidates
            keys = page_keys(candidates.process.take(rows), candidates.vpn.take(rows))
            new = np.setdiff1d(keys, self._seen, assume_unique=True)
            self.total += new.size
            self._seen = np.union1d(self._seen, new)
        if situation.now_s - self._judged_s >= JUDGE_S:
            self._judged_s = situation.now_s
            self._judge(situation, recent)

    def _judge(self, situation: Situation, recent: Ints64) -> None:
        facts = situation.processes
        moves, bounces = _by_process(recent, facts), _by_process(self._seen, facts)
        for process in facts:
            self._adapt(process, moves.get(process, 0), bounces.get(process, 0))
        for process in self._horizon_s.keys() - facts.keys():
            del self._horizon_s[process]
        self.last = Judgement(_by_group(moves, facts), _by_group(bounces, facts))
        for cgroup, count in self.last.moves.items():
            if count >= LEAST_MOVES:
                self.control.note(cgroup, count, self.last.bounces.get(cgroup, 0), situation.now_s)

    def _adapt(self, process: int, moves: int, bounces: int) -> None:
        horizon_s = self.horizon_s(process)
        if moves >= LEAST_MOVES and bounces > HALVE_SHARE * moves:
            horizon_s = max(horizon_s / 2, SHORTEST_HORIZON_S)
        elif bounces < HALVE_SHARE / 2 * moves or not moves:
            horizon_s = min(2 * horizon_s, self._cap_s)
        self._horizon_s[process] = horizon_s


def _by_process(keys: Ints64, facts: Mapping[int, ProcessFacts]) -> dict[int, int]:
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
