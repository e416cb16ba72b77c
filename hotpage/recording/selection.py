# SPDX-License-Identifier: Apache-2.0
"""Whom a session profiles: what the user asked for, as a kernel filter and as a set of processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hotpage.capture.target import Target
from hotpage.errors import TargetError, UsageError
from hotpage.machine.cgroups import cgroup_directory, cgroup_id, cgroup_level, pids_in_cgroup
from hotpage.machine.proc import COMM_BYTES, PROC, printable, read_lines, read_living, read_stat
from hotpage.machine.processes import children_of, list_pids, pids_by_comm


def thread_group_of(tid: int) -> int | None:
    """The process that a thread belongs to: /proc shows both under their numbers; None if it has gone."""
    for line in read_lines(PROC / str(tid) / "status"):
        if line.startswith(b"Tgid:"):
            return int(line.split()[1])
    return None


@dataclass(frozen=True)
class Selection:
    """Exactly one of the fields is set."""

    pids: frozenset[int] = frozenset()
    """These processes and their descendants."""
    cgroup: Path | None = None
    comm: str | None = None
    everything: bool = False
    several: tuple[Selection, ...] = ()
    """The processes of all of these; cgroups and commands among them may appear later."""

    @property
    def is_followed(self) -> bool:
        """Whether the kernel filters by a set of pids, which the session has to keep up with."""
        return bool(self.pids or self.several)

    @classmethod
    def of_pids(cls, pids: Iterable[int]) -> Selection:
        """Processes by pid; raises TargetError for one that does not exist or has no memory."""
        wanted = frozenset(pids)
        for pid in sorted(wanted):
            stat = read_living(pid)
            if stat is None:
                raise TargetError(f"there is no process {pid}", "see ps -e")
            leader = thread_group_of(pid)
            if leader not in (None, pid):
                raise TargetError(f"{pid} is a thread of process {leader}", f"give -p {leader}")
            if stat.is_kernel_thread:
                raise TargetError(
                    f"process {pid} ({printable(stat.comm)}) is a kernel thread and has no pages of its own"
                )
        return cls(pids=wanted)

    @classmethod
    def of_cgroup(cls, path: str) -> Selection:
        """A cgroup v2 subtree by path; raises TargetError."""
        return cls(cgroup=cgroup_directory(path))

    @classmethod
    def of_comm(cls, comm: str) -> Selection:
        """Processes by command name, present and future; raises UsageError for a name that no process can
        have.
        """
        if not comm or len(os.fsencode(comm)) > COMM_BYTES:
            raise UsageError(
                f"'{comm}' is no command name",
                f"those have 1 to {COMM_BYTES} bytes (see ps -eo comm)",
            )
        return cls(comm=comm)

    def kernel_target(self) -> Target:
        """The filter for the BPF programs; for pids with the descendants that live now."""
        if self.everything:
            return Target.everything()
        if self.cgroup is not None:
            return Target.cgroup(cgroup_id(self.cgroup), cgroup_level(self.cgroup))
        if self.comm is not None:
            return Target.named(self.comm)
        return Target.processes(self.members())

    def members(self) -> set[int]:
        """The pids selected now."""
        if self.everything:
            return set(list_pids())
        if self.several:
            return set().union(*(part.members() for part in self.several))
        if self.cgroup is not None:
            try:
                return set(pids_in_cgroup(self.cgroup))
            except TargetError:  # it is not there yet, or no more
                return set()
        if self.comm is not None:
            return set(pids_by_comm(self.comm))
        return set(self.pids).union(*(children_of(pid) for pid in self.pids))

    def __str__(self) -> str:
        if self.everything:
            return "all processes"
        if self.several:
            return "; ".join(map(str, self.several))
        if self.cgroup is not None:
            return f"cgroup {printable(str(self.cgroup))}"
        if self.comm is not None:
            return f"processes named {printable(self.comm)}"
        names = []
        for pid in sorted(self.pids):
            stat = read_stat(pid)
            names.append(f"{pid} ({printable(stat.comm)})" if stat else str(pid))
        return ("process " if len(names) == 1 else "processes ") + ", ".join(names)
