# SPDX-License-Identifier: Apache-2.0
"""How much of the time since a page was armed its process spent in hint faults instead of accessing memory.

Right after a scan every access faults. Thousands of faults follow each other, the program crawls, and a page
that it would touch every 50 us waits milliseconds for its turn. The rate wanted is that of the program
running freely, so time spent in faults is taken out of the exposure.

Where faults come thickest the program does nothing else: there the mean time between faults is what one fault
takes. Elsewhere the share of time spent running is what remains. It is never taken as less than
RUNNING_FLOOR, because it is a small difference of large numbers: rates of pages that fault in the thick of it
are lower bounds, off by at most the inverse of that. The correction keeps the order in which pages were
accessed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RUNNING_FLOOR = 0.1
_WINDOW_FAULTS = 256
_PAUSE_S = 1e-3
"""A storm of faults begins after a pause; the pause itself is time spent running."""
_SERVICE_ALLOWANCE = 2.0
"""A hint fault is taken to cost at most this many times an ordinary page fault."""
_POINTS_KEPT = 8192


class StallClock:
    """Of one process: the time not spent running, summed up, as a function of time."""

    def __init__(self, fault_cost_s: float) -> None:
        """``fault_cost_s``: CPU seconds of an ordinary page fault on this machine."""
        self._longest_service_s = _SERVICE_ALLOWANCE * fault_cost_s
        self._service_s = self._longest_service_s
        self._time_s = np.zeros(1)
        self._served_s = np.zeros(1)

    def advance(self, time_s: NDArray[np.float64]) -> None:
        """Take the times of a batch of hint faults, ascending and later than those before."""
        gaps = np.diff(time_s, prepend=self._time_s[-1])
        pauses = np.flatnonzero(gaps > _PAUSE_S)
        edges = np.unique(np.r_[0, pauses, pauses + 1, np.arange(0, len(gaps), _WINDOW_FAULTS)])
        edges = edges[edges < len(gaps)]
        length_s = np.add.reduceat(gaps, edges)
        faults = np.diff(edges, append=len(gaps))
        full = faults >= _WINDOW_FAULTS // 2
        if full.any():
            thickest_s = float((length_s[full] / faults[full]).min())
            self._service_s = min(thickest_s, self._service_s * 1.1, self._longest_service_s)
        served_s = np.minimum(faults * self._service_s, (1 - RUNNING_FLOOR) * length_s)
        ends = np.append(edges[1:], len(gaps)) - 1
        total_s = self._served_s[-1] + np.cumsum(served_s)
        self._time_s = np.concatenate([self._time_s, time_s[ends]])[-_POINTS_KEPT:]
        self._served_s = np.concatenate([self._served_s, total_s])[-_POINTS_KEPT:]

    def between(self, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Time spent in faults; for times before what is remembered, only the remembered part."""
        ends = np.interp(end_s, self._time_s, self._served_s)
        return ends - np.interp(start_s, self._time_s, self._served_s)
