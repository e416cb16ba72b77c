# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of a profile: what a recorder hands over each interval, and the state that views read.

``IntervalData`` flows in (from a live session), ``Snapshot`` comes out (of a directory or of memory, the same
type). Times are seconds of CLOCK_MONOTONIC since the session's origin; ``vpn`` is virtual address >> 12,
whatever the page's size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hotpage.arrays import Columns, Float32s, Float64s, Int32s, Int64s
from hotpage.heat.results import ArmedRanges, Changes, Folios, Latencies
from hotpage.machine.folios import PAGE_BYTES
from hotpage.machine.processes import Process
from hotpage.machine.vmas import Residency, Vma


@dataclass(frozen=True)
class RunInfo:
    """What is known when a session starts; written once, with the first interval."""

    hotpage_version: str
    command_line: tuple[str, ...]
    target: str  # for people: "pid 4242 (redis-server)", "cgroup /system.slice", "everything"
    started_unix_s: float
    origin_monotonic_ns: int
    hostname: str
    kernel_release: str
    boot_id: str
    architecture: str
    interval_s: float
    armed: bool  # the session turned NUMA hint faults on (--arm)
    numa_balancing: (
        int | None
    )  # kernel.numa_balancing as found at the start, None where there is no such knob
    rungs: Mapping[str, str]  # source -> rung that attached: {"hint": "fentry", "fault": "software event"}
    horizons_s: tuple[float, float]  # half-lives of rate_short_hz and rate_hz
    prior_count: float  # alpha and beta of a rate, (alpha + n) / (beta + exposure): heat.estimator
    prior_exposure_s: float
    budget_percent: float | None = None
    advice: tuple[str, ...] = ()  # why rates may be missing or partial, and the option that would help

    @property
    def sees_rates(self) -> bool:
        """Whether any access rate could arrive: hint faults need arming, by hotpage or the kernel."""
        arms = self.armed or bool(self.numa_balancing)
        return "sample" in self.rungs or (arms and "hint" in self.rungs)

    def silent_rate_hz(self, silent_s: Float64s) -> Float64s:
        """The highest rate of pages that were armed and have stayed silent for so long; NaN stays NaN."""
        rate_hz: Float64s = self.prior_count / (self.prior_exposure_s + silent_s)
        return rate_hz


@dataclass(frozen=True)
class RunEnd:
    """How a session ended."""

    end_s: float
    status: str  # "complete", or what cut it short: "interrupted", "target exited", "disk full"
    command_exit_status: int | None = None  # of ``record -- CMD``; None also where the duration ended it
    first_event_s: float | None = None  # when hotpage had the first event in hand; None: there was none


@dataclass(frozen=True)
class ProcessRecord:
    """A process and its part of the session; its index is never reused, so its last state stays."""

    process: Process
    first_s: float
    exited_s: float | None = None
    previous_index: int | None = None  # the index this process had before exec


@dataclass(frozen=True)
class VmaRecord:
    """A mapping and where its resident pages were when it was read; None: nobody could tell."""

    vma: Vma
    residency: Residency | None = None

    @property
    def resident_bytes(self) -> int | None:
        """Resident on any node."""
        return sum(self.residency.bytes_by_node.values()) if self.residency else None

    @property
    def armable(self) -> bool:
        """Whether hint faults can see it: the kernel skips hugetlb and explicit memory policies too."""
        if self.residency is None:
            return self.vma.armable
        ordinary = self.residency.policy in ("", "default") or "balancing" in self.residency.policy
        return self.vma.armable and ordinary and self.residency.page_size_bytes == PAGE_BYTES


@dataclass(frozen=True)
class NodeRecord:
    """A NUMA node; tier 0 is the fastest. Latency and bandwidth are the firmware's (HMAT), else None."""

    node: int
    tier: int
    cpus: int
    total_bytes: int
    free_bytes: int
    read_latency_ns: float | None = None
    write_latency_ns: float | None = None
    read_bandwidth_mbps: float | None = None
    write_bandwidth_mbps: float | None = None


@dataclass(frozen=True)
class ClearedRange:
    """Pages that went away while their process lives on (munmap, MADV_DONTNEED): older rows do not hold.

    Not for exec (new index) nor for exit (``ProcessRecord.exited_s``): the last state of those is what a
    report shows.
    """

    process: int
    start_vpn: int
    end_vpn: int  # exclusive


@dataclass(frozen=True)
class SourceCounts:
    """One source in one interval, or summed. Events emitted by the kernel program = received + lost."""

    source: str
    received: int
    lost: int = 0
    skipped: int = 0  # left out in the kernel by sampling
    sampled_one_in: int = 1  # the coarsest in the interval or sum
    # Memory samples only: accesses that those received stand for, by their periods; and those dropped in the
    # kernel for being no use: they told no address, or of data that the core's own caches held.
    stands_for: int = 0
    without_address: int = 0
    cache_hits: int = 0
    unwatched_s: float = 0.0  # sampling stood still: throttled, or its counters lent to others
    # Times that the kernel left the program out, for one was active on that CPU: at most as many accesses, of
    # whoever, that nobody saw.
    missed_runs: int = 0


