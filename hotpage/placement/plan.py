# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of placement: the situation that a policy sees, what it is asked for, and the plan it makes.

All arrays of one object have one length. A row is a folio: a base page, or a huge page that moves as a whole.
Sizes are in base pages of 4096 bytes unless a name says bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np

from hotpage.arrays import Columns, Float32s, Float64s, Int16s, Int32s, Int64s, Uint8s, Uint32s, aranges
from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.history import History

ABSENT = -1
"""Node of a row that is not in memory, or that the kernel does not tell about."""


@dataclass(frozen=True)
class Candidates(Columns):
    """The pages to decide about, ascending by (process, vpn).

    ``pages``: base pages of the folio that begins at ``vpn``. ``node``: where it is, or ``ABSENT``. Rates are
    accesses per second to one base page, NaN where unknown.
    """

    process: Int32s
    vpn: Int64s
    pages: Int32s
    node: Int16s
    rate_hz: Float32s
    rate_short_hz: Float32s
    relative_error: Float32s


@dataclass(frozen=True)
class ProcessFacts:
    """Whose pages these are. ``allowed_nodes``: the process's cpuset; ``age_s``: no page of it is older.

    ``start_time_ticks`` and ``image`` (machine.proc.Stat) tell it from a later process of that pid, and from
    another program that it became by exec.
    """

    pid: int
    start_time_ticks: int
    image: tuple[int, int]
    comm: str
    cgroup: str
    allowed_nodes: frozenset[int]
    age_s: float = float("inf")
    horizon_s: float | None = None
    """How long its ranking holds, where that is known better than ``Costs.horizon_s``; at most that."""
    will_be_surer: bool = False
    """Whether what its next arming pass shows is worth waiting for."""


@dataclass(frozen=True)
class NodeRoom:
    """A node with memory. ``tier`` 0 is the fastest; latency None where the firmware does not tell.

    ``free_bytes``: what can be had without taking anything from a program, idle page cache included; of it
    ``headroom_bytes`` stay free, whatever is moved: at least the node's high watermark, ``watermark_bytes``.
    ``rate_bytes``: what may be moved to the node by this plan. ``is_device``: memory of an accelerator, left
    alone unless named.
    """

    node: int
    tier: int
    total_bytes: int
    free_bytes: int
    headroom_bytes: int
    distances: Mapping[int, int] = field(default_factory=dict)
    read_latency_ns: float | None = None
    rate_bytes: float = float("inf")
    is_device: bool = False
    watermark_bytes: int = 0


@dataclass(frozen=True)
class GroupLimits:
    """A cgroup's share of the fast tier: guaranteed, at most, its weight against others, and its rate.

    ``fast_bytes``: what it has there now, pages outside the candidates included; None: what they show.
    """

    floor_bytes: float = 0.0
    ceiling_bytes: float = float("inf")
    weight: float = 1.0
    rate_bytes: float = float("inf")
    fast_bytes: float | None = None


@dataclass(frozen=True)
class Costs:
    """What decides whether a move is worth it (docs/placement.md, "fit"); per base page."""

    promotion_s: float = 5e-6
    demotion_s: float = 5e-6
    gap_ns: float = 100.0
    """Latency gap of two tiers where the firmware does not tell it."""
    horizon_s: float = 60.0
    """How long the ranking is expected to hold."""
    margin: float = 1.5


@dataclass(frozen=True)
class Situation:
    """All that a policy may know. ``processes`` by the candidates' process index; ``limits`` by cgroup."""

    candidates: Candidates
    processes: Mapping[int, ProcessFacts]
    nodes: Sequence[NodeRoom]
    history: History = field(default_factory=History)
    limits: Mapping[str, GroupLimits] = field(default_factory=dict)
    costs: Costs = field(default_factory=Costs)
    now_s: float = 0.0

    @cached_property
    def room_of(self) -> Mapping[int, NodeRoom]:
        """The nodes by number."""
        return {room.node: room for room in self.nodes}

    @property
    def process_count(self) -> int:
        """How long arrays by process index are."""
        return max(self.processes, default=-1) + 1


