# SPDX-License-Identifier: Apache-2.0
"""Whose accesses to capture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hotpage.capture.events import TargetKind


@dataclass(frozen=True)
class Target:
    """A filter that the programs apply in the kernel. hotpage itself is never part of it."""

    kind: TargetKind
    pids: frozenset[int] = frozenset()
    """PIDS: thread-group ids; children forked later join by themselves."""
    cgroup_id: int = 0
    cgroup_level: int = 0
    """CGROUP: the cgroup v2 directory's inode number and its depth below the root (0)."""
    comm: str = ""
    """COMM: command name, at most 15 bytes."""

    @classmethod
    def everything(cls) -> Target:
        """Every process."""
        return cls(TargetKind.ALL)

    @classmethod
    def nothing(cls) -> Target:
        """No process yet."""
        return cls(TargetKind.NONE)

    @classmethod
    def processes(cls, pids: Iterable[int]) -> Target:
        """These processes and the children they fork from now on."""
        return cls(TargetKind.PIDS, pids=frozenset(pids))

    @classmethod
    def cgroup(cls, cgroup_id: int, level: int) -> Target:
        """A cgroup v2 subtree."""
        return cls(TargetKind.CGROUP, cgroup_id=cgroup_id, cgroup_level=level)

    @classmethod
    def named(cls, comm: str) -> Target:
        """Processes of this command name."""
        return cls(TargetKind.COMM, comm=comm)
