# SPDX-License-Identifier: Apache-2.0
"""What a live view shows: rows that do not change any more, made once per interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hotpage.arrays import Float32s
from hotpage.profile.snapshot import NodeRecord, ProcessRecord, RunEnd, RunInfo, Usage, VmaRecord
from hotpage.profile.threshold import Threshold


class LiveHeat(NamedTuple):
    """The heat of some memory, in bytes and accesses/s. Sums of the first eight are heat again."""

    resident_bytes: int = 0
    hot_bytes: int = 0
    warm_bytes: int = 0
    cold_bytes: int = 0  # with what was armed and stayed silent
    unknown_bytes: int = 0
    accesses_per_s: float = 0.0
    uncertain_accesses_per_s: float = 0.0  # sum of rate x relative error
    misplaced_bytes: float = 0.0  # hot, on a tier that is not the fastest (expected)
    bytes_by_node: Mapping[int, int] = {}

    @property
    def relative_error(self) -> float:
        """Relative standard error of the rates, the busier pages counting more; NaN without any."""
        return self.uncertain_accesses_per_s / self.accesses_per_s if self.accesses_per_s else float("nan")

    @property
    def seen_bytes(self) -> int:
        """Of all classes."""
        return self.hot_bytes + self.warm_bytes + self.cold_bytes + self.unknown_bytes

    @staticmethod
    def sum(heats: Iterable[LiveHeat]) -> LiveHeat:
        """The heat of several parts together."""
        parts = list(heats)
        nodes: dict[int, int] = {}
        for part in parts:
            for node, count in part.bytes_by_node.items():
                nodes[node] = nodes.get(node, 0) + count
        sums = [sum(column) for column in list(zip(*parts, strict=True))[:_SUMMED]] or [0] * _SUMMED
        return LiveHeat._make([*sums, nodes])


_SUMMED = 8


class LiveProcess(NamedTuple):
    """A process; ``history_hz`` are its accesses/s of the latest intervals, the newest last, NaN before.

    ``migrated_per_s``: base pages that the kernel moved in its hint faults, over the last interval.
    """

    record: ProcessRecord
    heat: LiveHeat
    history_hz: Float32s
    migrated_per_s: float = 0.0


class LiveMapping(NamedTuple):
    """A mapping of a process; ``record`` is None for pages outside all that were read."""

    process: int
    record: VmaRecord | None
    heat: LiveHeat


@dataclass(frozen=True)
class LiveTier:
    """Nodes of one tier, and what of the targets is on them (expected, where mappings span several nodes)."""

    tier: int
    nodes: Sequence[NodeRecord]
    resident_bytes: float
    hot_bytes: float
    accesses_per_s: float

    @property
    def total_bytes(self) -> int:
        """Capacity."""
        return sum(node.total_bytes for node in self.nodes)

    @property
    def used_bytes(self) -> int:
        """By whomever."""
        return self.total_bytes - sum(node.free_bytes for node in self.nodes)


@dataclass(frozen=True)
class LiveView:
    """A profile at ``time_s``. ``usage`` is that of the whole session, ``recent`` of the last interval."""

    run: RunInfo
    end: RunEnd | None
    time_s: float
    usage: Usage
    recent: Usage
    threshold: Threshold
    processes: Sequence[LiveProcess]
    total: LiveHeat
    tiers: Sequence[LiveTier]
    pages: int  # that are tracked

    @property
    def has_tiers(self) -> bool:
        """Whether there is slower memory, so that something can be misplaced."""
        return len(self.tiers) > 1

    @property
    def fast_share(self) -> float:
        """Share of the accesses that the fastest tier serves; NaN without any."""
        every = sum(tier.accesses_per_s for tier in self.tiers)
        return self.tiers[0].accesses_per_s / every if every else float("nan")
