# SPDX-License-Identifier: Apache-2.0
"""CPU time of other processes, and of hotpage's own children."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hotpage.machine.proc import read_stat

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def process_cpu_s(pid: int) -> float | None:
    """User and system time of a process with all its threads, dead ones included; None if it has gone."""
    stat = read_stat(pid)
    return stat.cpu_s if stat else None


def machine_cpu_s() -> float:
    """User and system time of all CPUs since boot."""
    with Path("/proc/stat").open() as lines:
        user, nice, system = map(int, lines.readline().split()[1:4])
    return (user + nice + system) * _TICK_S


class TargetCpu:
    """Accumulates the CPU time of a changing set of processes."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}
        self.total_s = 0.0

    def update(self, pids: Iterable[int]) -> float:
        """Add what these have used since the last call (nothing yet for new ones); the total.

        What a process uses between the last call and its exit is not seen.
        """
        now: dict[int, float] = {}
        for pid in pids:
            used = process_cpu_s(pid)
            if used is not None:
                now[pid] = used
                self.total_s += max(0.0, used - self._last.get(pid, used))
        self._last = now
        return self.total_s
