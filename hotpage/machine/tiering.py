# SPDX-License-Identifier: Apache-2.0
"""The kernel's own promotion and demotion: held still while hotpage decides, or driven in its place.

Mode 2 of kernel.numa_balancing promotes pages of slow tiers by their hint latency, as many as
numa_balancing_promote_rate_limit_MBps allows: at 0, none. Mode 1 alone would move a page to the CPU that
touches it, tiers or not; with both bits set that holds among fast nodes only. So to hold it: limit 0, and bit
2 wherever balancing is on. The one exception is the kernel's (numamigrate, pgdat_free_space_enough): while a
fast node has more than max(1 GiB, 1/16 of it) free above its watermark, it promotes regardless.

Bit 2 must not come and go as one likes. While it is set, a slow page's last_cpupid holds the time when it was
armed, and the kernel drops that when a page changes tiers; without the bit it does not. A page that was
promoted meanwhile keeps the time, and so does every slow page once the bit is gone: in the next hint fault
under bit 1 task_numa_fault takes the time for a CPU, and the process dies of an oops (6.12 and 7.3; pages
that stayed slow were not tried). So pages move within ``tier_changes``, and mode 1 is left as it is.

And while balancing is off, a page armed before that has a time which happens to name a CPU that there is, of
the node that accesses it, is migrated there like any page between two sockets: seen on 7.3. ``ArmingTimes``
tells when not to arm.
"""

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from hotpage.errors import KnobError, TargetError, UnsupportedError
from hotpage.machine.cgroups import cgroup_directory
from hotpage.machine.knobs import NUMA_BALANCING, Knob, KnobSession, read_knob
from hotpage.machine.proc import PROC, printable, read_lines
from hotpage.machine.topology import SYSFS, Topology, parse_cpulist

PROMOTE_RATE_LIMIT: Final = Path("/proc/sys/kernel/numa_balancing_promote_rate_limit_MBps")
ARMING_ONLY: Final = 3
"""The mode of kernel.numa_balancing that, with a limit of 0, arms pages and promotes none."""
TIERING_ONLY: Final = 2
"""The mode that arms pages of slow tiers only, to promote them."""
_BY_NODE_BIT: Final = 1
_TIERING_BIT: Final = 2
_PID_BITS: Final = 8
_JIFFIES_BEGIN_S: Final = 300.0
"""Of uptime, when they pass 0."""
_MARGIN_MS: Final = 2000
_MOST_LEFT_OUT: Final = 0.1
_LONGEST_THRESHOLD_MS: Final = 60_000
_BUSY_TRIES, _BUSY_PAUSE_S = 20, 0.1


def arms_slow_only(mode: int | None) -> bool:
    """Whether the kernel leaves pages of fast nodes out when it arms (change_pte_range, change_huge_pmd)."""
    return mode is not None and bool(mode & _TIERING_BIT) and not mode & _BY_NODE_BIT


def slow_nodes(topology: Topology) -> frozenset[int]:
    """The nodes below those that have CPUs, as the kernel sees them (node_is_toptier)."""
    with_cpus = {node.id for node in topology.nodes if node.cpus}
    tiers = list(topology.kernel_tiers.values())
    if not tiers:
        return frozenset(node.id for node in topology.nodes) - with_cpus
    fast = [number for number, nodes in enumerate(tiers) if with_cpus.intersection(nodes)]
    return frozenset(node for nodes in tiers[max(fast, default=len(tiers)) + 1 :] for node in nodes)


def hold_promotion(knobs: KnobSession) -> bool:
    """Stop the kernel from promoting until the session of knobs ends; False where it cannot be stopped.

    Balancing that is off stays off.
    """
    try:
        mode = int(read_knob(NUMA_BALANCING))
        if mode and not mode & _TIERING_BIT:
            return False
        knobs.write(PROMOTE_RATE_LIMIT, 0)
    except (KnobError, ValueError):
        return False
    return True


