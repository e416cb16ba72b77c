# SPDX-License-Identifier: Apache-2.0
"""When which pages were armed, from the control records among the events.

Function hooks tell every armed range (ARM). The tracepoint rung tells less: that an arming scan flushed the
TLB (SCAN, once per mapping that it changed), which mappings it left out (SCAN_SKIP), and where it ended
(SCAN_END, seen with the first hint fault after it). From those: the range between the scan's start and its
end, less what it left out, was armed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hotpage.capture.events import Events, EventSource

_END_OF_SPACE = 1 << 52
_SAME_SCAN_NS = 500_000_000
"""Scans of one process are at least a second apart (numa_balancing/scan_period_min_ms), their records
milliseconds.
"""
_SCANS_KEPT = 16
_CONTROL = (EventSource.ARM, EventSource.SCAN, EventSource.SCAN_END, EventSource.SCAN_SKIP)


@dataclass(frozen=True)
class ArmedRange:
    """Pages armed together, at the earliest at ``time_ns``."""

    process: int
    start_vpn: int
    end_vpn: int
    time_ns: int


@dataclass
class _Scan:
    start_vpn: int
    flushes_ns: list[int] = field(default_factory=list)


@dataclass
class _ProcessScans:
    running: _Scan | None = None
    skipped: list[tuple[int, int, int]] = field(default_factory=list)  # time_ns, start, end
    finished: deque[_Scan] = field(default_factory=lambda: deque(maxlen=_SCANS_KEPT))


class ScanClock:
    """Follows the arming scans of all processes."""

    def __init__(self) -> None:
        self._processes: dict[int, _ProcessScans] = {}
        self.scans = 0
        """Scans seen to their end, or exact ranges."""

    def take(self, events: Events, process: NDArray[np.int32]) -> list[ArmedRange]:
        """The ranges found armed by a batch of events in order of time; other records are passed over."""
        armed: list[ArmedRange] = []
        for index in np.flatnonzero(np.isin(events["source"], _CONTROL)):
            event, owner = events[index], int(process[index])
            source, time_ns = int(event["source"]), int(event["time_ns"])
            vpn, pages = int(event["address"]) >> 12, int(event["pages"])
            scans = self._processes.setdefault(owner, _ProcessScans())
            if source == EventSource.ARM:
                armed.append(ArmedRange(owner, vpn, vpn + pages, time_ns))
                self.scans += 1
            elif source == EventSource.SCAN_SKIP:
                scans.skipped.append((time_ns, vpn, vpn + pages))
            elif source == EventSource.SCAN:
                if scans.running is None:
                    scans.running = _Scan(vpn)
                scans.running.flushes_ns.append(time_ns)
            elif scans.running is not None:
                armed += _finish(owner, scans, vpn or _END_OF_SPACE)
                self.scans += 1
        return armed

    def flushed_before(
        self, process: int, armed_s: NDArray[np.float64], time_s: NDArray[np.float64], origin_ns: int
    ) -> NDArray[np.float64]:
        """Arming times made sharper: the last flush before each access, of the scan that armed its page.

        A scan of many mappings takes milliseconds and flushes after each. ``armed_s`` are times that ``take``
        gave for whole scans; accesses at ``time_s`` come after their own mapping's flush.
        """
        sharper = armed_s.copy()
        scans = self._processes.get(process)
        if scans is None:
            return sharper
        for scan in (*scans.finished, *((scans.running,) if scans.running else ())):
            flushes_s = (np.array(scan.flushes_ns, np.int64) - origin_ns) / 1e9
            mine = np.abs(armed_s - flushes_s[0]) < 1e-3
            if mine.any():
                place = np.searchsorted(flushes_s, time_s[mine], side="right") - 1
                sharper[mine] = flushes_s[np.maximum(place, 0)]
        return sharper

    def forget(self, process: int) -> None:
        """The process has gone."""
        self._processes.pop(process, None)


def _finish(owner: int, scans: _ProcessScans, end_vpn: int) -> list[ArmedRange]:
    """Close the running scan: its range without the mappings that it skipped."""
    scan = scans.running
    assert scan is not None
    first_ns, last_ns = scan.flushes_ns[0], scan.flushes_ns[-1]
    holes = sorted(
        (start, end)
        for time_ns, start, end in scans.skipped
        if first_ns - _SAME_SCAN_NS < time_ns < last_ns + _SAME_SCAN_NS
    )
    # Records of a scan that has begun since stay for it.
    scans.skipped = [entry for entry in scans.skipped if entry[0] >= last_ns + _SAME_SCAN_NS]
    scans.finished.append(scan)
    scans.running = None
    armed = []
    at = scan.start_vpn
    for start, end in holes:
        if at < start < end_vpn:
            armed.append(ArmedRange(owner, at, start, first_ns))
        at = max(at, end)
    if at < end_vpn:
        armed.append(ArmedRange(owner, at, end_vpn, first_ns))
    return armed
