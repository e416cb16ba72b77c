# SPDX-License-Identifier: Apache-2.0
"""Writing a profile from the middle of a session on, beside it: a slow disk holds up nobody."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hotpage.arrays import Int32s
from hotpage.errors import HotpageError, ProfileError
from hotpage.heat.results import Changes
from hotpage.profile.disk.store import ProfileWriter
from hotpage.profile.live.pages import PageRows
from hotpage.profile.snapshot import IntervalData, RunEnd, RunInfo

_MOST_WAITING = 64
"""Intervals that may wait for the disk; a disk that falls further behind ends the recording."""

PagePart = Callable[[int], tuple[int, Int32s, PageRows]]
"""The next part of all pages (LivePages.part), with the process of each."""


class RecordingFromNow:
    """A profile whose first interval holds all that is known when it begins, and the later ones what comes.

    Written by a thread of its own. ``problem`` says what ended it early.
    """

    def __init__(self, directory: Path, run: RunInfo, state: IntervalData, part: PagePart) -> None:
        """Raises ProfileError when the directory cannot be used. ``state`` is all but the pages."""
        self.directory = directory
        self.problem: str | None = None
        self.is_running = True
        self.since_s = state.end_s
        self.until_s = state.end_s
        self._writer = ProfileWriter(directory, run)
        self._waiting: queue.Queue[IntervalData | RunEnd] = queue.Queue()
        self._thread = threading.Thread(target=self._write, args=(state, part), name="recording")
        self._thread.start()

    def add(self, data: IntervalData) -> None:
        """Another interval of the session."""
        if not self.is_running:
            return
        if self._waiting.qsize() >= _MOST_WAITING:
            self.end(RunEnd(self.until_s, "disk too slow"), wait=False)
            self.problem = f"{self.directory} cannot be written fast enough: the recording has ended"
            return
        self.until_s = data.end_s
        self._waiting.put(data)

    def end(self, end: RunEnd, wait: bool = True) -> None:
        """Let the recording end; on return it is on the disk, unless that is not to be waited for."""
        if self.is_running:
            self.is_running = False
            self._waiting.put(end)
        if wait:
            self._thread.join()

    def _write(self, state: IntervalData, part: PagePart) -> None:
        try:
            self._writer.interval(replace(state, changes=_all_pages(part)))
            while not isinstance(item := self._waiting.get(), RunEnd):
                self._writer.interval(item)
            self._writer.close(item)
        except (HotpageError, OSError) as error:
            self.problem = error.problem if isinstance(error, ProfileError) else str(error)
            self.is_running = False


def _all_pages(part: PagePart) -> Changes:
    """Everything known, gathered in parts: in between the session goes on."""
    owners, parts = [], []
    last, owner, pages = part(-1)
    while last >= 0:
        owners.append(owner)
        parts.append(pages)
        last, owner, pages = part(last)
    owners.append(owner)
    parts.append(pages)
    process = np.concatenate(owners)
    vpn = np.concatenate([rows.vpn for rows in parts])
    rate_hz = np.concatenate([rows.rate_hz for rows in parts])
    error = np.concatenate([rows.relative_error for rows in parts])
    order = np.lexsort((vpn, process))
    order = order[process[order] >= 0]
    return Changes(process[order], vpn[order], rate_hz[order], rate_hz[order], error[order])
