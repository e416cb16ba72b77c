# SPDX-License-Identifier: Apache-2.0
"""How much of the time since a page was armed its process spent in hint faults instead of accessing memory.

Right after a scan every access faults: thousands of faults follow each other, the program crawls, and a page
that it would touch every 50 us waits milliseconds for its turn. What counts for the rate is the time in which
the program ran, so time spent in faults is taken out of the exposure.

A thread's gap between two faults is the first fault's service plus whatever ran in between. The service time
is taken as a low quantile of the gaps, which credits the fault with too little rather than too much: rates of
very hot pages remain lower bounds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LONGEST_SERVICE_S = 100e-6
_QUANTILE = 0.25
_FEWEST_GAPS = 256
"""Fewer say too little about the service time; then the last estimate stays."""
_POINTS_PER_BATCH = 512
_POINTS_KEPT = 8192
_ACTIVE_SHARE = 0.1


class ServiceClock:
    """Of one process: the time spent in faults, averaged over its active threads, as a function of time."""

    def __init__(self) -> None:
        self._time_s = np.zeros(1)
        self._served_s = np.zeros(1)
        self._service_s = 0.0
        self._last_of_thread: dict[int, float] = {}

    @property
    def service_s(self) -> float:
        """What one fault takes, 0 while unknown."""
        return self._service_s

    def advance(self, time_s: NDArray[np.float64], tid: NDArray[np.uint32]) -> None:
        """Take a batch of hint faults in order of time."""
        order = np.argsort(tid, kind="stable")
        threads, first, count = np.unique(tid[order], return_index=True, return_counts=True)
        sorted_s = time_s[order]
        gaps = np.diff(sorted_s, prepend=sorted_s[0])
        before = [self._last_of_thread.get(int(thread), np.inf) for thread in threads]
        gaps[first] = np.maximum(sorted_s[first] - before, 0.0)
        self._last_of_thread = {
            int(thread): float(sorted_s[i + n - 1])
            for thread, i, n in zip(threads, first, count, strict=True)
        }
        short = gaps[(gaps > 0) & (gaps < _LONGEST_SERVICE_S)]
        if len(short) >= _FEWEST_GAPS:
            self._service_s = float(np.quantile(short, _QUANTILE))
        active = max(1, int((count >= _ACTIVE_SHARE * count.max()).sum()))
        served = np.empty_like(gaps)
        served[order] = np.minimum(gaps, self._service_s) / active
        total = self._served_s[-1] + np.cumsum(served)
        step = -(-len(total) // _POINTS_PER_BATCH)
        kept = np.r_[0 : len(total) : step, len(total) - 1] if len(total) > 1 else np.array([0])
        self._time_s = np.concatenate([self._time_s, time_s[kept]])[-_POINTS_KEPT:]
        self._served_s = np.concatenate([self._served_s, total[kept]])[-_POINTS_KEPT:]

    def between(self, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Time spent in faults; for times before what is remembered, only the remembered part."""
        ends = np.interp(end_s, self._time_s, self._served_s)
        return ends - np.interp(start_s, self._time_s, self._served_s)
