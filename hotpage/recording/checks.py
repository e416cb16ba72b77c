# SPDX-License-Identifier: Apache-2.0
"""What a session stands on besides its sources, each thing tried or looked at without changing anything."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hotpage.errors import HotpageError
from hotpage.machine import knobs
from hotpage.machine.capabilities import Capability
from hotpage.machine.cgroups import cgroup_level, cgroup_mount
from hotpage.machine.hold import MmHolder
from hotpage.machine.hotplug import MemoryHotplug
from hotpage.machine.proc import PROC
from hotpage.machine.processes import cgroup_of
from hotpage.machine.procevents import ProcessEvents, open_process_events
from hotpage.machine.topology import Topology
from hotpage.recording.arming import SCAN_PERIOD_MAX_MS, how_to_mount_debugfs

State = Literal["ok", "limited", "no"]

# include/uapi/linux/nsfs.h: the inode of the initial pid namespace, the same since Linux 3.8.
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
_COMPILING_BYTES = 300 << 20
"""The loader child with LLVM takes up to 185 MB, and hotpage itself 90 MB."""
_CONNECTOR_REMEDY = "boot a kernel with CONFIG_PROC_EVENTS, and do not run in a container"
_YAMA_REMEDY = "take kernel.yama.ptrace_scope=3 out of /etc/sysctl.d and reboot"
ON_THE_HOST = "run hotpage on the host, or in a container with --privileged --pid=host"


@dataclass(frozen=True)
class Check:
    """One thing that hotpage stands on. Scripts may rely on ``name``, ``state`` and ``essential``."""

    name: str
    state: State
    purpose: str
    """What hotpage wants it for."""
    finding: str
    """What is the case, and what follows from it."""
    next_step: str | None = None
    """The exact command, or what to do where no command does it."""
    essential: bool = False
    """With "no", no rates of accesses can be had."""


def check_privileges(program: str, user_id: int | None = None, status: Path = PROC / "self/status") -> Check:
    """Root with the capabilities of machine.capabilities; ``program`` is how hotpage was called."""
    purpose = "load BPF programs, read other processes' maps, set kernel settings"
    user = os.geteuid() if user_id is None else user_id
    if user != 0:
        finding = f"user {user} is not root: most of what follows is refused for that reason alone"
        return Check("privileges", "no", purpose, finding, f"sudo {program} doctor", essential=True)
    words = status.read_text().split()
    effective = int(words[words.index("CapEff:") + 1], 16)
    missing = [f"CAP_{capability.name}" for capability in Capability if not effective >> capability & 1]
    if missing:
        finding = f"root without {', '.join(missing)}"
        return Check("privileges", "no", purpose, finding, ON_THE_HOST, essential=True)
    return Check("privileges", "ok", purpose, "root with all capabilities that are needed", essential=True)


def check_pid_namespace(namespace: Path = PROC / "self/ns/pid") -> Check:
    """BPF programs tell pids of the initial namespace, so /proc has to show those."""
    purpose = "find the processes that events speak of"
    if namespace.stat().st_ino == _INITIAL_PID_NAMESPACE:
        return Check("pid namespace", "ok", purpose, "the initial one", essential=True)
    finding = "a container's own: BPF programs see other process ids than hotpage"
    return Check("pid namespace", "no", purpose, finding, ON_THE_HOST, essential=True)


def check_lockdown(file: Path = Path("/sys/kernel/security/lockdown")) -> Check:
    """Confidentiality mode keeps kernel memory from BPF programs; integrity mode does not."""
    purpose = "let BPF programs read kernel memory (page tables, task names)"
    try:
        mode = knobs.read_knob(file)
    except HotpageError:
        return Check("kernel lockdown", "ok", purpose, "the kernel tells of none")
    if mode != "confidentiality":
        return Check("kernel lockdown", "ok", purpose, mode)
    return Check(
        "kernel lockdown",
        "limited",
        purpose,
        "confidentiality: hint faults can be had from function hooks only",
        "boot with lockdown=integrity, or without Secure Boot",
    )


def check_balancing(tiers: int, file: Path = knobs.NUMA_BALANCING) -> Check:
    """The switch that makes hint faults; opened for writing, not written."""
    name, purpose = "NUMA balancing", "arm pages, so that accesses fault: the source of rates"
    try:
        mode = int(knobs.read_knob(file))
    except (HotpageError, ValueError):
        finding = "this kernel has none (CONFIG_NUMA_BALANCING): page faults only, no rates"
        return Check(name, "no", purpose, finding, "boot a kernel that has it", essential=True)
    if mode & 1:
        return Check(name, "ok", purpose, f"on ({mode}): rates arrive without --arm", essential=True)
    problem = _open_problem(file, os.O_RDWR)
    if mode:
        arms = "pages of slow tiers only" if tiers > 1 else "nothing on a single tier"
        finding = f"in tiering mode ({mode}), which arms {arms}"
        if problem is None:
            finding += "; record --arm takes mode 3 for a session"
            return Check(name, "ok", purpose, finding, essential=True)
        state: State = "limited" if tiers > 1 else "no"
        return Check(name, state, purpose, f"{finding}, for good ({problem})", ON_THE_HOST, essential=True)
    if problem:
        finding = f"off, and cannot be switched on ({problem})"
        return Check(name, "no", purpose, finding, ON_THE_HOST, essential=True)
    finding = "off; writable, so that record --arm turns it on for a session"
    return Check(name, "ok", purpose, finding, essential=True)


def check_arming_pace(file: Path = SCAN_PERIOD_MAX_MS) -> Check:
    """The debugfs knob that keeps the kernel from slowing its scans down."""
    name, purpose = "arming pace", "arm pages often, so that rates follow changes"
    problem = _open_problem(file, os.O_RDWR)
    if problem is None:
        return Check(name, "ok", purpose, f"{file.name} is {knobs.read_knob(file)}; record --arm lowers it")
    cost = "the kernel slows its scans down, to a minute apart at most"
    if (mount := how_to_mount_debugfs(file)) is not None:
        return Check(name, "limited", purpose, f"debugfs is not mounted: {cost}", mount)
    return Check(
        name,
        "limited",
        purpose,
        f"debugfs sched/numa_balancing is closed ({problem}): {cost}",
        "record for minutes rather than seconds: record -d 180",
    )


def check_holding(start: Callable[[], MmHolder] = MmHolder) -> Check:
    """userfaultfd, and ptrace access to another process's memory, both by use on the holder's own helper."""
    name, purpose = "holding", "make single-threaded processes show hint faults, too"
    try:
        with contextlib.closing(start()) as holder:
            problem = _open_problem(PROC / f"{holder.helper_pid}/mem", os.O_RDONLY)
    except HotpageError as error:
        return Check(name, "limited", purpose, f"{error.problem}: they will show none", error.remedy)
    except OSError as error:
        return Check(name, "limited", purpose, f"its helper does not start ({error}): they will show none")
    if problem:
        finding = f"the memory of other processes is closed ({problem}): they will show none"
        return Check(name, "limited", purpose, finding, _YAMA_REMEDY)
    return Check(name, "ok", purpose, "userfaultfd and access to other processes' memory work")


def check_process_events(start: Callable[[], ProcessEvents] = open_process_events) -> Check:
    """The proc connector, or polling."""
    name, purpose = "process events", "follow forks, execs and exits"
    with contextlib.closing(start()) as events:
        if not events.reason:
            return Check(name, "ok", purpose, f"{events.rung} works")
        why, _, remedy = events.reason.partition(": ")
        finding = f"{events.rung} instead ({why}): processes that live for less than 0.5 s are missed"
        return Check(name, "limited", purpose, finding, remedy or _CONNECTOR_REMEDY)


def check_cgroups(level_of_root: Callable[[], int] = lambda: cgroup_level(cgroup_mount())) -> Check:
    """The whole version 2 hierarchy, visible."""
    name, purpose = "cgroup v2", "record --cgroup"
    try:
        level_of_root()
    except HotpageError as error:
        return Check(name, "limited", purpose, f"{error.problem}: no --cgroup", error.remedy)
    return Check(name, "ok", purpose, "the whole hierarchy is visible")


def check_hotplug(start: Callable[[], MemoryHotplug] = MemoryHotplug) -> Check:
    """The kernel's uevents."""
    name, purpose = "memory hot-plug", "notice memory that comes and goes"
    try:
        start().close()
    except HotpageError as error:
        return Check(name, "limited", purpose, f"{error.problem}: nodes are read once only", error.remedy)
    return Check(name, "ok", purpose, "uevents can be heard")