class ArmingTimes:
    """When what the kernel notes as a page's time of arming would pass for a CPU that there is.

    That is the milliseconds of its jiffies, which begin at -300 s, where otherwise a CPU stands above 8 bits
    of a process id (page-flags-layout.h): in each 2^(8 + bits of a CPU's number) ms the first 256 for each
    CPU.
    """

    def __init__(self, sysfs_root: Path = SYSFS) -> None:
        self._misread_ms, self._period_ms = 0, 1
        cpus = sysfs_root / "devices/system/cpu"
        try:
            count = parse_cpulist((cpus / "possible").read_text())[-1] + 1
            bits = int((cpus / "kernel_max").read_text()).bit_length()
        except (OSError, ValueError, IndexError):
            return
        self._misread_ms, self._period_ms = count << _PID_BITS, 1 << (_PID_BITS + bits)
        if self._misread_ms > _MOST_LEFT_OUT * self._period_ms:  # a kernel built for just so many CPUs
            self._misread_ms = 0

    def misread_for_s(self, now_s: float) -> float:
        """How long that will last, a margin before and after it included; 0 when it is not so. ``now_s`` of
        CLOCK_MONOTONIC.
        """
        if not self._misread_ms:
            return 0.0
        place_ms = (round(1000 * (now_s - _JIFFIES_BEGIN_S)) + _MARGIN_MS) % self._period_ms
        return max(self._misread_ms + 2 * _MARGIN_MS - place_ms, 0) / 1000


_balancing_changes = threading.Lock()
_slow_only_ns: deque[tuple[int, int]] = deque(maxlen=64)
_NO_END = 1 << 63
_armer: Knob | None = None
"""What a session of this process arms with: it, and no other session, sets the switch."""


def arm_with(switch: Knob | None) -> None:
    """From now on ``tier_changes`` uses the switch of a session of this process, or of none."""
    global _armer
    _armer = switch


@contextmanager
def tier_changes() -> Iterator[None]:
    """While pages are moved to a faster tier: what is on stays on, and balancing that is off has bit 2 alone
    and promotes nothing. Where it cannot be set, nobody here has armed anything.
    """
    with _balancing_changes, KnobSession() as knobs:
        begun_ns = time.monotonic_ns()
        switch = _tiering_switched_on(knobs)
        if switch is not None:
            _slow_only_ns.append((begun_ns, _NO_END))
        try:
            yield
        finally:
            if switch is not None:
                switch.set(0)
                _slow_only_ns[-1] = begun_ns, time.monotonic_ns()


def was_slow_only(time_ns: int) -> bool:
    """Whether ``tier_changes`` of this process had bit 2 alone set then (CLOCK_MONOTONIC)."""
    return any(begun <= time_ns <= ended for begun, ended in tuple(_slow_only_ns))


def _tiering_switched_on(knobs: KnobSession) -> Knob | None:
    """The switch, if it was off. Relied on in any case: what ends meanwhile does not put it back."""
    try:
        own = knobs.knob(NUMA_BALANCING)
        switch = own if _armer is None or own.try_steer() else _armer
        if read_knob(NUMA_BALANCING) != "0" or not hold_promotion(knobs):
            return None
        is_on = switch.set(_TIERING_BIT)
    except KnobError:
        return None
    if not is_on:
        raise KnobError("another hotpage arms pages just now", "end it before pages are promoted")
    return switch


@contextmanager
def balancing_change() -> Iterator[bool]:
    """Whether balancing may be switched now: not while pages change tiers."""
    may = _balancing_changes.acquire(blocking=False)
    try:
        yield may
    finally:
        if may:
            _balancing_changes.release()


class TieringCounters(NamedTuple):
    """Pages that the kernel has promoted and demoted since boot, of all processes."""

    promoted: int
    demoted: int

    @staticmethod
    def read(proc_root: Path = PROC) -> "TieringCounters":
        """As they are now; 0 for what the kernel does not count."""
        counts = {}
        for line in read_lines(proc_root / "vmstat"):
            name, _, count = line.partition(b" ")
            if name.startswith((b"pgdemote_", b"pgpromote_success")):
                counts[name] = int(count)
        promoted = counts.pop(b"pgpromote_success", 0)
        return TieringCounters(promoted, sum(counts.values()))


