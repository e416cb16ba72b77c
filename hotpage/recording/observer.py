# SPDX-License-Identifier: Apache-2.0
"""Turns batches of events into heat: who, which page, armed since when."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hotpage.arrays import aranges
from hotpage.capture.events import EVENT_DTYPE, EventFlag, Events, EventSource, join, select
from hotpage.heat.keys import VPN_END
from hotpage.heat.results import Changes, Folios, Latencies
from hotpage.heat.table import HeatTable
from hotpage.machine.processes import Process, ProcessTable
from hotpage.machine.sharing import Range, union, without
from hotpage.machine.tiering import was_slow_only
from hotpage.recording.largefolios import LargeFolios, folio_pages, heads_of
from hotpage.recording.sampling import started_s
from hotpage.recording.scans import ArmedRange, ScanClock
from hotpage.recording.stalls import RUNNING_FLOOR, StallClock

_ACCESSES = (EventSource.HINT_FAULT, EventSource.PAGE_FAULT, EventSource.MEMORY_SAMPLE)


class Observer:
    """Feeds a heat table. Times are session seconds: (CLOCK_MONOTONIC ns - ``origin_ns``) / 1e9."""

    def __init__(
        self,
        table: HeatTable,
        processes: ProcessTable,
        origin_ns: int,
        fault_cost_s: float,
        keep_latencies: bool = False,
    ) -> None:
        self.table = table
        self.clock = ScanClock()
        self._processes = processes
        self._origin_ns = origin_ns
        self._fault_cost_s = fault_cost_s
        self._large: dict[int, LargeFolios] = {}
        self._held: Events = np.empty(0, EVENT_DTYPE)
        self._service: dict[int, StallClock] = {}
        self._sampled_since_s: dict[int, float] = {}
        self._not_armed: dict[int, list[Range]] = {}
        self._unarmed: dict[int, list[Range]] = {}
        self._latencies: list[Latencies] | None = [] if keep_latencies else None
        self._migrated: dict[int, int] = {}

    def take(self, events: Events, replaced_ns: dict[int, int], last: bool = False) -> list[Process]:
        """Account a batch in order of time; returns the processes seen for the first time.

        ``replaced_ns``: by pid, when the process last replaced its memory (exec); what it did before is past.
        Accesses during an arming scan wait for the next batch, unless this is the ``last``: the scan's end
        says which pages it armed.
        """
        if len(self._held):
            events, self._held = join([self._held, events]), np.empty(0, EVENT_DTYPE)
        known = self._processes.indices_of(events["tgid"])
        new = []
        for pid in np.unique(events["tgid"][known < 0]):
            found = self._processes.add(int(pid))
            if found is not None:
                new.append(found)
        for pid, time_ns in replaced_ns.items():
            if (replacement := self._processes.by_pid(pid)) is not None:
                self._sampled_since_s[replacement.index] = (time_ns - self._origin_ns) / 1e9
        if not len(events):
            return []
        process = self._processes.indices_of(events["tgid"]) if new else known
        keep = process >= 0
        for pid, time_ns in replaced_ns.items():
            keep &= (events["tgid"] != pid) | (events["time_ns"] >= time_ns)
        if not keep.all():
            events, process = select(events, keep), process[keep]
        for armed in self.clock.take(events, process):
            self._arm(armed)
        accesses = np.isin(events["source"], _ACCESSES)
        events, process = select(events, accesses), process[accesses]
        if not last:
            events, process = self._hold_back(events, process)
        if len(events):
            self._account(events, process)
        return new

    def leave_out(self, process: int, ranges: list[Range], unarmed: Sequence[Range] = ()) -> None:
        """From now on the kernel's scans leave pages in these ranges (ascending) out, and no others.

        Which of their pages, nobody knows: a hint fault on one shows that it was armed, and silence nothing.
        But of ``unarmed``, a part of them, all: what is accessed there once that is over has not been armed
        since the first scan.
        """
        self._unarmed[process] = list(unarmed)
        if ranges == self._not_armed.get(process, []):
            return
        for start_vpn, end_vpn in ranges:
            self.table.disarm(process, start_vpn, end_vpn)
        for start_vpn, end_vpn in without(0, VPN_END, ranges):
            self.table.forget_scans(process, start_vpn, end_vpn)
        self._not_armed[process] = ranges

    def _arm(self, armed: ArmedRange) -> None:
        if was_slow_only(armed.time_ns):  # nobody knows here which of the pages that was
            return
        time_s = (armed.time_ns - self._origin_ns) / 1e9
        sure = list(without(armed.start_vpn, armed.end_vpn, self._not_armed.get(armed.process, [])))
        for start_vpn, end_vpn in sure:
            self.table.arm(armed.process, start_vpn, end_vpn, time_s)
        unarmed = self._unarmed.get(armed.process, [])
        for start_vpn, end_vpn in without(armed.start_vpn, armed.end_vpn, union([*sure, *unarmed])):
            self.table.scan(armed.process, start_vpn, end_vpn, time_s)

    def _hold_back(self, events: Events, process: NDArray[np.int32]) -> tuple[Events, NDArray[np.int32]]:
        """Keep what happened during a scan in progress for the next batch; the rest."""
        now = len(events) and int(events["time_ns"][-1])
        hold = np.zeros(len(events), bool)
        for owner in np.unique(process):
            since_ns = self.clock.running_since_ns(int(owner), now)
            if since_ns is not None:
                hold |= (process == owner) & (events["time_ns"] >= since_ns)
        if not hold.any():
            return events, process
        self._held = select(events, hold)
        return select(events, ~hold), process[~hold]

    def _account(self, events: Events, process: NDArray[np.int32]) -> None:
        time_s = (events["time_ns"].astype(np.int64) - self._origin_ns) / 1e9
        vpn = (events["address"] >> np.uint64(12)).astype(np.int64)
        hints = events["source"] == EventSource.HINT_FAULT
        pages = np.ones(len(events), np.int64)
        if (events["pages"] > 1).any() or (events["flags"] & EventFlag.HUGE).any():
            pages[hints] = folio_pages(events["pages"][hints], events["flags"][hints])
            vpn = heads_of(vpn, pages)
        for owner in np.unique(process[hints]):
            mine = hints & (process == owner)
            self._note_large(int(owner), vpn[mine], pages[mine])
            self._observe_hints(int(owner), vpn[mine], time_s[mine])
        self._count_migrated(events["flags"], process, pages)
        if hints.all():
            return
        # Afterwards: what follows on the page, a fault (copy on write) or a sample, must not hide when it was
        # armed.
        touches = events["source"] == EventSource.PAGE_FAULT
        self.table.touch(process[touches], vpn[touches], time_s[touches])
        samples = events["source"] == EventSource.MEMORY_SAMPLE
        for owner in np.unique(process[samples]):
            mine = samples & (process == owner)
            self._observe_samples(int(owner), vpn[mine], time_s[mine], events["period"][mine])

    def _count_migrated(
        self, flags: NDArray[np.uint8], process: NDArray[np.int32], pages: NDArray[np.int64]
    ) -> None:
        """Pages that the kernel moved in a hint fault."""
        rows = np.flatnonzero(flags & EventFlag.MIGRATED)
        for owner, count in zip(process[rows].tolist(), pages[rows].tolist(), strict=True):
            self._migrated[owner] = self._migrated.get(owner, 0) + count

    def _observe_hints(self, owner: int, vpn: NDArray[np.int64], time_s: NDArray[np.float64]) -> None:
        """Hint faults: the exposure is the time that the program ran since the page was first armed."""
        armed_s = self.table.armed_at(owner, vpn, time_s)
        unknown = np.isnan(armed_s)
        if unknown.any() and (more := self.clock.went_on(owner, vpn[unknown])):
            for armed in more:
                self._arm(armed)
            armed_s = self.table.armed_at(owner, vpn, time_s)
            unknown = np.isnan(armed_s)
        service = self._service.setdefault(owner, StallClock(self._fault_cost_s))
        service.advance(time_s)
        threads = self._processes.by_index(owner).threads
        # The scan ran in one of the process's threads, which accessed nothing meanwhile.
        scanning_s = self.clock.scanning_s(owner, armed_s, time_s, self._origin_ns) / max(threads, 1)
        waited_s = time_s - armed_s
        running_s = waited_s - service.between(armed_s, time_s) - scanning_s
        exposure_s = np.maximum(running_s, RUNNING_FLOOR * waited_s)
        known = ~unknown
        self.table.observe(owner, vpn[known], time_s[known], exposure_s[known])
        if self._latencies is not None:
            who = np.full(np.count_nonzero(known), owner, np.int32)
            self._latencies.append(Latencies(who, vpn[known], waited_s[known].astype(np.float32)))
        # Armed before the session began: accessed now, after a silence of unknown length.
        self.table.touch(owner, vpn[unknown], time_s[unknown])

    def _observe_samples(
        self, owner: int, vpn: NDArray[np.int64], time_s: NDArray[np.float64], weight: NDArray[np.uint32]
    ) -> None:
        """Memory samples; within a large folio they speak for all of it, as its hint faults do."""
        if large := self._large.get(owner):
            vpn = heads_of(vpn, large.pages_at(vpn))
        since_s = self._sampled_since_s.get(owner)
        if since_s is None:
            since_s = max(started_s(self._processes.by_index(owner), self._origin_ns), 0.0)
            self._sampled_since_s[owner] = since_s
        self.table.sample(owner, vpn, time_s, weight, since_s)

    def _note_large(self, process: int, vpn: NDArray[np.int64], pages: NDArray[np.int64]) -> None:
        if process in self._large or (pages > 1).any():
            self._large.setdefault(process, LargeFolios()).note(vpn, pages)

    def changes(self, now_s: float, everything: bool = False) -> Changes:
        """What has changed in the table, looked for where it is likely, or everywhere.

        A huge page comes as its 512 base pages with an equal share of its rate each, as does any large folio
        that faults as a whole. Which of them were accessed nobody knows; this way bytes and accesses per
        second both add up, and the rate per byte is what huge and base pages are compared by.
        """
        changes = self.table.take_changes(now_s, everything)
        pages = np.ones(len(changes), np.int64)
        for process, large in self._large.items():
            low, high = np.searchsorted(changes.process, [process, process + 1])
            vpn = changes.vpn[low:high]
            size = large.pages_at(vpn)
            # A folio's other pages may be known from before it was one, or before that was known.
            pages[low:high] = np.where(vpn % size, 0, size)
        if (pages == 1).all():
            return changes
        row = np.repeat(np.arange(len(changes)), pages)
        share = pages[row].astype(np.float32)
        vpn = aranges(changes.vpn, pages)
        order = np.lexsort((vpn, changes.process[row]))
        row, share, vpn = row[order], share[order], vpn[order]
        return Changes(
            changes.process[row],
            vpn,
            changes.rate_hz[row] / share,
            changes.rate_short_hz[row] / share,
            changes.relative_error[row],
        )

    def folios(self, process: int, now_s: float) -> Folios:
        """All that is tracked of a process, with its current rates; a large folio is one entry."""
        rates = self.table.rates(process, now_s, current=True)
        large = self._large.get(process)
        if large is None:
            pages = np.ones(len(rates), np.int32)
            return Folios(rates.vpn, pages, rates.rate_hz, rates.rate_short_hz, rates.relative_error)
        size = large.pages_at(rates.vpn)
        kept = rates.vpn % size == 0
        pages = size[kept].astype(np.int32)
        share = pages.astype(np.float32)
        return Folios(
            rates.vpn[kept],
            pages,
            rates.rate_hz[kept] / share,
            rates.rate_short_hz[kept] / share,
            rates.relative_error[kept],
        )

    def take_latencies(self) -> Latencies | None:
        """From arming to access, of the accesses since the last call; None if they are not kept."""
        if not self._latencies:
            return None
        some, self._latencies = self._latencies, []
        return Latencies.joined(some)

    def take_migrated(self) -> dict[int, int]:
        """Base pages that the kernel moved in hint faults since the last call, by process."""
        some, self._migrated = self._migrated, {}
        return some

    def clear(self, process: int, start_vpn: int, end_vpn: int) -> None:
        """These pages were unmapped: what may be mapped there now is other memory."""
        self.table.forget(process, start_vpn, end_vpn)
        if large := self._large.get(process):
            large.clear(start_vpn, end_vpn)

    def forget(self, process: int) -> None:
        """The process has exited, or replaced its memory."""
        self.table.forget(process)
        self.clock.forget(process)
        self._large.pop(process, None)
        self._service.pop(process, None)
        self._sampled_since_s.pop(process, None)
        self._not_armed.pop(process, None)
        self._unarmed.pop(process, None)
