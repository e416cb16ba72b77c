# SPDX-License-Identifier: Apache-2.0
"""A profile in memory: takes intervals as ProfileWriter does, gives the Snapshot that ProfileReader would."""

from __future__ import annotations

from hotpage.heat.results import ArmedRanges
from hotpage.profile.fold import PageFold
from hotpage.profile.snapshot import (
    IntervalData,
    NodeRecord,
    ProcessRecord,
    RunEnd,
    RunInfo,
    Snapshot,
    Usage,
    VmaRecord,
)


class InMemoryProfile:
    """What ``demo`` and ``move`` look at: no files, the newest state only.

    A view that refreshes has live.watched.
    """

    def __init__(self, run: RunInfo) -> None:
        self._run = run
        self._end: RunEnd | None = None
        self._usage = Usage()
        self._pages = PageFold()
        self._processes: dict[int, ProcessRecord] = {}
        self._vmas: dict[int, list[VmaRecord]] = {}
        self._armed: dict[int, ArmedRanges] = {}
        self._nodes: tuple[NodeRecord, ...] = ()

    def interval(self, data: IntervalData) -> None:
        """Add one interval."""
        self._usage = self._usage.plus(data)
        for cleared in data.cleared:
            self._pages.clear(cleared, data.end_s)
        self._pages.add_pages(data.changes, data.end_s)
        self._processes |= {record.process.index: record for record in data.processes}
        for process, records in data.vmas.items():
            self._vmas[process] = sorted(records, key=lambda record: record.vma.start)
        self._armed |= data.armed
        if data.nodes:
            self._nodes = tuple(sorted(data.nodes, key=lambda node: node.node))

    def close(self, end: RunEnd) -> None:
        """Note how the session ended."""
        self._end = end

    def snapshot(self) -> Snapshot:
        """The state after the last interval."""
        return Snapshot(
            run=self._run,
            end=self._end,
            time_s=self._usage.end_s,
            usage=self._usage,
            processes=dict(self._processes),
            vmas=dict(self._vmas),
            pages=self._pages.table(),
            armed=dict(self._armed),
            nodes=self._nodes,
        )
