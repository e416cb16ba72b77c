# SPDX-License-Identifier: Apache-2.0
"""Turns batches of events into heat: who, which page, armed since when."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hotpage.capture.events import EventFlag, Events, EventSource
from hotpage.heat.results import Changes
from hotpage.heat.table import HeatTable
from hotpage.machine.processes import Process, ProcessTable
from hotpage.recording.scans import ScanClock
from hotpage.recording.service import ServiceClock

_HUGE_PAGES = 512
"""Base pages of a PMD mapping with 4 KiB base pages."""


class Observer:
    """Feeds a heat table. Times are session seconds: (CLOCK_MONOTONIC ns - ``origin_ns``) / 1e9."""

    def __init__(self, table: HeatTable, processes: ProcessTable, origin_ns: int) -> None:
        self.table = table
        self.clock = ScanClock()
        self._processes = processes
        self._origin_ns = origin_ns
        self._huge: dict[int, set[int]] = {}
        self._service: dict[int, ServiceClock] = {}

    def take(self, events: Events, replaced_ns: dict[int, int]) -> list[Process]:
        """Account a batch in order of time; returns the processes seen for the first time.

        ``replaced_ns``: by pid, when the process last replaced its memory (exec); what it did before is past.
        """
        known = self._processes.indices_of(events["tgid"])
        new = []
        for pid in np.unique(events["tgid"][known < 0]):
            found = self._processes.add(int(pid))
            if found is not None:
                new.append(found)
        process = self._processes.indices_of(events["tgid"]) if new else known
        keep = process >= 0
        for pid, time_ns in replaced_ns.items():
            keep &= (events["tgid"] != pid) | (events["time_ns"] >= time_ns)
        if not keep.all():
            events, process = events[keep], process[keep]

        for armed in self.clock.take(events, process):
            self.table.arm(
                armed.process, armed.start_vpn, armed.end_vpn, (armed.time_ns - self._origin_ns) / 1e9
            )
        time_s = (events["time_ns"].astype(np.int64) - self._origin_ns) / 1e9
        vpn = (events["address"] >> np.uint64(12)).astype(np.int64)
        hints = events["source"] == EventSource.HINT_FAULT
        faults = events["source"] == EventSource.PAGE_FAULT
        if faults.any():
            self.table.touch(process[faults], vpn[faults], time_s[faults])
        if hints.any():
            huge = (events["flags"][hints] & EventFlag.HUGE) != 0
            self._observe_hints(process[hints], vpn[hints], time_s[hints], events["tid"][hints], huge)
        return new

    def _observe_hints(
        self,
        process: NDArray[np.int32],
        vpn: NDArray[np.int64],
        time_s: NDArray[np.float64],
        tid: NDArray[np.uint32],
        huge: NDArray[np.bool_],
    ) -> None:
        """Hint faults: the exposure is the time that the program ran since the page was first armed."""
        if huge.any():
            vpn = np.where(huge, vpn & ~np.int64(_HUGE_PAGES - 1), vpn)
        for owner in np.unique(process):
            mine = process == owner
            self._note_huge(int(owner), vpn[mine], huge[mine])
            accessed_s = time_s[mine]
            armed_s = self.table.armed_at(int(owner), vpn[mine], accessed_s)
            armed_s = self.clock.flushed_before(int(owner), armed_s, accessed_s, self._origin_ns)
            service = self._service.setdefault(int(owner), ServiceClock())
            service.advance(accessed_s, tid[mine])
            # Armed before the session began, or in a scan whose end is not known yet: the access counts, and
            # the silence before it, of unknown length, does not.
            armed_s = np.where(np.isnan(armed_s), accessed_s, armed_s)
            exposure_s = accessed_s - armed_s - service.between(armed_s, accessed_s)
            self.table.observe(owner, vpn[mine], accessed_s, exposure_s)

    def _note_huge(self, process: int, vpn: NDArray[np.int64], huge: NDArray[np.bool_]) -> None:
        heads = self._huge.get(process)
        if heads is None:
            if not huge.any():
                return
            heads = self._huge.setdefault(process, set())
        heads.difference_update((vpn[~huge] & ~np.int64(_HUGE_PAGES - 1)).tolist())  # split since
        heads.update(vpn[huge].tolist())

    def changes(self, now_s: float, everything: bool = False) -> Changes:
        """What has changed in the table, looked for where it is likely, or everywhere.

        A huge page comes as its 512 base pages with an equal share of its rate each. Which of them were
        accessed nobody knows; this way bytes and accesses per second both add up, and the rate per byte is what huge and base pages are compared by.
        """
        changes = self.table.take_changes(now_s, everything)
        is_huge = np.zeros(len(changes), bool)
        for process, heads in self._huge.items():
            low, high = np.searchsorted(changes.process, [process, process + 1])
            is_huge[low:high] = np.isin(changes.vpn[low:high], np.fromiter(heads, np.int64, len(heads)))
        if not is_huge.any():
            return changes
        pages = np.where(is_huge, _HUGE_PAGES, 1)
        row = np.repeat(np.arange(len(changes)), pages)
        step = np.arange(len(row)) - np.repeat(np.cumsum(pages) - pages, pages)
        share = pages[row].astype(np.float32)
        vpn = changes.vpn[row] + step
        order = np.lexsort((vpn, changes.process[row]))
        row, share, vpn = row[order], share[order], vpn[order]
        return Changes(
            changes.process[row],
            vpn,
            changes.rate_hz[row] / share,
            changes.rate_short_hz[row] / share,
            changes.relative_error[row],
        )

    def forget(self, process: int) -> None:
        """The process has exited, or replaced its memory."""
        self.table.forget(process)
        self.clock.forget(process)
        self._huge.pop(process, None)
        self._service.pop(process, None)
