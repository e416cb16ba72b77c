# SPDX-License-Identifier: Apache-2.0
"""Heat for the service: what a session knows, handed over when asked for, without a copy kept beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hotpage.heat.results import ArmedRanges, Folios
from hotpage.profile.snapshot import (
    IntervalData,
    NodeRecord,
    ProcessRecord,
    RunEnd,
    RunInfo,
    Usage,
    VmaRecord,
)
from hotpage.recording.background import SessionThread
from hotpage.recording.recorder import Options

_POLL_S = 0.1


@dataclass(frozen=True)
class Picture:
    """What is known at ``time_s`` (session seconds), of the processes that live.

    ``folios``, ``vmas`` and ``armed`` by process index. ``events``: accesses seen since the session began.
    """

    run: RunInfo
    time_s: float
    processes: Mapping[int, ProcessRecord]
    folios: Mapping[int, Folios]
    vmas: Mapping[int, Sequence[VmaRecord]]
    armed: Mapping[int, ArmedRanges]
    nodes: Sequence[NodeRecord]
    usage: Usage = field(default_factory=Usage)
    cost_s: float = 0.0
    """CPU seconds that it took to read the rates."""

    @property
    def events(self) -> int:
        """Accesses seen since the session began."""
        return self.usage.received

    @property
    def tracked_pages(self) -> int:
        """Base pages with a state."""
        return sum(int(folios.pages.sum()) for folios in self.folios.values())


class HeatFeed:
    """The sink of a session: keeps what intervals say of processes, and reads rates when somebody waits."""

    def __init__(self, run: RunInfo) -> None:
        self.run = run
        self.usage = Usage()
        self._changed = threading.Condition()
        self._is_asked = False
        self._picture: Picture | None = None
        self._end: RunEnd | None = None
        self._records: dict[int, ProcessRecord] = {}
        self._vmas: dict[int, Sequence[VmaRecord]] = {}
        self._armed: dict[int, ArmedRanges] = {}
        self._nodes: Sequence[NodeRecord] = ()

    def interval(self, data: IntervalData) -> None:
        """Take one interval; give a picture if one is wanted."""
        with self._changed:
            for record in data.processes:
                self._records[record.process.index] = record
            self._vmas |= data.vmas
            self._armed |= data.armed
            if data.nodes:
                self._nodes = data.nodes
            for index in [index for index, one in self._records.items() if one.exited_s is not None]:
                for of in (self._records, self._vmas, self._armed):
                    of.pop(index, None)
            self.usage = self.usage.plus(data)
            if self._is_asked and data.folios is not None:
                self._is_asked = False
                self._picture = self._draw(data.end_s, data.folios)
            self._changed.notify_all()

    def close(self, end: RunEnd) -> None:
        """Nothing more will come."""
        with self._changed:
            self._end = end
            self._changed.notify_all()

    @property
    def events(self) -> int:
        """Accesses seen since the session began."""
        return self.usage.received

    def picture(self, should_stop: Callable[[], object]) -> Picture | None:
        """Wait for the next interval's end and what is known then; None once the session has ended, or a stop
        is wanted.
        """
        with self._changed:
            self._is_asked, self._picture = True, None
            while self._picture is None and self._end is None and not should_stop():
                self._changed.wait(_POLL_S)
            self._is_asked = False
            found, self._picture = self._picture, None
            return found

    def _draw(self, time_s: float, folios: Callable[[int], Folios]) -> Picture:
        begun_s = time.thread_time()
        found = {index: folios(index) for index in self._records}
        return Picture(
            self.run,
            time_s,
            dict(self._records),
            found,
            dict(self._vmas),
            dict(self._armed),
            self._nodes,
            self.usage,
            time.thread_time() - begun_s,
        )


class HeatSession(SessionThread):
    """A session that feeds the service."""

    def __init__(self, options: Options, should_stop: Callable[[], str | None]) -> None:
        super().__init__(options, should_stop)
        self.feed: HeatFeed | None = None
        self.is_over = threading.Event()
        self._is_open = threading.Event()

    def wait_until_open(self) -> HeatFeed | None:
        """Where heat comes from, once everything is attached; None when that failed."""
        self._is_open.wait()
        return self.feed

    def _open(self, run: RunInfo) -> HeatFeed:
        self.feed = HeatFeed(run)
        self._is_open.set()
        return self.feed

    def _ended(self) -> None:
        self.is_over.set()
        self._is_open.set()
        if self.feed is not None:
            self.feed.close(RunEnd(self.feed.usage.end_s, "complete"))
