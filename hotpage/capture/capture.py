# SPDX-License-Identifier: Apache-2.0
"""A running capture: programs attached, rings mapped, every event either handed out or counted as lost."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from hotpage.capture import bpf, calibration, loader, selftest
from hotpage.capture.choice import choose_rungs
from hotpage.capture.events import CONFIG_DTYPE, COUNTERS_DTYPE, Events
from hotpage.capture.kernel import Kernel
from hotpage.capture.links import Links
from hotpage.capture.pairs import without_faults_behind_hints
from hotpage.capture.ring import Ring, read_all
from hotpage.capture.sources import Attachment, RungFailed
from hotpage.capture.target import Target
from hotpage.errors import AttachError, PrivilegeError, UnsupportedError
from hotpage.machine.proc import COMM_BYTES

_KEY = struct.pack("<I", 0)
DEFAULT_RING_BYTES = 8 << 20
"""209,715 records: 0.1 s of two million faults a second."""
SAMPLE_RINGS = 8
SAMPLE_RING_BYTES = 256 << 10
"""Memory samples: 6,553 records a ring, 1.6 s of 4 CPUs with 997 a second each."""
_EVENTS_MEASURED = 20_000
"""So many say what a run costs; more would only cost."""
_CPUS_PER_RING = 16
"""Contention on one ring begins to cost around this many CPUs (docs/kernel-interfaces.md)."""


@dataclass(frozen=True)
class Counters:
    """Totals since the start, indexed by EventSource; emitted = received + lost."""

    emitted: NDArray[np.uint64]
    lost: NDArray[np.uint64]
    sampled_out: NDArray[np.uint64]
    without_address: int = 0
    """Memory samples for which the processor told no user address: dropped, and part of nothing above."""
    cache_hits: int = 0
    """Memory samples of what the core's own caches served: dropped likewise."""


@dataclass(frozen=True)
class ProgramCost:
    """What the programs took while it was measured, ``run_time_s`` also after."""

    run_time_s: float
    runs: int


def shards_for(cpus: int) -> int:
    """How many rings to spread the CPUs over: 1, 2, 4 or 8."""
    shards = 1
    while shards < 8 and shards * _CPUS_PER_RING < cpus:
        shards *= 2
    return shards


