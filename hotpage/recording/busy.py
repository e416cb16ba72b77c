# SPDX-License-Identifier: Apache-2.0
"""Processes that run, by their CPU time: one with a single thread shows no hint fault until it is held."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hotpage.machine.processes import list_pids
from hotpage.recording.cputime import process_cpu_s

_ROUND_S = 3.0
_AT_ONCE, _PAUSE_S = 40, 0.1
"""So many are read at a time, and not again for so long: about a hundredth of one CPU's time at most."""


class BusyProcesses:
    """Goes round over all processes, and compares each with what it was a round before."""

    def __init__(
        self,
        pids: Callable[[], list[int]] = list_pids,
        cpu_s: Callable[[int], float | None] = process_cpu_s,
    ) -> None:
        self._pids, self._cpu_s = pids, cpu_s
        self._before: dict[int, float] = {}
        self._now: dict[int, float] = {}
        self._left: deque[int] = deque()
        self._round_s = self._read_s = float("-inf")

    def look(self, now_s: float, is_known: Callable[[int], bool]) -> list[int]:
        """Those of the next few that have run since they were last read; others than those known."""
        if now_s - self._read_s < _PAUSE_S:
            return []
        if not self._left:
            if now_s - self._round_s < _ROUND_S:
                return []
            self._round_s = now_s
            self._left.extend(self._pids())
            self._before, self._now = self._now, {}
        self._read_s = now_s
        found = []
        for _ in range(min(_AT_ONCE, len(self._left))):
            pid = self._left.popleft()
            if is_known(pid) or (used_s := self._cpu_s(pid)) is None:
                continue
            self._now[pid] = used_s
            if used_s > self._before.get(pid, used_s):
                found.append(pid)
        return found