@dataclass(frozen=True)
class Aim:
    """What a user or service asks of a policy; each policy says which of it it heeds.

    ``promote_to`` and ``demote_to`` replace the fast tier and the tiers below as targets. ``most_bytes``
    limits what is promoted, and what is demoted for its own sake. ``free_bytes``: by node, how much of it is
    to be free. ``explain``: keep every candidate's fate. ``can_wait``: other plans will follow, so what is
    not sure yet can be moved by them.
    """

    promote: bool = True
    demote: bool = True
    promote_to: frozenset[int] | None = None
    demote_to: frozenset[int] | None = None
    hot_rate_hz: float | None = None
    hot_bytes: float | None = None
    most_bytes: float = float("inf")
    free_bytes: Mapping[int, float] = field(default_factory=dict)
    young_s: float = 30.0
    seed: int = 0
    explain: bool = False
    can_wait: bool = False


class Fate(IntEnum):
    """What a plan makes of a candidate; ``WORDS`` has the reasons in words."""

    MOVED = 0
    HOT_IN_PLACE = 1
    COLD_IN_PLACE = 2
    WARM = 3
    UNKNOWN = 4
    ABSENT = 5
    LEFT_ALONE = 6
    NOT_NEEDED = 7
    NOT_WORTH_IT = 8
    UNCERTAIN = 9
    COOLING = 10
    YOUNG = 11
    BOUNCE = 12
    FAILED_BEFORE = 13
    FORBIDDEN = 14
    GROUP = 15
    RATE = 16
    ROOM = 17
    NOT_CHOSEN = 18


WORDS: Mapping[Fate, str] = {
    Fate.HOT_IN_PLACE: "among the hottest, and in fast memory already",
    Fate.COLD_IN_PLACE: "cold, and in slow memory already",
    Fate.WARM: "warm: within an octave of the threshold, so it stays",
    Fate.UNKNOWN: "never observed, so its rate is unknown",
    Fate.ABSENT: "not in memory, or hidden by the kernel",
    Fate.LEFT_ALONE: "on a node that is left alone",
    Fate.NOT_NEEDED: "cold, but nothing needs its room",
    Fate.NOT_WORTH_IT: "a move would not gain enough",
    Fate.UNCERTAIN: "its rate is too uncertain",
    Fate.COOLING: "hot, but cooling down",
    Fate.YOUNG: "cold, but young",
    Fate.BOUNCE: "moved a short while ago",
    Fate.FAILED_BEFORE: "failed to move a short while ago",
    Fate.FORBIDDEN: "the process's cpuset does not allow the target node",
    Fate.GROUP: "its cgroup's share of fast memory",
    Fate.RATE: "the rate limit of moves",
    Fate.ROOM: "no room on the target node",
    Fate.NOT_CHOSEN: "not among the pages chosen",
}


@dataclass(frozen=True)
class Move:
    """Folios of one process that go from one node to another.

    ``gain_s``: stall time it saves, ``cost_s``: what it takes. ``reason``: for people. ``vpn`` ascends.
    """

    process: int
    source: int
    target: int
    is_promotion: bool
    reason: str
    vpn: Int64s
    pages: Int32s
    gain_s: float
    cost_s: float
    mean_rate_hz: float

    @property
    def size_bytes(self) -> int:
        """Of all its folios."""
        return int(self.pages.sum(dtype=np.int64)) * PAGE_BYTES

    def base_vpn(self) -> Int64s:
        """Each base page of all its folios, in order."""
        if (self.pages == 1).all():
            return self.vpn
        return aranges(self.vpn, self.pages)


