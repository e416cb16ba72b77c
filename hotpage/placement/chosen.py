# SPDX-License-Identifier: Apache-2.0
"""Moves that somebody asks for by pointing: pages of one process, up to fast memory or down from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hotpage.errors import ProfileError
from hotpage.machine.topology import Topology
from hotpage.placement.movers.dry_run import DryRunMover
from hotpage.placement.movers.whereabouts import Whereabouts
from hotpage.placement.outcome import Outcome
from hotpage.placement.plan import Aim, Plan, ProcessFacts
from hotpage.placement.policies import threshold
from hotpage.placement.situation import gather
from hotpage.profile.snapshot import Snapshot

END = 1 << 56
"""No user address lies beyond."""


@dataclass(frozen=True)
class Wish:
    """``name``, for people: what lies at the addresses [start, end) (bytes) of a process.

    ``hot_hz``: promote what is as hot as that, demote what is an octave colder. None: everything of known
    rate, the hottest first, or the coldest.
    """

    name: str
    process: int
    promote: bool
    start: int = 0
    end: int = END
    hot_hz: float | None = None


@dataclass(frozen=True)
class Proposal:
    """What a wish comes to. ``checked``: the kernel was asked about every page, and nothing moved."""

    plan: Plan
    processes: Mapping[int, ProcessFacts]
    checked: Outcome


def propose(wish: Wish, snapshot: Snapshot, where: Whereabouts, topology: Topology) -> Proposal:
    """The plan, after a dry run; ``snapshot`` holds the process and no pages but those that are meant.

    Nobody asks whether a move is worth it: somebody did. What there is room for, who may go where, and that
    unobserved pages stay, is as with every plan. Raises ProfileError when the process has gone.
    """
    situation = gather(snapshot, where.kernel, topology).situation
    if wish.process not in situation.processes:
        raise ProfileError("the process has gone, or is another program now")
    everything_hz = 0.0 if wish.promote else float("inf")
    aim = Aim(
        promote=wish.promote,
        demote=not wish.promote,
        hot_rate_hz=everything_hz if wish.hot_hz is None else wish.hot_hz,
        young_s=0.0,
    )
    plan = threshold.plan(situation, aim)
    if wish.hot_hz is None:
        moves = tuple(replace(move, reason="chosen") for move in plan.moves)
        plan = replace(plan, moves=moves, hot_hz=float("nan"))
    return Proposal(plan, situation.processes, DryRunMover(where).run(plan, situation.processes))
