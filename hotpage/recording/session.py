# SPDX-License-Identifier: Apache-2.0
"""The loop of a session: events into heat, processes kept track of, arming steered, intervals written."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from hotpage.capture.capture import Capture
from hotpage.capture.events import Events, EventSource, select
from hotpage.capture.sources import ladders
from hotpage.capture.target import Target
from hotpage.errors import ProfileError
from hotpage.heat.results import ArmedRanges, Changes
from hotpage.heat.table import HeatTable
from hotpage.machine.procevents import ProcessEvents
from hotpage.machine.tiering import arms_slow_only, balancing_change, slow_nodes
from hotpage.profile.snapshot import (
    ClearedRange,
    IntervalData,
    RunEnd,
    RunInfo,
    SourceCounts,
    VmaRecord,
)
from hotpage.recording.arming import Arming, balancing_mode
from hotpage.recording.budget import ArmingAccount, SamplingControl
from hotpage.recording.command import Command
from hotpage.recording.cputime import TargetCpu, machine_cpu_s, process_cpu_s
from hotpage.recording.following import FollowedProcesses
from hotpage.recording.largefolios import fault_as_a_whole
from hotpage.recording.mappings import MappingWatch
from hotpage.recording.nodes import NodeWatch
from hotpage.recording.observer import Observer
from hotpage.recording.sampling import SampleWeights
from hotpage.recording.selection import Selection

_TICK_S = 0.1
_BUSY_TICK_S = 0.02
_EAGER_S = 1.0
"""The first events of a session are looked for more often, as long as this."""
_BUSY_RING = 0.2
"""Fill of the fullest ring from which on it is read more often."""
_STEER_PERIOD_S = 0.5
_SAMPLING_PERIOD_S = 1.0
_CPUS = os.cpu_count() or 1


class ProfileSink(Protocol):
    """Where intervals go: profile.disk.store, profile.inmemory, profile.live.watched or service.heatfeed."""

    def interval(self, data: IntervalData) -> None:
        """Add one interval."""

    def close(self, end: RunEnd) -> None:
        """Note how the session ended."""


@dataclass
class Progress:
    """Totals so far, for a progress line and the closing summary."""

    elapsed_s: float = 0.0
    received: dict[str, int] = field(default_factory=dict)
    """By source, as the next three."""
    lost: dict[str, int] = field(default_factory=dict)
    missed_runs: dict[str, int] = field(default_factory=dict)
    """Times that the kernel left a program out: at most as many accesses, of whoever, were not seen."""
    sampled_out: dict[str, int] = field(default_factory=dict)
    one_in: int = 1
    stands_for: int = 0
    """Accesses that the memory samples received stand for, by their periods."""
    without_address: int = 0
    """Memory samples that told no address, and of cache hits: dropped in the kernel."""
    cache_hits: int = 0
    unwatched_s: float = 0.0
    """For how long memory was not sampled: throttled, or the counters lent to others."""
    own_cpu_s: float = 0.0
    """Without what starting took, which is ``start_up_cpu_s``."""
    start_up_cpu_s: float = 0.0
    bpf_s: float = 0.0
    target_cpu_s: float = 0.0
    target_cost_percent: float = 0.0
    is_arming: bool = False
    """Whether pages are armed at the moment: not while the budget forbids it, or ``arming_pauses``."""
    arming_pauses: bool = False
    """The notes say why."""
    tracked_pages: int = 0
    first_event_s: float | None = None
    notes: list[str] = field(default_factory=list)
    """What could not be had so far, and what cannot now; a new list each time."""

    @property
    def events(self) -> int:
        """Accesses seen, of all sources."""
        return sum(self.received.values())


def resident_bytes() -> int:
    """This process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Session:
    """A session with everything open and attached. Made and run once, by Recorder."""

    def __init__(
        self,
        run: RunInfo,
        selection: Selection,
        command: Command | None,
        capture: Capture,
        process_events: ProcessEvents,
        nodes: NodeWatch,
        sink: ProfileSink,
        account: ArmingAccount,
        arming: Arming | None,
        progress: Progress,
        keep_latencies: bool = False,
        keep_changes: bool = True,
    ) -> None:
        self._keep_changes = keep_changes
        self._origin_ns = run.origin_monotonic_ns
        self._interval_s = run.interval_s
        self._selection = selection
        self._command = command
        self._capture = capture
        self._nodes = nodes
        self._sink = sink
        self._account = account
        self._arming = arming
        self._progress = progress
        self._sources = {name: ladders()[name].events for name in capture.rungs}
        for counts in (progress.received, progress.lost, progress.missed_runs, progress.sampled_out):
            counts.update(dict.fromkeys(self._sources, 0))
        self._weights = SampleWeights() if "sample" in capture.rungs else None
        self._sampling = SamplingControl(run.budget_percent or 100.0)
        self._processes = FollowedProcesses(selection, capture, process_events, self._now_s)
        self._observer = Observer(
            HeatTable(run.horizons_s),
            self._processes.table,
            self._origin_ns,
            account.fault_cost_s,
            keep_latencies,
        )
        self._target_cpu = TargetCpu()
        self._machine_cpu_before_s = machine_cpu_s()
        self._counters_before, self._missed_before = capture.counters(), capture.missed_runs()
        self._changed_mappings: dict[int, Sequence[VmaRecord]] = {}
        self._cleared: list[ClearedRange] = []
        self._armed_passes: dict[int, int] = {}
        self._events_cpu_s = 0.0
        self._notes_before = list(progress.notes)
        self._armed_nodes: frozenset[int] | None = None
        hint = capture.rungs.get("hint")
        # Page cache comes in large folios unasked. Of anonymous ones the advice tells (Recorder).
        self._sees_parts_of_folios = (
            hint is not None and hint.walks_page_tables and fault_as_a_whole(run.kernel_release)
        )
        self._sampled = (0.0, 0.0)
        self._written = replace(progress, received={}, lost={}, missed_runs={}, sampled_out={})
        self._steered = replace(progress)

    def run(
        self,
        duration_s: float | None,
        should_stop: Callable[[], str | None],
        on_progress: Callable[[Progress], None],
    ) -> RunEnd:
        """The loop; see Recorder.run."""
        self._processes.aim()
        self._progress.start_up_cpu_s = time.process_time()
        self._steered = replace(self._progress)
        self._sampled = (0.0, self._capture.cost().run_time_s)
        # Whoever has interrupted the start does not want the command to run.
        status = should_stop() if self._command is not None else None
        if status is None:
            if self._arming is not None:
                self._arming.start()
            self._look_what_is_armed()
            if self._command is not None:
                self._command.release()  # on return it has begun
            self._processes.begin(self._command.pid if self._command else None)
        next_interval_s = self._now_s() + self._interval_s
        while status is None:
            time.sleep(self._pause_s())
            self._tick()
            status = should_stop() or self._end_of_target()
            if status is None and duration_s is not None and self._progress.elapsed_s >= duration_s:
                status = "complete"
            if self._progress.elapsed_s >= next_interval_s:
                self._write_interval()
                next_interval_s = self._now_s() + self._interval_s
            on_progress(self._progress)
        exit_status = None
        if self._command is not None:
            has_outlasted_session = status == "complete" and self._command.poll() is None
            exit_status = self._command.end()
            if has_outlasted_session:  # ended as -d asked: no failure of its own
                exit_status = None
        self._capture.set_target(Target.nothing())
        self._tick(last=True)
        self._write_interval(last=True)
        end = RunEnd(self._progress.elapsed_s, status, exit_status, self._progress.first_event_s)
        self._sink.close(end)
        return end

    def _pause_s(self) -> float:
        """Until the next tick: short while much arrives, and at the start."""
        starting = self._progress.first_event_s is None and self._now_s() < _EAGER_S
        return _BUSY_TICK_S if starting or self._capture.fullest_ring > _BUSY_RING else _TICK_S

    def _now_s(self) -> float:
        return (time.monotonic_ns() - self._origin_ns) / 1e9

    def _end_of_target(self) -> str | None:
        """Why there is nothing left to record, if so."""
        if self._command is not None:
            return None if self._command.poll() is None else "complete"
        if self._selection.pids and not self._processes.table.live():
            return "target exited"
        return None

    def _tick(self, last: bool = False) -> None:
        """Take what has happened since the last tick."""
        begun_cpu_s = time.thread_time()
        events = self._weighed(self._capture.read())
        self._events_cpu_s += time.thread_time() - begun_cpu_s
        # Afterwards, so that every exec among those events is known.
        ended, replaced_ns = self._processes.follow()
        if len(events) and self._progress.first_event_s is None:
            self._progress.first_event_s = self._now_s()
        begun_cpu_s = time.thread_time()
        new = self._observer.take(events, replaced_ns, last)
        self._events_cpu_s += time.thread_time() - begun_cpu_s
        for process in new:
            self._processes.enter(process)
        received = np.bincount(events["source"], minlength=8)
        for name, source in self._sources.items():
            self._progress.received[name] += int(received[source])
        self._processes.end(ended)
        self._progress.elapsed_s = self._now_s()
        self._processes.find_new_members()
        if self._arming is not None:
            self._processes.find_busy(self._arming.helper_pid)
        self._read_due_mappings()
        if self._progress.elapsed_s - self._steered.elapsed_s >= _STEER_PERIOD_S:
            self._steer()
        self._progress.notes = [
            *self._notes_before,
            *self._processes.notes,
            *(self._arming.notes if self._arming else ()),
        ]

    def _weighed(self, events: Events) -> Events:
        """Samples for those lost, and without the process that holds memory for --arm: it is hotpage, too."""
        if self._weights is not None:
            lost = self._capture.counters().lost - self._counters_before.lost
            self._weights.weigh(events, int(lost[EventSource.MEMORY_SAMPLE]))
            self._progress.stands_for = self._weights.stands_for
        helper = self._arming.helper_pid if self._arming else None
        return events if helper is None else select(events, events["tgid"] != helper)

    def _read_due_mappings(self, all_of_them: bool = False) -> None:
        watches = self._processes.watches
        has_looked = False
        for index, watch in watches.items():
            if all_of_them or watch.is_due(self._progress.elapsed_s):
                cleared = watch.read(self._progress.elapsed_s, len(watches))
                if cleared is None:
                    continue  # its exit is about to be told
                self._changed_mappings[index] = watch.records
                for gone in cleared:
                    self._observer.clear(index, gone.start_vpn, gone.end_vpn)
                self._cleared += cleared
            elif has_looked or not watch.dirty.read(self._progress.elapsed_s, len(watches)):
                continue
            else:
                has_looked = True  # one slice a tick
            self._leave_out(index, watch)

    def _steer(self) -> None:
        """Measure what the session costs, and adapt."""
        progress = self._progress
        counters = self._capture.counters()
        for name, source in self._sources.items():
            progress.lost[name] = int(counters.lost[source] - self._counters_before.lost[source])
            progress.sampled_out[name] = int(
                counters.sampled_out[source] - self._counters_before.sampled_out[source]
            )
        for name, count in self._capture.missed_runs().items():
            progress.missed_runs[name] = count - self._missed_before[name]
        progress.without_address = counters.without_address - self._counters_before.without_address
        progress.cache_hits = counters.cache_hits - self._counters_before.cache_hits
        if self._weights is not None:
            progress.unwatched_s = self._capture.unwatched_s()
            before = self._steered
            self._weights.unwatched(
                progress.unwatched_s - before.unwatched_s, progress.elapsed_s - before.elapsed_s
            )
        helper = self._arming.helper_pid if self._arming else None
        helper_cpu_s = process_cpu_s(helper) or 0.0 if helper else 0.0
        progress.own_cpu_s = time.process_time() + helper_cpu_s - progress.start_up_cpu_s
        progress.bpf_s = self._capture.cost().run_time_s
        if self._selection.everything:
            progress.target_cpu_s = machine_cpu_s() - self._machine_cpu_before_s - progress.own_cpu_s
        else:
            progress.target_cpu_s = self._target_cpu.update(
                process.pid for process in self._processes.table.live()
            )
        progress.tracked_pages = self._observer.table.tracked_pages
        own_share = progress.own_cpu_s / (max(progress.elapsed_s, _TICK_S) * _CPUS)
        self._account.update(progress.received.get("hint", 0), progress.target_cpu_s, own_share)
        progress.target_cost_percent = self._account.cost_percent

        self._steered = replace(progress)
        self._sample()
        self._capture.attach_new_cpus()
        if self._arming is not None:
            self._arming.hold(self._processes.table.live())
            self._arming.steer()
            self._progress.is_arming = self._arming.is_arming
            self._progress.arming_pauses = self._arming.pauses
        self._look_what_is_armed()

    def _look_what_is_armed(self) -> None:
        """Pages of all nodes, or of slow ones only, as long as kernel.numa_balancing says so."""
        with balancing_change() as may:
            if not may:  # pages change tiers just now, for which the mode is another
                return
            nodes = slow_nodes(self._nodes.topology) if arms_slow_only(balancing_mode()) else None
        if nodes != self._armed_nodes:
            self._armed_nodes = nodes
            for index, watch in self._processes.watches.items():
                self._leave_out(index, watch)

    def _leave_out(self, index: int, watch: MappingWatch) -> None:
        in_doubt = watch.left_out(self._armed_nodes, self._sees_parts_of_folios)
        self._observer.leave_out(index, in_doubt, watch.unarmed)

    def _sample(self) -> None:
        """Thin the page faults if they cost too much; nothing else becomes cheaper by that."""
        cost_s = self._events_cpu_s + self._progress.bpf_s
        since_s, before_s = self._sampled
        if self._progress.elapsed_s - since_s < _SAMPLING_PERIOD_S:
            return
        one_in = self._sampling.update(cost_s - before_s, self._progress.elapsed_s - since_s)
        if one_in != self._progress.one_in:
            self._progress.one_in = self._capture.page_fault_one_in = one_in
        self._sampled = self._progress.elapsed_s, cost_s

    def _write_interval(self, last: bool = False) -> None:
        self._steer()
        if last:
            self._read_due_mappings(all_of_them=True)
        progress, written = self._progress, self._written
        observer = self._observer
        data = IntervalData(
            start_s=written.elapsed_s,
            end_s=progress.elapsed_s,
            changes=self._changes(last),
            processes=self._processes.take_changed(),
            vmas=self._changed_mappings,
            armed=dict(self._changed_coverage()),
            cleared=self._cleared,
            nodes=self._nodes.read(last),
            folios=lambda process: observer.folios(process, progress.elapsed_s),
            latencies=observer.take_latencies(),
            migrated_pages=observer.take_migrated(),
            sources=[self._counts(name) for name in self._capture.rungs],
            own_cpu_s=progress.own_cpu_s - written.own_cpu_s,
            bpf_s=progress.bpf_s - written.bpf_s,
            target_cpu_s=progress.target_cpu_s - written.target_cpu_s,
            rss_bytes=resident_bytes(),
        )
        begun_cpu_s = time.process_time()
        try:
            self._sink.interval(data)
        except ProfileError:
            with contextlib.suppress(ProfileError):  # it has failed; if it still can, let it say how it ended
                self._sink.close(RunEnd(progress.elapsed_s, "disk full"))
            raise
        if not written.received:  # the first: it loads the library that writes
            progress.start_up_cpu_s += time.process_time() - begun_cpu_s
        for index in self._processes.take_gone():
            observer.forget(index)
            self._armed_passes.pop(index, None)
        self._changed_mappings, self._cleared = {}, []
        self._written = replace(
            progress,
            received=dict(progress.received),
            lost=dict(progress.lost),
            missed_runs=dict(progress.missed_runs),
            sampled_out=dict(progress.sampled_out),
        )

    def _changes(self, last: bool) -> Changes:
        if not self._keep_changes:
            return Changes.none()
        return self._observer.changes(self._progress.elapsed_s, everything=last)

    def _counts(self, name: str) -> SourceCounts:
        """A source's counts since the last interval."""
        progress, written = self._progress, self._written
        counts = SourceCounts(
            name,
            progress.received[name] - written.received.get(name, 0),
            progress.lost[name] - written.lost.get(name, 0),
            progress.sampled_out[name] - written.sampled_out.get(name, 0),
            progress.one_in if name == "fault" else 1,
            missed_runs=progress.missed_runs[name] - written.missed_runs.get(name, 0),
        )
        if name != "sample":
            return counts
        return replace(
            counts,
            stands_for=progress.stands_for - written.stands_for,
            without_address=progress.without_address - written.without_address,
            cache_hits=progress.cache_hits - written.cache_hits,
            unwatched_s=max(progress.unwatched_s - written.unwatched_s, 0.0),
        )

    def _changed_coverage(self) -> Iterable[tuple[int, ArmedRanges]]:
        for index in self._processes.records:
            ranges = self._observer.table.armed_ranges(index)
            passes = int(ranges.passes.sum()) + len(ranges.passes)
            if passes != self._armed_passes.get(index, 0):
                self._armed_passes[index] = passes
                yield index, ranges
