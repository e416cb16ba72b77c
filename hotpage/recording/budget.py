# SPDX-License-Identifier: Apache-2.0
"""The overhead budget: what arming may cost the target, and taking events the machine.

``--budget PCT`` bounds two things, each on its own, by doing less of what causes them:

* The target's slowdown: CPU time spent in hint faults and in arming, as a share of the CPU time that the
  target uses, and the share of the machine that hotpage itself takes, for a target that would use all of it
  loses that, too. It is spent in whole arming scans, so this is an account: a scan may begin when what the
  last one cost fits into what the target's CPU time has earned so far. Only the first scan may overdraw it.
* hotpage's CPU time for events, its BPF programs included, as a share of one CPU: over it, fewer page faults
  are kept. What else hotpage does (following processes, reading mappings, writing) does not become less by
  that, and is not bounded; it counts in the first share only.
"""

from __future__ import annotations

import contextlib
import mmap
import time

_HINT_SHARE = 0.7
"""A hint fault and the arming that it takes, against a first touch, which also allocates and clears a page:
1.6-1.8 us of the target's system time against 2.5 us on a 6.18 VM (docs/benchmarks.md)."""
_TEST_PAGES = 2048


def measure_fault_cost_s() -> float:
    """CPU seconds of a page fault here: first touches of a mapping of our own, the median of a few rounds."""
    rounds = []
    for _ in range(5):
        with mmap.mmap(-1, _TEST_PAGES * mmap.PAGESIZE) as pages:
            with contextlib.suppress(OSError):  # a kernel without huge pages
                pages.madvise(mmap.MADV_NOHUGEPAGE)
            begun = time.thread_time()
            for offset in range(0, len(pages), mmap.PAGESIZE):
                pages[offset] = 1
            rounds.append((time.thread_time() - begun) / _TEST_PAGES)
    return sorted(rounds)[2]


def hint_fault_cost_s(fault_cost_s: float) -> float:
    """What a hint fault costs the target, arming included, where a first touch costs ``fault_cost_s``."""
    return _HINT_SHARE * fault_cost_s


class ArmingAccount:
    """Earned and spent CPU seconds of the target; decides whether another scan is affordable."""

    def __init__(self, budget_percent: float, fault_cost_s: float) -> None:
        self._share = budget_percent / 100
        self.fault_cost_s = fault_cost_s
        self._target_cpu_s = 0.0
        self._faults_before_scan_s = 0.0
        self._ended_scan_s: float | None = None
        self._faults_s = 0.0
        self._displaced_s = 0.0

    def update(self, hint_faults: int, target_cpu_s: float, own_share: float = 0.0) -> None:
        """Totals since the session began; ``own_share`` of the machine's CPU time went to hotpage, 0..1."""
        self._faults_s = hint_faults * hint_fault_cost_s(self.fault_cost_s)
        self._displaced_s = own_share * target_cpu_s
        self._target_cpu_s = target_cpu_s

    def begin_scan(self) -> None:
        """Arming is switched on: what faults cost from now on is the cost of the scan that follows."""
        self._faults_before_scan_s = self._faults_s
        self._ended_scan_s = None

    def end_scan(self) -> None:
        """What faults cost from now on is no longer the cost of that scan: the kernel goes on arming."""
        self._ended_scan_s = self._faults_s - self._faults_before_scan_s

    @property
    def spent_s(self) -> float:
        """What hint faults, arming the pages that took them, and hotpage's own work have cost the target."""
        return self._faults_s + self._displaced_s

    @property
    def affordable(self) -> bool:
        """Whether another scan as costly as the last one fits into the budget."""
        last_scan_s = self._ended_scan_s
        if last_scan_s is None:  # what it has armed may still fault
            last_scan_s = self._faults_s - self._faults_before_scan_s
        return self._faults_s == 0 or self.spent_s + last_scan_s <= self._share * self._target_cpu_s

    @property
    def cost_percent(self) -> float:
        """The target's slowdown so far, estimated."""
        return 100 * self.spent_s / self._target_cpu_s if self._target_cpu_s else 0.0


class SamplingControl:
    """Chooses N, so that keeping one page fault in N holds the CPU time for events under the budget.

    Where that stops helping it stops, too: a fault that is left out still costs the run of a program.
    """

    COARSEST = 1024
    STEP = 4
    """Factor of N: large enough for a step that helps to show."""
    _HELPED, _GREW = 0.9, 1.5
    """Shares of the cost before the last step up: below, it helped; above, there is more to do since."""

    def __init__(self, budget_percent: float) -> None:
        self._share = budget_percent / 100
        self.one_in = 1
        self._before_step = 0.0

    def update(self, events_cpu_s: float, elapsed_s: float) -> int:
        """CPU seconds for events, the programs' included, in the last ``elapsed_s``; returns N."""
        share = events_cpu_s / elapsed_s
        if share > self._share:
            if not self._HELPED * self._before_step <= share <= self._GREW * self._before_step:
                self.one_in = min(self.one_in * self.STEP, self.COARSEST)
                self._before_step = share
        elif share < self._share / 4 and self.one_in > 1:
            self.one_in //= self.STEP
            self._before_step = 0.0
        return self.one_in
