# SPDX-License-Identifier: Apache-2.0
"""What memory samples stand for, and since when a process has been sampled."""

from __future__ import annotations

import os
import time

import numpy as np

from hotpage.capture.events import Events, EventSource
from hotpage.machine.processes import Process

_LARGEST_PERIOD = 0xFFFFFFFF
_LARGEST_SHARE = 0.99


class SampleWeights:
    """Makes the samples received stand for those lost with them: w = period · (n + lost) / n.

    Lost are those that found no room and, in proportion, those of the time in which sampling stood still.
    """

    def __init__(self) -> None:
        self.stands_for = 0
        """Accesses that the samples received stand for by their own periods."""
        self._accounted = 0
        self._unwatched_share = 0.0

    def unwatched(self, unwatched_s: float, elapsed_s: float) -> None:
        """Sampling stood still for so long of the last ``elapsed_s``; the next batches are weighed by it."""
        self._unwatched_share = min(max(unwatched_s / elapsed_s, 0.0), _LARGEST_SHARE) if elapsed_s else 0.0

    def weigh(self, events: Events, lost: int) -> None:
        """Raise the ``period`` of a batch's samples, in place; ``lost`` is the total since the start.

        Samples lost before any was received wait for the next batch. Rounding is carried from one sample to
        the next, so that the sum is right for periods of 1, too.
        """
        samples = np.flatnonzero(events["source"] == EventSource.MEMORY_SAMPLE)
        if not len(samples):
            return
        period = events["period"][samples].astype(np.float64)
        self.stands_for += int(period.sum())
        missing, self._accounted = lost - self._accounted, lost
        factor = (1 + missing / len(samples)) / (1 - self._unwatched_share)
        if factor > 1:
            whole = np.rint(np.cumsum(period * factor))
            weight = np.minimum(np.diff(whole, prepend=0.0), _LARGEST_PERIOD)
            events["period"][samples] = weight.astype(np.uint32)


def started_s(process: Process, origin_ns: int) -> float:
    """When a process was started, in session seconds; before the session: below 0.

    /proc counts from boot with time suspended, CLOCK_MONOTONIC without.
    """
    suspended_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    started_ns = process.start_time_ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK") - suspended_ns
    return (started_ns - origin_ns) / 1e9
