# SPDX-License-Identifier: Apache-2.0
"""A profile for a view that refreshes: takes intervals, costs a step per changed page, gives LiveView."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from hotpage.arrays import Int32s, Int64s, first_of_runs
from hotpage.errors import ProfileError
from hotpage.heat.results import Changes
from hotpage.machine.folios import PAGE_BYTES
from hotpage.profile.live.fromnow import RecordingFromNow
from hotpage.profile.live.mappings import MappingTable, silence
from hotpage.profile.live.pages import MAX_SLOTS, LivePages, PageRows
from hotpage.profile.live.sums import (
    Counted,
    Settled,
    choose_hot_bin,
    heat_by_slot,
    heat_of_mappings,
    place,
    settle,
    tiers,
    total,
)
from hotpage.profile.live.view import LiveMapping, LiveProcess, LiveView
from hotpage.profile.runs import PageRuns, join_neighbours
from hotpage.profile.snapshot import (
    IntervalData,
    NodeRecord,
    PageTable,
    ProcessRecord,
    RunEnd,
    RunInfo,
    Snapshot,
    Usage,
    VmaRecord,
)
from hotpage.profile.strips import HeatStrip, strip_of
from hotpage.profile.summary import RANGE_OCTAVES

HISTORY = 120
"""Intervals whose accesses/s are kept of each process."""
_STRIP_BLOCKS = 2048


class WatchedProfile:
    """The sink of a session that is watched. ``view`` is the newest picture; it and what the methods return
    never change afterwards. Methods may be called from other threads than the session's.
    """

    def __init__(self, run: RunInfo) -> None:
        self.run = run
        self.view: LiveView | None = None
        self.recording: RecordingFromNow | None = None
        self._lock = threading.Lock()
        self._end: RunEnd | None = None
        self._usage = Usage()
        self._pages = LivePages()
        self._mappings = MappingTable()
        self._records: dict[int, ProcessRecord] = {}
        self._slots: dict[int, int] = {}
        self._spare_slots: list[int] = []
        self._exited: list[int] = []
        self._nodes: tuple[NodeRecord, ...] = ()
        self._history_hz = np.empty((0, HISTORY), np.float32)
        self._settled = Settled(*(np.empty(0) for _ in range(3)))

    # From the session

    def interval(self, data: IntervalData) -> None:
        """Take one interval and make the next view."""
        with self._lock:
            if self.recording is not None:
                self.recording.add(data)
            for process in self._exited:
                self._drop(process)
            self._take(data)
            self._usage = self._usage.plus(data)
            self.view = self._picture(Usage().plus(data), data.migrated_pages)

    def close(self, end: RunEnd) -> None:
        """Note how the session ended; a recording ends with it."""
        with self._lock:
            self._end = end
            if self.view is not None:
                self.view = replace(self.view, end=end)
        self.stop_recording()

    # From the view

    def mappings(self, process: int) -> list[LiveMapping]:
        """The mappings of a process that have something in memory, or a page that is tracked."""
        with self._lock:
            slot = self._slots.get(process)
            return [] if slot is None else self._mapping_rows(process, slot)

    def strip(self, process: int, record: VmaRecord, cells: int) -> HeatStrip:
        """The heat along a mapping (profile.strips); of a very large one some pages stand for their
        neighbours.
        """
        with self._lock:
            slot = self._slots.get(process)
            if slot is None:
                return HeatStrip(np.empty(0), np.empty(0, np.bool_))
            start, end = record.vma.start // PAGE_BYTES, record.vma.end // PAGE_BYTES
            pages, stand_for = self._pages.sample(slot, start, end, _STRIP_BLOCKS)
            armed = self._mappings.armed(slot)
        return strip_of(record, pages.vpn, pages.rate_hz, armed, cells, stand_for)

    def pages(self, process: int, start: int, end: int) -> PageRows:
        """The pages of an address range (bytes)."""
        with self._lock:
            slot = self._slots.get(process)
            if slot is None:
                slot = MAX_SLOTS - 1
            return self._pages.pages(slot, start // PAGE_BYTES, end // PAGE_BYTES)

    def snapshot(self, process: int, start: int, end: int) -> Snapshot:
        """What is known of one process within addresses (bytes); nothing when it has gone."""
        start_vpn, end_vpn = start // PAGE_BYTES, end // PAGE_BYTES
        pages = self.pages(process, start, end)
        owner, time_s = np.full(len(pages), process, np.int32), np.full(len(pages), self._usage.end_s)
        rates = (pages.rate_hz, pages.rate_hz, pages.relative_error)
        with self._lock:
            slot, record = self._slots.get(process), self._records.get(process)
            armed = None if slot is None else self._mappings.armed(slot)
            return Snapshot(
                run=self.run,
                end=self._end,
                time_s=self._usage.end_s,
                usage=self._usage,
                processes={} if record is None else {process: record},
                vmas={},
                pages=PageTable(owner, pages.vpn, *rates, time_s),
                armed={} if armed is None else {process: armed.within(start_vpn, end_vpn)},
                nodes=self._nodes,
            )

    def ranges(self, process: int, start: int, end: int) -> PageRuns:
        """Stretches of pages of similar rate, as in a report, and of pages of unknown rate."""
        pages = self.pages(process, start, end)
        owner = np.full(len(pages), process, np.int32)
        rates = (pages.rate_hz, pages.rate_hz, pages.relative_error)
        table = PageTable(owner, pages.vpn, *rates, np.zeros(len(pages)))
        return join_neighbours(table, RANGE_OCTAVES, compare_short=False)

    def record(self, directory: Path) -> None:
        """Begin to write a profile; raises ProfileError when the directory cannot be used."""
        with self._lock:
            if self._end is not None:
                raise ProfileError("there is nothing left to record", "the session has ended")
            if self.recording is not None and self.recording.is_running:
                raise ProfileError("a recording is running already")
            state = IntervalData(
                start_s=self._usage.end_s,
                end_s=self._usage.end_s,
                changes=Changes.none(),
                processes=list(self._records.values()),
                vmas={
                    process: self._mappings.records[slot]
                    for process, slot in self._slots.items()
                    if slot in self._mappings.records
                },
                armed={
                    process: armed
                    for process, slot in self._slots.items()
                    if (armed := self._mappings.armed(slot)) is not None
                },
                nodes=self._nodes,
            )
            self.recording = RecordingFromNow(directory, self.run, state, self._page_part)

    def stop_recording(self) -> None:
        """End the recording, if there is one; on return it is on the disk."""
        recording = self.recording
        if recording is not None:
            recording.end(RunEnd(self._usage.end_s, "complete"))

    def _page_part(self, after_block: int) -> tuple[int, Int32s, PageRows]:
        """The next part of all pages, with the process of each (LivePages.part)."""
        with self._lock:
            last, slots, pages = self._pages.part(after_block)
            process = np.full(max(self._slots.values(), default=0) + 2, -1, np.int32)
            for index, slot in self._slots.items():
                process[slot] = index
            return last, process[slots], pages

    # Inside, with the lock held

    def _take(self, data: IntervalData) -> None:
        for record in data.processes:
            self._records[record.process.index] = record
            self._slot(record.process.index)
            if record.exited_s is not None:
                self._exited.append(record.process.index)
        if data.nodes:
            self._nodes = tuple(sorted(data.nodes, key=lambda node: node.node))
            self._mappings.set_nodes([node.node for node in self._nodes])
        for process, records in data.vmas.items():
            self._mappings.set_mappings(self._slot(process), records)
        for process, armed in data.armed.items():
            self._mappings.set_armed(self._slot(process), armed)
        for gone in data.cleared:
            self._pages.clear(self._slot(gone.process), gone.start_vpn, gone.end_vpn)
        changes = data.changes
        self._pages.update(
            self._slots_of(changes.process), changes.vpn, changes.rate_hz, changes.relative_error
        )
        if data.latencies is not None:
            found = data.latencies
            self._pages.note_latencies(self._slots_of(found.process), found.vpn, found.latency_s)

    def _slot(self, process: int) -> int:
        if process not in self._slots:
            slot = self._spare_slots.pop() if self._spare_slots else len(self._slots)
            self._slots[process] = slot
            if slot >= len(self._history_hz):
                more = max(slot + 1, 2 * slot) - len(self._history_hz)
                self._history_hz = np.pad(
                    self._history_hz, ((0, more), (0, 0)), constant_values=np.float32(np.nan)
                )
            self._history_hz[slot] = np.nan
        return self._slots[process]

    def _slots_of(self, process: Int32s) -> Int64s:
        first = first_of_runs(process)
        slots = [self._slot(index) for index in process[first].tolist()]
        return np.repeat(np.array(slots, np.int64), np.diff(first, append=len(process)))

    def _drop(self, process: int) -> None:
        """Forget a process that has exited: it was shown once more."""
        slot = self._slots.pop(process, None)
        self._records.pop(process, None)
        if slot is not None:
            self._pages.clear(slot)
            self._mappings.forget(slot)
            self._spare_slots.append(slot)
        self._exited = [index for index in self._exited if index != process]

    def _picture(self, recent: Usage, migrated_pages: Mapping[int, int]) -> LiveView:
        pages, mappings, nodes = self._pages, self._mappings, self._nodes
        table, found = mappings.table(), silence(mappings, pages, self.run, self._usage.end_s)
        slots = {process: slot for process, slot in self._slots.items() if process in self._records}
        living = [slot for process, slot in slots.items() if self._records[process].exited_s is None]
        living = living or list(slots.values())
        counted = Counted.of(pages, table, found, living)
        threshold, hot_bin = choose_hot_bin(pages, table, found, counted, nodes)
        pages.set_hot_bin(hot_bin)
        self._settled = settle(found, threshold)
        placement = place(pages, table, found, counted, nodes)
        heats = heat_by_slot(pages, mappings, self._settled, placement, nodes, len(self._history_hz))
        self._history_hz[:, :-1] = self._history_hz[:, 1:]
        self._history_hz[:, -1] = [heat.accesses_per_s for heat in heats]
        history_hz = self._history_hz.copy()
        theirs = [heats[slot] for slot in living]
        every = total(theirs, table, self._settled, counted, placement, nodes)
        return LiveView(
            run=self.run,
            end=self._end,
            time_s=self._usage.end_s,
            usage=self._usage,
            recent=recent,
            threshold=threshold,
            processes=[
                LiveProcess(
                    self._records[process],
                    heats[slot],
                    history_hz[slot],
                    migrated_pages.get(process, 0) / recent.window_s if recent.window_s else 0.0,
                )
                for process, slot in slots.items()
            ],
            total=every,
            tiers=tiers(every, placement, nodes),
            pages=len(pages),
        )

    def _mapping_rows(self, process: int, slot: int) -> list[LiveMapping]:
        heats = heat_of_mappings(self._pages, self._mappings, self._settled, self._nodes, slot)
        records = [*self._mappings.records.get(slot, []), None]
        return [
            LiveMapping(process, record, heat)
            for record, heat in zip(records, heats, strict=True)
            if heat.resident_bytes or heat.seen_bytes
        ]