@dataclass(frozen=True)
class PageTable(Columns):
    """The newest known state of every page seen, sorted by (process, vpn)."""

    process: Int32s
    vpn: Int64s
    rate_hz: Float32s
    rate_short_hz: Float32s
    relative_error: Float32s
    time_s: Float64s  # when the row was written: its page has not moved by half an octave since

    def of(self, process: int) -> PageTable:
        """One process's pages (a view)."""
        low, high = np.searchsorted(self.process, [process, process + 1])
        return self.take(slice(int(low), int(high)))

    def between(self, start_vpn: int, end_vpn: int) -> PageTable:
        """The pages of an address range (a view); only meaningful on one process's table."""
        low, high = np.searchsorted(self.vpn, [start_vpn, end_vpn])
        return self.take(slice(int(low), int(high)))

    @staticmethod
    def empty() -> PageTable:
        """No pages."""
        f32 = np.empty(0, np.float32)
        return PageTable(np.empty(0, np.int32), np.empty(0, np.int64), f32, f32, f32, np.empty(0, np.float64))


@dataclass(frozen=True)
class IntervalData:
    """Everything that one interval adds. Only ``start_s``, ``end_s`` and ``changes`` are always there.

    ``vmas`` holds the complete set of each process whose set or residency changed; ``armed`` the complete
    coverage of each process whose coverage changed; ``nodes`` all nodes, or nothing: they are as before.
    ``cleared`` is applied before ``changes``.
    """

    start_s: float
    end_s: float
    changes: Changes
    processes: Sequence[ProcessRecord] = ()
    vmas: Mapping[int, Sequence[VmaRecord]] = field(default_factory=dict)
    armed: Mapping[int, ArmedRanges] = field(default_factory=dict)
    cleared: Sequence[ClearedRange] = ()
    nodes: Sequence[NodeRecord] = ()
    folios: Callable[[int], Folios] | None = None  # of a process, while the sink has the data
    latencies: Latencies | None = None  # only if a live view asked for them; no profile keeps them
    # Base pages that the kernel moved in hint faults, by process; no profile keeps them either.
    migrated_pages: Mapping[int, int] = field(default_factory=dict)
    sources: Sequence[SourceCounts] = ()
    own_cpu_s: float = 0.0
    bpf_s: float | None = None  # run time of the programs, where the kernel counts it
    target_cpu_s: float | None = None
    rss_bytes: int = 0


@dataclass(frozen=True)
class Usage:
    """Intervals summed: the window that was really measured, what was captured, and what it cost."""

    intervals: int = 0
    start_s: float = 0.0
    end_s: float = 0.0
    own_cpu_s: float = 0.0
    bpf_s: float | None = None
    target_cpu_s: float | None = None
    peak_rss_bytes: int = 0
    sources: tuple[SourceCounts, ...] = ()

    @property
    def window_s(self) -> float:
        """Measured seconds."""
        return self.end_s - self.start_s

    @property
    def received(self) -> int:
        """Events of all sources."""
        return sum(counts.received for counts in self.sources)

    def plus(self, data: IntervalData) -> Usage:
        """With one more interval."""
        totals = {counts.source: counts for counts in self.sources}
        for counts in data.sources:
            totals[counts.source] = _sum_counts(totals.get(counts.source), counts)
        return Usage(
            intervals=self.intervals + 1,
            start_s=data.start_s if not self.intervals else min(self.start_s, data.start_s),
            end_s=max(self.end_s, data.end_s),
            own_cpu_s=self.own_cpu_s + data.own_cpu_s,
            bpf_s=_sum_known(self.bpf_s, data.bpf_s),
            target_cpu_s=_sum_known(self.target_cpu_s, data.target_cpu_s),
            peak_rss_bytes=max(self.peak_rss_bytes, data.rss_bytes),
            sources=tuple(totals.values()),
        )


@dataclass(frozen=True)
class Snapshot:
    """The state of a profile at ``time_s``: the one thing that views read, from a directory or live."""

    run: RunInfo
    end: RunEnd | None  # None: still being recorded, or killed
    time_s: float
    usage: Usage
    processes: Mapping[int, ProcessRecord]
    vmas: Mapping[int, Sequence[VmaRecord]]  # per process, sorted by start
    pages: PageTable
    armed: Mapping[int, ArmedRanges]
    nodes: Sequence[NodeRecord]
    problems: tuple[str, ...] = ()  # parts that could not be read, one line each

    def has_exited(self, process: int) -> bool:
        """Whether the process had gone by ``time_s``."""
        record = self.processes.get(process)
        return record is not None and record.exited_s is not None


def _sum_known(left: float | None, right: float | None) -> float | None:
    return right if left is None else left if right is None else left + right


def _sum_counts(left: SourceCounts | None, right: SourceCounts) -> SourceCounts:
    if left is None:
        return right
    return SourceCounts(
        right.source,
        left.received + right.received,
        left.lost + right.lost,
        left.skipped + right.skipped,
        max(left.sampled_one_in, right.sampled_one_in),
        left.stands_for + right.stands_for,
        left.without_address + right.without_address,
        left.cache_hits + right.cache_hits,
        left.unwatched_s + right.unwatched_s,
        left.missed_runs + right.missed_runs,
    )
