# SPDX-License-Identifier: Apache-2.0
"""Processes, told apart for the length of a session although pids are reused and exec replaces memory."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hotpage.machine.cgroups import pids_in_cgroup
from hotpage.machine.proc import COMM_BYTES, PID_LIMIT, PROC, Stat, read_bytes, read_lines, read_living

__all__ = [
    "Process",
    "ProcessTable",
    "cgroup_of",
    "children_of",
    "list_pids",
    "pids_by_comm",
    "pids_in_cgroup",
]


@dataclass(frozen=True, slots=True)
class Process:
    """One address space: a process between two execs.

    ``index`` is small and unique in the session; the rest is as it was when last read. Empty strings stand
    for what the kernel does not tell.
    """

    index: int
    pid: int
    start_time_ticks: int
    comm: str
    cmdline: str
    exe: str
    threads: int
    cgroup: str
    parent_pid: int


class ProcessTable:
    """Gives each (pid, start time, exec) an index of its own, and finds indices for arrays of pids.

    ``comm``: the only command name whose processes are let in.
    """

    def __init__(self, proc_root: Path = PROC, comm: str | None = None) -> None:
        self._proc_root = proc_root
        self._comm = comm
        self._all: dict[int, Process] = {}
        self._next_index = 0
        # pid -> index + 1, so that untouched zero pages of this lazily filled array mean "unknown".
        self._slot_of_pid = np.zeros(PID_LIMIT + 1, dtype=np.int32)

    def add(self, pid: int) -> Process | None:
        """The live process of that pid, with a new index if it is new (or the pid was reused).

        None when it has gone, has no memory of its own (a kernel thread) or the wrong name.
        """
        stat = read_living(pid, self._proc_root)
        if stat is None or stat.is_kernel_thread:
            return None
        known = self.by_pid(pid)
        if known is not None and known.start_time_ticks == stat.start_time_ticks:
            return known
        if self._comm not in (None, stat.comm):
            return None
        return self._enter(pid, stat)

    def refresh(self, pid: int) -> Process | None:
        """Read a known process's threads, names and cgroup again, keeping its index; None if it has gone."""
        known = self.by_pid(pid)
        if known is None:
            return None
        stat = read_living(pid, self._proc_root, known.start_time_ticks)
        if stat is None:
            return None
        self._all[known.index] = self._describe(known.index, pid, stat)
        return self._all[known.index]

    def is_alive(self, process: Process) -> bool:
        """Whether that very process still runs, by /proc."""
        return read_living(process.pid, self._proc_root, process.start_time_ticks) is not None

    def forget(self, index: int) -> None:
        """Drop a process that no pid stands for any more; its index stays taken."""
        process = self._all.get(index)
        if process is not None and self.by_pid(process.pid) is not process:
            del self._all[index]

    def exec(self, pid: int) -> tuple[Process | None, Process | None]:
        """The process replaced its memory: (the old, the new under a new index), None where there is none."""
        old = self.exit(pid)
        return old, self.add(pid)

    def exit(self, pid: int) -> Process | None:
        """The pid no longer stands for a process; returns the one it stood for."""
        old = self.by_pid(pid)
        if old is not None:
            self._slot_of_pid[pid] = 0
        return old

    def by_pid(self, pid: int) -> Process | None:
        """The process that the pid stands for now, as far as the table was told."""
        slot = int(self._slot_of_pid[pid]) if 0 <= pid < PID_LIMIT else 0
        return self._all[slot - 1] if slot else None

    def by_index(self, index: int) -> Process:
        """The process of an index, gone or not, but not forgotten."""
        return self._all[index]

    def indices_of(self, tgid: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        """Index of each process id, -1 where unknown; shape as given."""
        # "clip" sends impossible ids to the last slot, which no pid can have.
        return self._slot_of_pid.take(tgid, mode="clip") - np.int32(1)

    def all(self) -> tuple[Process, ...]:
        """Every process of the session in order of index, with those that have gone and are not forgotten."""
        return tuple(self._all.values())

    def live(self) -> list[Process]:
        """The processes that some pid stands for now, in order of index."""
        return [process for process in self._all.values() if self.by_pid(process.pid) is process]

    def _enter(self, pid: int, stat: Stat) -> Process:
        process = self._describe(self._next_index, pid, stat)
        self._next_index += 1
        self._all[process.index] = process
        self._slot_of_pid[pid] = process.index + 1
        return process

    def _describe(self, index: int, pid: int, stat: Stat) -> Process:
        directory = self._proc_root / str(pid)
        exe = ""
        with contextlib.suppress(OSError):
            exe = str((directory / "exe").readlink())
        return Process(
            index=index,
            pid=pid,
            start_time_ticks=stat.start_time_ticks,
            comm=stat.comm,
            cmdline=os.fsdecode(read_bytes(directory / "cmdline") or b"").rstrip("\0").replace("\0", " "),
            exe=exe,
            threads=stat.threads,
            cgroup=cgroup_of(directory),
            parent_pid=stat.parent_pid,
        )


def list_pids(proc_root: Path = PROC) -> list[int]:
    """Every process id, kernel threads included, sorted."""
    return sorted(int(entry.name) for entry in proc_root.iterdir() if entry.name.isdecimal())


def pids_by_comm(name: str, proc_root: Path = PROC) -> list[int]:
    """Processes whose command name is ``name``, which the kernel cuts to 15 bytes."""
    wanted = os.fsencode(name)[:COMM_BYTES]
    return [pid for pid, stat in _stats(proc_root) if os.fsencode(stat.comm) == wanted]


def children_of(pid: int, proc_root: Path = PROC) -> list[int]:
    """Every living descendant of a process, not only its own children; sorted."""
    children: dict[int, list[int]] = {}
    for child, stat in _stats(proc_root):
        children.setdefault(stat.parent_pid, []).append(child)
    found: list[int] = []
    todo = [pid]
    while todo:
        own = children.get(todo.pop(), [])
        found += own
        todo += own
    return sorted(found)


def _stats(proc_root: Path) -> Iterable[tuple[int, Stat]]:
    for pid in list_pids(proc_root):
        stat = read_living(pid, proc_root)
        if stat is not None:
            yield pid, stat


def cgroup_of(directory: Path) -> str:
    """The cgroup (version 2) of the process with that directory of /proc; empty where nobody tells."""
    own = (line[3:] for line in read_lines(directory / "cgroup") if line.startswith(b"0::"))
    return os.fsdecode(next(own, b""))