@dataclass(frozen=True)
class Plan:
    """``moves`` in the order of execution; ``kept_bytes``: what is not moved, by why.

    ``hot_hz``: the rate from which pages count as hot, NaN where the policy knows no such thing. Moved and
    kept bytes add up to all candidates.
    """

    policy: str
    moves: tuple[Move, ...]
    kept_bytes: Mapping[Fate, int]
    hot_hz: float = float("nan")
    fate: Uint8s = field(default_factory=lambda: np.empty(0, np.uint8))
    """Of each candidate; empty unless the aim was to ``explain``."""

    @property
    def moved_bytes(self) -> int:
        """Of all moves."""
        return sum(move.size_bytes for move in self.moves)

    def why_nothing(self) -> str:
        """The weightiest reasons why pages stay, for people."""
        weighty = sorted(self.kept_bytes.items(), key=lambda item: -item[1])[:2]
        return "; ".join(WORDS[fate] for fate, _ in weighty) or "there are no pages to decide about"


def horizons_s(situation: Situation) -> Float64s:
    """How long the ranking of each process holds, by its index."""
    horizons = np.full(situation.process_count, situation.costs.horizon_s)
    for process, facts in situation.processes.items():
        if facts.horizon_s is not None:
            horizons[process] = facts.horizon_s
    return horizons


_PROMOTION, _EVICTION = 1 << 31, 1 << 30
_NODE_BITS = 15
_NODE_MASK = (1 << _NODE_BITS) - 1


def route(source: Int16s, target: Int16s, is_promotion: bool, is_eviction: bool = False) -> Uint32s:
    """From where to where rows go, as one number each; those of promotions are greater than all others.

    ``is_eviction``: demotions for a ceiling, not for what comes.
    """
    code: Uint32s = target.astype(np.uint32) << np.uint32(_NODE_BITS) | source.astype(np.uint32)
    code |= np.uint32(_PROMOTION * is_promotion | _EVICTION * is_eviction)
    return code


def moves_of(
    situation: Situation, rows: Int64s, pages: Int32s, routes: Uint32s, reasons: tuple[str, str]
) -> tuple[Move, ...]:
    """Group rows, ascending, by process, source and target: demotions first, for they make the room.

    ``pages`` and ``routes``: of each row. ``reasons`` of demotions and promotions.
    """
    processes = sorted(situation.processes)
    first = np.searchsorted(situation.candidates.process, np.array(processes[1:], np.int32))
    moves = []
    for code in np.unique(routes).tolist():
        mine = np.flatnonzero(routes == code)
        cuts = np.searchsorted(rows[mine], first)
        for process, part in zip(processes, np.split(mine, cuts), strict=True):
            if part.size:
                moves.append(_move(situation, process, rows[part], pages[part], code, reasons))
    return tuple(moves)


def _move(
    situation: Situation, process: int, rows: Int64s, pages: Int32s, code: int, reasons: tuple[str, str]
) -> Move:
    candidates, costs = situation.candidates, situation.costs
    source, target = code & _NODE_MASK, code >> _NODE_BITS & _NODE_MASK
    is_promotion = code >= _PROMOTION
    # Not by @: BLAS would share these few out among threads that wait busily for each other.
    accesses_hz = float(np.nansum(candidates.rate_hz.take(rows) * pages, dtype=np.float64))
    count = int(pages.sum(dtype=np.int64))
    saved_s = accesses_hz * gap_ns(situation, source, target) * 1e-9 * costs.horizon_s
    return Move(
        process=process,
        source=source,
        target=target,
        is_promotion=is_promotion,
        reason="above its cgroup's ceiling" if code & _EVICTION else reasons[is_promotion],
        vpn=candidates.vpn.take(rows),
        pages=pages,
        gain_s=saved_s,
        cost_s=count * (costs.promotion_s if is_promotion else costs.demotion_s),
        mean_rate_hz=accesses_hz / count,
    )


def gap_ns(situation: Situation, source: int, target: int) -> float:
    """What an access gains by the move, in ns; negative for a demotion.

    The firmware's latencies where it tells both, else ``Costs.gap_ns`` for each step of tiers.
    """
    before, after = situation.room_of[source], situation.room_of[target]
    if before.read_latency_ns is not None and after.read_latency_ns is not None:
        return before.read_latency_ns - after.read_latency_ns
    return situation.costs.gap_ns * float(np.sign(before.tier - after.tier))
