# SPDX-License-Identifier: Apache-2.0
"""When which pages were armed, from the control records among the events.

Function hooks tell every armed range (ARM). The tracepoint rung tells less about an arming scan: which
mappings it left out (SCAN_SKIP, the first of them at its very beginning), that it flushed the TLB (SCAN, once
per mapping that it changed), and where it ended (SCAN_END, seen with the first hint fault after it). From
those: the range between the scan's start and its end, less what it left out, was armed, beginning with the
scan's first record.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hotpage.capture.events import Events, EventSource

_END_OF_SPACE = 1 << 52
_SAME_SCAN_NS = 300_000_000
"""Scans of one process are at least a second apart (numa_balancing/scan_period_min_ms); the records of one
lie milliseconds apart."""
_SCANS_KEPT = 16
_SKIPPED_INACTIVE = 4
"""NUMAB_SKIP_PID_INACTIVE: the thread that scans has not accessed the mapping lately."""
_CONTROL = (EventSource.ARM, EventSource.SCAN, EventSource.SCAN_END, EventSource.SCAN_SKIP)


@dataclass(frozen=True)
class ArmedRange:
    """Pages armed together, from ``time_ns`` on."""

    process: int
    start_vpn: int
    end_vpn: int
    time_ns: int


@dataclass
class _Scan:
    begun_ns: int
    last_record_ns: int
    start_vpn: int | None = None
    skipped: list[tuple[int, int]] = field(default_factory=list)
    skipped_inactive: bool = False

    def ranges(self, process: int, start_vpn: int, end_vpn: int) -> list[ArmedRange]:
        """The given range without the mappings that the scan left out."""
        armed = []
        at = start_vpn
        for start, end in sorted(self.skipped):
            if at < start < end_vpn:
                armed.append(ArmedRange(process, at, start, self.begun_ns))
            at = max(at, end)
        if at < end_vpn:
            armed.append(ArmedRange(process, at, end_vpn, self.begun_ns))
        return armed


@dataclass
class _ProcessScans:
    open: list[_Scan] = field(default_factory=list)
    """The newest, and of those before it the last that changed something: its end may be seen later."""
    finished: deque[_Scan] = field(default_factory=lambda: deque(maxlen=_SCANS_KEPT))
    unclear_end_vpn: int | None = None


class ScanClock:
    """Follows the arming scans of all processes."""

    def __init__(self) -> None:
        self._processes: dict[int, _ProcessScans] = {}

    def take(self, events: Events, process: NDArray[np.int32]) -> list[ArmedRange]:
        """The ranges found armed by a batch of events in order of time; other records are passed over."""
        armed: list[ArmedRange] = []
        for index in np.flatnonzero(np.isin(events["source"], _CONTROL)):
            event, owner = events[index], int(process[index])
            source, time_ns = int(event["source"]), int(event["time_ns"])
            vpn, pages = int(event["address"]) >> 12, int(event["pages"])
            if source == EventSource.ARM:
                armed.append(ArmedRange(owner, vpn, vpn + pages, time_ns))
                continue
            scans = self._processes.setdefault(owner, _ProcessScans())
            if source == EventSource.SCAN_END:
                armed += _finish(owner, scans, vpn or _END_OF_SPACE, time_ns)
                continue
            if not scans.open or time_ns - scans.open[-1].last_record_ns > _SAME_SCAN_NS:
                scans.open = [*_flushed(scans.open)[-1:], _Scan(time_ns, time_ns)]
            scan = scans.open[-1]
            scan.last_record_ns = time_ns
            if source == EventSource.SCAN_SKIP:
                scan.skipped.append((vpn, vpn + pages))
                scan.skipped_inactive |= int(event["flags"]) == _SKIPPED_INACTIVE
            else:
                scan.start_vpn = vpn
        return armed

    def running_since_ns(self, process: int, now_ns: int) -> int | None:
        """When the scan began that is in progress; None if none is. Accesses since then are to be judged
        later.
        """
        scans = self._processes.get(process)
        if scans is None or not scans.open or now_ns - scans.open[-1].last_record_ns > _SAME_SCAN_NS:
            return None
        return scans.open[-1].begun_ns

    def scanning_s(
        self, process: int, armed_s: NDArray[np.float64], time_s: NDArray[np.float64], origin_ns: int
    ) -> NDArray[np.float64]:
        """How long the scan that armed each page (at ``armed_s``) went on before its access at ``time_s``."""
        taken_s = np.zeros_like(armed_s)
        for scan in self._processes.get(process, _ProcessScans()).finished:
            begun_s = (scan.begun_ns - origin_ns) / 1e9
            mine = np.abs(armed_s - begun_s) < 1e-6
            ended_s = (scan.last_record_ns - origin_ns) / 1e9
            taken_s[mine] = np.minimum(time_s[mine], ended_s) - begun_s
        return taken_s

    def went_on(self, process: int, vpn: NDArray[np.int64]) -> list[ArmedRange]:
        """What the last scan armed beyond its apparent end, if hint faults of unarmed pages there prove it.

        When a scan has reached the end of the address space and has left out mappings that its thread does
        not use, the kernel scans one of those after all and stores *its* end as the scan's.
        """
        scans = self._processes.get(process)
        if scans is None or scans.unclear_end_vpn is None or not (vpn >= scans.unclear_end_vpn).any():
            return []
        ranges = scans.finished[-1].ranges(process, scans.unclear_end_vpn, _END_OF_SPACE)
        scans.unclear_end_vpn = None
        return ranges

    def forget(self, process: int) -> None:
        """The process has gone."""
        self._processes.pop(process, None)


def _flushed(scans: list[_Scan]) -> list[_Scan]:
    """Those that changed something: the others have armed nothing."""
    return [scan for scan in scans if scan.start_vpn is not None]


def _finish(owner: int, scans: _ProcessScans, end_vpn: int, time_ns: int) -> list[ArmedRange]:
    """Close the newest scan that can have ended then. The programs have one open at a time: the ends of those
    before it were lost.
    """
    begun = _flushed([scan for scan in scans.open if scan.begun_ns <= time_ns])
    if not begun:
        return []
    scan = begun[-1]
    assert scan.start_vpn is not None
    del scans.open[: scans.open.index(scan) + 1]
    scans.finished.append(scan)
    scans.unclear_end_vpn = end_vpn if scan.skipped_inactive and end_vpn < _END_OF_SPACE else None
    return scan.ranges(owner, scan.start_vpn, end_vpn)