class KernelTiering:
    """The kernel's promotion and demotion, driven until the session of knobs ends.

    Which pages move the kernel decides: it promotes what is accessed soon after it was armed, of every
    process, to the node of the CPU that accesses it; it demotes what its lists call old.
    """

    def __init__(
        self, knobs: KnobSession, topology: Topology, sysfs_root: Path = SYSFS, proc_root: Path = PROC
    ) -> None:
        self._knobs = knobs
        self._topology = topology
        self._sysfs, self._proc = sysfs_root, proc_root
        self._balancing = proc_root / NUMA_BALANCING.relative_to(PROC)
        self._rate_limit = proc_root / PROMOTE_RATE_LIMIT.relative_to(PROC)
        self._demotion = sysfs_root / "kernel/mm/numa/demotion_enabled"
        self._threshold = sysfs_root / "kernel/debug/sched/numa_balancing/hot_threshold_ms"

    def require_promotion(self) -> None:
        """Raise UnsupportedError where the kernel cannot promote by tiers."""
        self._require_tiers("promotes")
        for knob in (self._balancing, self._rate_limit):
            if not knob.exists():
                raise UnsupportedError(f"this kernel has no {knob}", "use --mover move_pages")
        if read_knob(self._balancing) == str(_BY_NODE_BIT):
            # It would be set back to that, while the times of arming are still there.
            raise UnsupportedError(
                "kernel.numa_balancing is 1, and to set that back after promotions would crash processes",
                "sysctl kernel.numa_balancing=2 (or 0), or use --mover move_pages",
            )

    def require_demotion(self, node: int, cgroup: str) -> None:
        """Raise UnsupportedError where the kernel cannot be told to demote from that node."""
        self._require_tiers("demotes")
        if not self._demotion.exists():
            raise UnsupportedError(f"this kernel has no {self._demotion}", "use --mover move_pages")
        self._reclaim_file(node, cgroup)

    def _require_tiers(self, verb: str) -> None:
        if len(self._topology.kernel_tiers) < 2:
            raise UnsupportedError(
                f"the kernel sees one memory tier, so it {verb} nothing itself", "use --mover move_pages"
            )

    def allow_promotion(self, hot_hz: float) -> tuple[str, ...]:
        """Let the kernel promote, at a rate of nothing so far; what could not be set, for people.

        A page of ``hot_hz`` accesses/s faults within 3/hot_hz of being armed, 19 times of 20: that becomes
        the kernel's threshold where it can be set. Not if ``hot_hz`` is no positive number. Raises KnobError.
        """
        self._write(self._rate_limit, 0)
        self.allow_demotion()  # else a full fast node takes nothing in
        self._write(self._balancing, int(read_knob(self._balancing)) | _TIERING_BIT)
        if not 0 < hot_hz < float("inf"):
            return ()
        try:
            threshold_ms = min(max(round(3000 / hot_hz), 1), _LONGEST_THRESHOLD_MS)
            self._write(self._threshold, threshold_ms)
        except KnobError as error:
            return (f"hot_threshold_ms stays as it is: {error}",)
        return ()

    def limit_promotion(self, mib_per_s: int) -> None:
        """Let the kernel promote at most so much. Raises KnobError."""
        self._write(self._rate_limit, mib_per_s)

    def allow_demotion(self) -> None:
        """Let reclaim demote rather than discard. Raises KnobError."""
        self._write(self._demotion, 1)

    def _write(self, knob: Path, value: int) -> None:
        if not self._knobs.write(knob, value):
            raise KnobError(f"another hotpage has set {knob}", "wait until it has ended, or end it")

    def demote(self, node: int, cgroup: str, size_bytes: int) -> bool:
        """Have so much of a node reclaimed, where demotion is allowed; False if the kernel managed less.

        Ask for a little at a time: after a signal it begins again.
        """
        path = self._reclaim_file(node, cgroup)
        for _ in range(_BUSY_TRIES):
            try:
                file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(file, str(size_bytes).encode())
                finally:
                    os.close(file)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return False
                if error.errno != errno.EBUSY:
                    refusal = f"{printable(str(path))} refuses {size_bytes} bytes ({error.strerror})"
                    raise KnobError(refusal) from error
                time.sleep(_BUSY_PAUSE_S)  # somebody else reclaims there
            else:
                return True
        return False

    def _reclaim_file(self, node: int, cgroup: str) -> Path:
        """What demotes from that node: its own file, else the cgroup's, which reclaims from every node."""
        of_node = self._sysfs / f"devices/system/node/node{node}/reclaim"
        if of_node.exists():
            return of_node
        try:
            of_group = cgroup_directory(cgroup, self._proc) / "memory.reclaim"
        except (TargetError, UnsupportedError):
            of_group = self._proc / "no cgroup"
        if not of_group.exists():
            raise UnsupportedError(
                f"this kernel has neither {of_node} nor memory.reclaim for {printable(cgroup)}",
                "use --mover move_pages",
            )
        if len(read_lines(self._proc / "swaps")) > 1:
            raise UnsupportedError(
                f"memory.reclaim would also swap, and there is no {of_node}",
                "use --mover move_pages, or swapoff",
            )
        return of_group

    def counters(self) -> TieringCounters:
        """Pages so far."""
        return TieringCounters.read(self._proc)