def check_pending_settings(program: str, pending: Callable[[], list[knobs.Pending]] = knobs.pending) -> Check:
    """What a killed session has left behind."""
    name, purpose = "settings", "leave kernel settings as they were"
    try:
        found = pending()
    except HotpageError as error:
        return Check(name, "limited", purpose, error.problem, error.remedy)
    left = [knob.path for knob in found if not knob.pids]
    if left:
        finding = f"a killed session has left {', '.join(left)} changed"
        return Check(name, "limited", purpose, finding, f"sudo {program} restore")
    used = sorted({pid for knob in found for pid in knob.pids})
    if used:
        return Check(name, "ok", purpose, f"changed by a running session (pid {', '.join(map(str, used))})")
    return Check(name, "ok", purpose, "nothing is left changed by an earlier session")


def check_topology(topology: Topology) -> Check:
    """One line; ``hotpage tiers`` has the rest."""
    size_bytes = sum(node.total_bytes or 0 for node in topology.nodes)
    cpus = sum(len(node.cpus) for node in topology.nodes)
    finding = ", ".join(
        (
            _count(len(topology.nodes), "node"),
            _count(len(topology.tiers), "tier"),
            _count(cpus, "CPU"),
            f"{size_bytes / 2**30:.1f} GiB",
        )
    )
    return Check("topology", "ok", "say on which memory pages are", finding)


def check_memory(proc_root: Path = PROC, cgroup_root: Callable[[], Path] = cgroup_mount) -> Check:
    """Room for the compiler: the machine's, and the memory limits of hotpage's own cgroups (version 2)."""
    words = (proc_root / "meminfo").read_text().split()
    room_bytes, whose = int(words[words.index("MemAvailable:") + 1]) * 1024, "the machine"
    with contextlib.suppress(HotpageError, OSError):
        own = cgroup_of(proc_root / "self").strip("/")
        for directory in [cgroup_root() / own, *(cgroup_root() / own).parents]:
            with contextlib.suppress(OSError, ValueError):  # the root has no limit; "max" is no number
                limit_bytes = int((directory / "memory.max").read_text())
                left_bytes = limit_bytes - int((directory / "memory.current").read_text())
                room_bytes, whose = min((room_bytes, whose), (left_bytes, f"cgroup {directory.name}"))
    name, purpose = "memory", "compile BPF programs (once, 300 MiB) and keep heat"
    finding = f"{max(room_bytes, 0) >> 20:,} MiB can be had in {whose}"
    if room_bytes < _COMPILING_BYTES:
        return Check(name, "limited", purpose, finding, "raise the limit, or end something else")
    return Check(name, "ok", purpose, finding)


def _open_problem(path: Path, mode: int) -> str | None:
    """Why the file cannot be opened, None if it can: unlike access(2), this asks every security module."""
    try:
        os.close(os.open(path, mode | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror or str(error)
    return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