class Capture:
    """Attached programs and their rings. Use as a context manager; leaving it detaches everything.

    ``rungs`` says which rung won for each source, ``refused`` why a source is missing.
    """

    def __init__(
        self,
        sources: Iterable[str] = ("hint", "fault"),
        *,
        kernel: Kernel | None = None,
        forced_rungs: Mapping[str, str] | None = None,
        ring_bytes: int = DEFAULT_RING_BYTES,
        shards: int | None = None,
    ) -> None:
        """Compile, load, attach and test the sources; no process is a target yet.

        Raises PrivilegeError, MissingDependencyError, CompileError, AttachError, and UnsupportedError when
        none of the sources works here. A source that does not work beside one that does is left out and named
        in ``refused``.
        """
        if os.geteuid() != 0:
            raise PrivilegeError("capturing page accesses needs root", "run it with sudo")
        self.kernel = kernel or Kernel()
        self._ring_bytes = ring_bytes
        self._shards = shards or shards_for(bpf.possible_cpus())
        self._links = Links()
        self._rings: list[Ring] = []
        self._programs = loader.LoadedPrograms({}, {})
        self._config = np.zeros(1, CONFIG_DTYPE)
        self._statistics_fd: int | None = None
        # Events counted and run time (ns), when measuring began and when it was last seen going on.
        self._measured_from = self._measured_to = (0, 0)
        self.received = 0
        """Records taken from the rings: counters().emitted less lost. The self-test's are among them."""
        while not self._try_rungs(tuple(sources), forced_rungs):
            self.close()

    def _try_rungs(self, sources: Iterable[str], forced_rungs: Mapping[str, str] | None) -> bool:
        """Open with the best rungs left; False if one of them failed, which the kernel remembers."""
        self.rungs, self.refused = choose_rungs(sources, self.kernel, forced_rungs)
        if not self.rungs:
            raise UnsupportedError(
                "no source of page accesses works here: "
                + "; ".join(f"{n}: {r}" for n, r in self.refused.items())
            )
        hint = self.rungs.get("hint")
        self._sees_hints_twice = hint is not None and not hint.walks_page_tables and "fault" in self.rungs
        try:
            self._open()
        except RungFailed as failure:
            self.received = 0  # those counters go as well
            for name in failure.sources:
                self.kernel.failures[name, self.rungs[name].name] = str(failure)
            return False
        except BaseException:
            self.close()
            raise
        return True

    def _open(self) -> None:
        attachments = list(dict.fromkeys(a for rung in self.rungs.values() for a in rung.attachments))
        walks = any(rung.walks_page_tables for rung in self.rungs.values())
        follow = "HOTPAGE_TASK_TGID" in self.kernel.field_defines
        functions = {a.function: a.kind for a in attachments}
        if walks:
            functions["calibrate"] = "raw_tracepoint"
        if follow:
            functions["follow_fork"] = "raw_tracepoint"
            attachments.append(
                Attachment("raw_tracepoint", "sched_process_fork", "follow_fork", optional=True)
            )
        ring_bytes = {f"ring{shard}": self._ring_bytes for shard in range(self._shards)}
        if "sample" in self.rungs:
            ring_bytes |= {f"sample_ring{shard}": SAMPLE_RING_BYTES for shard in range(SAMPLE_RINGS)}
        defines = {
            "HOTPAGE_RING_PAGES": self._ring_bytes // os.sysconf("SC_PAGE_SIZE"),
            "HOTPAGE_RING_SHARDS": self._shards,
            "HOTPAGE_SAMPLE_RING_PAGES": SAMPLE_RING_BYTES // os.sysconf("SC_PAGE_SIZE"),
            **self.kernel.field_defines,
        }
        files = []
        for rung in self.rungs.values():
            files += [name for name in rung.files if name not in files]
            defines |= rung.defines
        self._programs = loader.load(
            files, defines, functions, ["config", "targets", "counters", *ring_bytes]
        )
        # The samples' rings come first and are read first: the hint fault that an access began with is never
        # read after the sample that it ended with.
        self._rings = [Ring(self._programs.maps[name], size) for name, size in reversed(ring_bytes.items())]

        self._config = np.zeros(1, CONFIG_DTYPE)
        self._config["self_tgid"] = os.getpid()
        self._config["page_faults"] = "fault" in self.rungs
        self._config["page_fault_one_in"] = 1
        self._config["arming_text"] = self.kernel.arming_text if walks else 0
        self._config["page_offset_base"] = self._direct_map() if walks else 0
        self._write_config()
        for attachment in attachments:
            self._attach(attachment)
        selftest.run(self)

    def _direct_map(self) -> int:
        try:
            return calibration.find_direct_map(
                self._programs.programs["calibrate"], self._programs.maps["config"]
            )
        except UnsupportedError as error:
            walking = [name for name, rung in self.rungs.items() if rung.walks_page_tables]
            raise RungFailed(walking, f"page tables cannot be read here: {error}") from error

    def _attach(self, attachment: Attachment) -> None:
        program = self._programs.programs.get(attachment.function)
        users = [name for name, rung in self.rungs.items() if attachment in rung.attachments]
        if program is not None:
            try:
                self._links.attach(attachment, program)
            except AttachError as error:
                raise RungFailed(users, str(error)) from error
        elif not attachment.optional:
            reason = self._programs.failures.get(attachment.function)
            raise RungFailed(users, f"the kernel refused the program {attachment.function} ({reason})")

    def program(self, attachment: Attachment) -> int:
        """The descriptor of what runs at a hook."""
        return self._programs.programs[attachment.function]

    def attach_new_cpus(self) -> None:
        """Cover CPUs that came online since."""
        for rung in self.rungs.values():
            for attachment in rung.attachments:
                self._links.follow_cpus(attachment, self._programs.programs[attachment.function])

    def _write_config(self) -> None:
        bpf.map_update(self._programs.maps["config"], _KEY, self._config.tobytes())

    def set_target(self, target: Target) -> None:
        """Capture these processes from now on; may be called at any time."""
        targets = self._programs.maps["targets"]
        wanted = {struct.pack("<I", pid) for pid in target.pids}
        for key in set(bpf.map_keys(targets, 4)) - wanted:
            bpf.map_delete(targets, key)
        for key in wanted:
            bpf.map_update(targets, key, struct.pack("<I", 1))
        self._config["target"] = target.kind
        self._config["cgroup_id"], self._config["cgroup_level"] = target.cgroup_id, target.cgroup_level
        self._config["comm"] = os.fsencode(target.comm)[:COMM_BYTES]
        self._write_config()

    def add_pid(self, pid: int) -> None:
        """Add a process to a target of processes."""
        bpf.map_update(self._programs.maps["targets"], struct.pack("<I", pid), struct.pack("<I", 1))

    def remove_pid(self, pid: int) -> None:
        """Take a process out of a target of processes: it has exited, and its pid may be reused."""
        bpf.map_delete(self._programs.maps["targets"], struct.pack("<I", pid))

    def target_pids(self) -> set[int]:
        """The members of a target of processes, children that joined in the kernel included."""
        return {struct.unpack("<I", key)[0] for key in bpf.map_keys(self._programs.maps["targets"], 4)}

    def set_self_test(self, on: bool) -> None:
        """Capture hotpage's own accesses, which are left out otherwise."""
        self._config["self_test"] = on
        self._write_config()

    @property
    def page_fault_one_in(self) -> int:
        """One page fault in this many is kept. Hint faults always are: to drop one would make a hot page look
        cold.
        """
        return int(self._config["page_fault_one_in"][0])

    @page_fault_one_in.setter
    def page_fault_one_in(self, one_in: int) -> None:
        self._config["page_fault_one_in"] = one_in
        self._write_config()

    def read(self) -> Events:
        """Take what has arrived, in order of time."""
        events = read_all(self._rings)
        self.received += len(events)
        return without_faults_behind_hints(events) if self._sees_hints_twice else events

    @property
    def fullest_ring(self) -> float:
        """How full the fullest ring is, 0..1."""
        return max(ring.waiting_bytes / ring.size_bytes for ring in self._rings)

    def unwatched_s(self) -> float:
        """For how long memory was not sampled so far, on average over CPUs and events: throttled, or the
        counters lent to others.
        """
        total_s, events = self._links.unwatched_s()
        return total_s / events if events else 0.0

    def counters(self) -> Counters:
        """What the kernel side counted, over all CPUs."""
        cpus = bpf.possible_cpus()
        raw = bpf.map_lookup(self._programs.maps["counters"], _KEY, cpus * COUNTERS_DTYPE.itemsize)
        per_cpu = np.frombuffer(raw, COUNTERS_DTYPE)
        return Counters(
            *(per_cpu[name].sum(axis=0) for name in ("emitted", "lost", "sampled_out")),
            *(int(per_cpu[name].sum()) for name in ("without_address", "cache_hits")),
        )

    def measure_cost(self, on: bool) -> None:
        """Turn the kernel's run-time statistics for BPF programs on or off.

        They cost almost as much as the programs themselves, so ``cost`` turns them off when it has seen
        enough runs, and from then on reckons with their mean cost per event.
        """
        if on and self._statistics_fd is None:
            self._statistics_fd = bpf.enable_run_time_statistics()
            self._measured_from = self._measured_to = self._events_counted(), self._run_statistics()[0]
        elif not on and self._statistics_fd is not None:
            os.close(self._statistics_fd)
            self._statistics_fd = None

    def cost(self) -> ProgramCost:
        """Totals over hotpage's programs."""
        run_time_ns, runs = self._run_statistics()
        counted = self._events_counted()
        (events_from, ns_from), (events_to, ns_to) = self._measured_from, self._measured_to
        cost_ns: float = run_time_ns
        if self._statistics_fd is not None:
            self._measured_to = counted, run_time_ns
            if counted - events_from >= _EVENTS_MEASURED:
                self.measure_cost(False)
        elif events_to > events_from:
            # What the kernel tells now may have grown further, on behalf of others who measure.
            cost_ns = ns_from + (ns_to - ns_from) * (counted - events_from) / (events_to - events_from)
        return ProgramCost(cost_ns / 1e9, runs)

    def missed_runs(self) -> dict[str, int]:
        """How often the kernel left out a program of each source, because one was active on that CPU.

        One that is preempted is not run for others there meanwhile. Each may have been an access, of whoever.
        """
        missed = {}
        seen: set[str] = set()  # a program of two sources counts with the first
        for name, rung in self.rungs.items():
            functions = {one.function for one in rung.attachments} & self._programs.programs.keys() - seen
            missed[name] = sum(bpf.program_statistics(self._programs.programs[one])[2] for one in functions)
            seen |= functions
        return missed

    def _run_statistics(self) -> tuple[int, int]:
        """(run time in ns, runs) of all programs, as far as anybody on this machine measured them."""
        figures = [bpf.program_statistics(fd) for fd in self._programs.programs.values()]
        return sum(one[0] for one in figures), sum(one[1] for one in figures)

    def _events_counted(self) -> int:
        counters = self.counters()
        return int(counters.emitted.sum() + counters.sampled_out.sum())

    def close(self) -> None:
        """Detach, unmap, close. Safe to call twice."""
        self.measure_cost(False)
        self._links.close()
        for ring in self._rings:
            ring.close()
        self._rings = []
        self._programs.close()

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
