# SPDX-License-Identifier: Apache-2.0
"""Which mapping each page belongs to, and how much of each mapping was armed and stayed silent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Float64s, Int32s, Int64s
from hotpage.machine.folios import PAGE_BYTES
from hotpage.profile.coverage import Coverage, silent_counts
from hotpage.profile.snapshot import Snapshot, VmaRecord


@dataclass(frozen=True)
class Attribution:
    """The mappings of all processes, in order of process and address, and the mapping of every page.

    The mapping arrays have one length; a mapping without a record holds a process's pages outside all that
    were read.
    """

    process: Int32s
    records: list[VmaRecord | None]
    silent_bytes: Float64s  # resident, armed and never accessed
    silent_rate_hz: Float64s  # at most; NaN where nothing was armed
    unseen_bytes: Float64s  # resident, without a row, not armed
    owner: Int32s  # per page of the snapshot: index into the arrays above

    def __len__(self) -> int:
        return len(self.records)


def attribute(snapshot: Snapshot) -> Attribution:
    """Attribute every page of the snapshot."""
    owner = np.empty(len(snapshot.pages), np.int32)
    seen = np.unique(snapshot.pages.process).tolist() if len(snapshot.pages) else []
    processes: list[int] = []
    records: list[VmaRecord | None] = []
    silence: list[tuple[Float64s, Float64s, Float64s]] = []
    for process in sorted({*snapshot.vmas, *seen}):
        mine: list[VmaRecord | None] = list(snapshot.vmas.get(process, ()))
        starts = np.array([record.vma.start // PAGE_BYTES for record in mine if record], np.int64)
        ends = np.array([record.vma.end // PAGE_BYTES for record in mine if record], np.int64)
        low, high = np.searchsorted(snapshot.pages.process, [process, process + 1])
        vpn = snapshot.pages.vpn[low:high]
        place = np.searchsorted(starts, vpn, side="right") - 1
        if len(starts):
            place[(place >= 0) & (vpn >= ends[place])] = -1
        if (place < 0).any():
            place[place < 0] = len(mine)
            mine.append(None)
            starts, ends = np.append(starts, 0), np.append(ends, 0)
        owner[low:high] = place + len(records)
        silence.append(_silence(snapshot, process, mine, (starts, ends), vpn, place))
        processes += [process] * len(mine)
        records += mine
    silent, rate, unseen = (
        (np.concatenate(part) for part in zip(*silence, strict=True)) if silence else _NOTHING
    )
    return Attribution(np.array(processes, np.int32), records, silent, rate, unseen, owner)


_NOTHING = (np.empty(0), np.empty(0), np.empty(0))


def _silence(
    snapshot: Snapshot,
    process: int,
    records: list[VmaRecord | None],
    spans: tuple[Int64s, Int64s],
    vpn: Int64s,
    place: Int64s,
) -> tuple[Float64s, Float64s, Float64s]:
    """Silent bytes, their highest possible rate, and unseen bytes of one process's mappings."""
    rows = np.bincount(place, minlength=len(records))
    known = [record.resident_bytes if record else None for record in records]
    resident = np.array(
        [
            count if own is None else own // PAGE_BYTES
            for own, count in zip(known, rows.tolist(), strict=True)
        ],
        np.int64,
    )
    silent = np.zeros(len(records))
    rate_hz = np.full(len(records), np.nan)
    armed = snapshot.armed.get(process)
    if armed is not None:
        coverage = Coverage(armed)
        armed_rows = np.bincount(place[coverage.contains(vpn)], minlength=len(records))
        size = spans[1] - spans[0]
        silent = silent_counts(resident, rows, size, coverage.armed_pages(*spans), armed_rows)
        record = snapshot.processes.get(process)
        until_s = snapshot.time_s if record is None or record.exited_s is None else record.exited_s
        watched_s = np.maximum(until_s - coverage.mean_first_s(*spans), 0.0)
        rate_hz = snapshot.run.silent_rate_hz(watched_s)
    unseen = np.maximum(resident - rows, 0) - silent
    return silent * PAGE_BYTES, rate_hz, unseen * PAGE_BYTES
