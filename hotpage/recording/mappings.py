# SPDX-License-Identifier: Apache-2.0
"""The mappings of target processes and where their pages are, read as often as that is cheap."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from hotpage.errors import PrivilegeError
from hotpage.machine.processes import Process
from hotpage.machine.sharing import Range, shared_ranges, union
from hotpage.machine.vmas import Vma, read_residency, read_vmas
from hotpage.profile.snapshot import ClearedRange, VmaRecord
from hotpage.recording.dirtying import DirtyPages

_FIRST_PERIOD_S = 0.5
_COST_SHARE = 0.002
"""Reading numa_maps walks the page tables under the target's mmap lock: at most this share of the time, for
all processes together."""


class MappingWatch:
    """One process's mappings; the period doubles from half a second up to the session's longest."""

    def __init__(self, process: Process, longest_period_s: float) -> None:
        self.process = process
        self.records: list[VmaRecord] = []
        self.shared: list[Range] = []
        """Page ranges in mappings that the kernel arms, which it leaves out: other processes map them too."""
        self.dirty = DirtyPages(process.pid)
        """Which it leaves out as well."""
        self._longest_period_s = longest_period_s
        self._period_s = _FIRST_PERIOD_S
        self._due_s = 0.0

    def is_due(self, now_s: float) -> bool:
        """Whether it is time to read again."""
        return now_s >= self._due_s

    def read(self, now_s: float, watches: int = 1) -> list[ClearedRange] | None:
        """Read again: the ranges that went away since the last time; None if the process is gone or closed.

        ``watches``: so many share the time that reading may take.
        """
        begun = time.perf_counter()
        try:
            vmas = read_vmas(self.process.pid)
            residency = read_residency(self.process.pid)
        except PrivilegeError:
            return None
        if not vmas:
            return None
        gone = unmapped(self.process.index, [record.vma for record in self.records], vmas)
        self.records = [VmaRecord(vma, residency.get(vma.start)) for vma in vmas]
        self.shared = shared_ranges(self.process.pid, self._spans(may_share_after_fork))
        self.dirty.look_within(self._spans(may_be_dirty))
        cost_s = time.perf_counter() - begun
        self._period_s = min(2 * self._period_s, self._longest_period_s)
        self._due_s = now_s + max(self._period_s, cost_s * watches / _COST_SHARE)
        return gone

    def left_out(self, armed_nodes: Collection[int] | None = None, all_of_files: bool = False) -> list[Range]:
        """Page ranges within what a scan arms, of which some pages or all are not armed.

        Where pages of these nodes only are armed, also all mappings not wholly there: nobody tells cheaply
        which of their pages are. ``all_of_files``: also all mappings of files.
        """

        def is_in_doubt(record: VmaRecord) -> bool:
            is_elsewhere = armed_nodes is not None and not is_within(record, armed_nodes)
            return record.armable and (is_elsewhere or (all_of_files and record.vma.kind == "file"))

        return union(self.shared + self.dirty.ranges + self._spans(is_in_doubt))

    @property
    def unarmed(self) -> list[Range]:
        """Page ranges of which no page is armed, whatever a scan goes over."""
        return union(self.shared + self.dirty.found)

    def _spans(self, is_wanted: Callable[[VmaRecord], bool]) -> list[Range]:
        wanted = (record.vma for record in self.records if is_wanted(record))
        return [(vma.start >> 12, vma.end >> 12) for vma in wanted]


def is_within(record: VmaRecord, nodes: Collection[int]) -> bool:
    """Whether it has pages in memory, and all of them on these nodes."""
    found = record.residency.bytes_by_node if record.residency else {}
    return bool(found) and all(node in nodes for node in found)


def may_share_after_fork(record: VmaRecord) -> bool:
    """Whether some of its pages are copy-on-write ones of several processes, and it can be armed."""
    most_mapped = record.residency.most_mapped if record.residency else 0
    return record.armable and record.vma.permissions[3] == "p" and most_mapped > 1


def may_be_dirty(record: VmaRecord) -> bool:
    """Whether it may have dirty pages of a file, and can be armed."""
    dirty_pages = record.residency.dirty_file_pages if record.residency else 0
    return record.armable and record.vma.kind == "file" and dirty_pages > 0


def unmapped(process: int, before: Sequence[Vma], now: Sequence[Vma]) -> list[ClearedRange]:
    """Page ranges covered by ``before`` and not by ``now``, both in order of address."""
    gone: list[ClearedRange] = []
    place = 0
    for vma in before:
        at = vma.start
        while place < len(now) and now[place].end <= at:
            place += 1
        following = place
        while at < vma.end:
            start = now[following].start if following < len(now) else vma.end
            if start > at:
                gone.append(ClearedRange(process, at >> 12, min(start, vma.end) >> 12))
            if following == len(now) or start >= vma.end:
                break
            at = max(at, now[following].end)
            following += 1
    return gone
