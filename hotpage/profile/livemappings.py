# SPDX-License-Identifier: Apache-2.0
"""The mappings and the arming of all processes as arrays, so that a refresh treats them all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hotpage.heat.results import ArmedRanges
from hotpage.profile.coverage import Coverage, silent_pages
from hotpage.profile.livepages import Bounds, LivePages, key_of
from hotpage.profile.snapshot import PAGE_BYTES, Float64s, Int64s, RunInfo, VmaRecord


@dataclass(frozen=True)
class _Table:
    """Columns of some mappings, by address."""

    slot: Int64s
    start: Int64s  # keys of livepages
    end: Int64s
    resident_pages: Int64s  # -1 where the kernel did not tell
    bytes_by_node: Float64s  # mappings x nodes


class MappingTable:
    """The mappings of all live processes, by slot; columns are joined again only when some have changed."""

    def __init__(self) -> None:
        self.records: dict[int, list[VmaRecord]] = {}
        self._tables: dict[int, _Table] = {}
        self._armed: dict[int, ArmedRanges] = {}
        self._nodes: tuple[int, ...] = (0,)
        self._joined: _Table | None = None
        self._coverage: tuple[Int64s, Coverage] | None = None

    def set_nodes(self, nodes: Sequence[int]) -> None:
        """The memory nodes by number; those of other nodes, or of an unknown one, count for the first."""
        if tuple(nodes) != self._nodes and nodes:
            self._nodes = tuple(nodes)
            for slot, records in list(self.records.items()):
                self.set_mappings(slot, records)

    def set_mappings(self, slot: int, records: Sequence[VmaRecord]) -> None:
        """Replace a process's mappings."""
        mine = sorted(records, key=lambda record: record.vma.start)
        self.records[slot] = mine
        self._tables[slot] = self._columns(slot, mine)
        self._joined = None

    def set_armed(self, slot: int, armed: ArmedRanges) -> None:
        """Replace what was armed of a process."""
        self._armed[slot] = armed
        self._coverage = None

    def armed(self, slot: int) -> ArmedRanges | None:
        """What was armed of a process."""
        return self._armed.get(slot)

    def forget(self, slot: int) -> None:
        """The process has gone."""
        self.records.pop(slot, None)
        if self._tables.pop(slot, None) is not None:
            self._joined = None
        if self._armed.pop(slot, None) is not None:
            self._coverage = None

    def table(self) -> _Table:
        """All mappings, by slot and address."""
        if self._joined is None:
            tables = [self._tables[slot] for slot in sorted(self._tables)]
            if not tables:
                return self._columns(0, [])
            self._joined = _Table(
                *(np.concatenate([getattr(table, name) for table in tables]) for name in _COLUMNS)
            )
        return self._joined

    def coverage(self) -> tuple[Int64s, Coverage]:
        """All that was armed, in keys of livepages: the starts and ends, and ready for questions."""
        if self._coverage is None:
            slots = sorted(slot for slot, ranges in self._armed.items() if len(ranges))
            armed = [self._armed[slot] for slot in slots]
            owner = np.repeat(np.array(slots, np.int64), [len(ranges) for ranges in armed])
            joined = ArmedRanges(
                key_of(owner, _join([ranges.start_vpn for ranges in armed])),
                key_of(owner, _join([ranges.end_vpn for ranges in armed])),
                np.concatenate([np.empty(0), *(ranges.first_s for ranges in armed)]),
                np.concatenate([np.empty(0), *(ranges.last_s for ranges in armed)]),
                np.concatenate([np.empty(0, np.int32), *(ranges.passes for ranges in armed)]),
            )
            self._coverage = np.concatenate([joined.start_vpn, joined.end_vpn]), Coverage(joined)
        return self._coverage

    def _columns(self, slot: int, records: Sequence[VmaRecord]) -> _Table:
        count = len(records)
        nodes = np.zeros((count, len(self._nodes)))
        resident = np.full(count, -1, np.int64)
        column = {node: place for place, node in enumerate(self._nodes)}
        for row, record in enumerate(records):
            if record.residency is not None:
                resident[row] = 0
                for node, count_bytes in record.residency.bytes_by_node.items():
                    nodes[row, column.get(node, 0)] += count_bytes
                    resident[row] += count_bytes // PAGE_BYTES
        start = np.fromiter((record.vma.start // PAGE_BYTES for record in records), np.int64, count)
        end = np.fromiter((record.vma.end // PAGE_BYTES for record in records), np.int64, count)
        return _Table(np.full(count, slot, np.int64), key_of(slot, start), key_of(slot, end), resident, nodes)


_COLUMNS = ("slot", "start", "end", "resident_pages", "bytes_by_node")


@dataclass(frozen=True)
class Silence:
    """Of each mapping (float64 arrays), what profile.attribution finds out for a report."""

    rows: Float64s  # tracked pages
    silent_pages: Float64s  # resident, armed and never accessed
    silent_rate_hz: Float64s  # at most
    unseen_pages: Float64s  # resident, neither tracked nor armed
    edges: Bounds | None = None
    """The starts of all mappings and then their ends, to ask about more; valid until the pages change."""

    def inside(self, below: Float64s) -> Float64s:
        """Of each mapping, from what ``edges`` says lies below its start and its end."""
        count = len(self.rows)
        difference: Float64s = below[count : 2 * count] - below[:count]
        return difference


def silence(mappings: MappingTable, pages: LivePages, run: RunInfo, now_s: float) -> Silence:
    """Tell memory that stayed silent from memory that nobody observed, for all mappings at once."""
    table = mappings.table()
    armed_keys, coverage = mappings.coverage()
    count, ranges = len(table.slot), len(coverage.armed)
    edges = np.concatenate([table.start, table.end])
    bounds = pages.bounds(np.concatenate([edges, armed_keys]))
    below = bounds.pages()
    rows = below[count : 2 * count] - below[:count]
    armed_rows, armed, first_s = np.zeros(count), np.zeros(count), np.full(count, np.nan)
    if ranges:
        # Rows in armed ranges below an edge: those of whole ranges, and the part of the range that holds it.
        current = np.maximum(np.searchsorted(coverage.armed.start_vpn, edges, side="right") - 1, 0)
        at_start, at_end = below[2 * count :][:ranges], below[2 * count + ranges :]
        part = np.clip(below[: 2 * count], at_start[current], at_end[current]) - at_start[current]
        upto = np.concatenate([[0.0], np.cumsum(at_end - at_start)])[current] + part
        armed_rows = upto[count:] - upto[:count]
        armed, first_s = coverage.armed_and_first(table.start, table.end)
    whole_rows = rows.round().astype(np.int64)
    resident = np.where(table.resident_pages < 0, whole_rows, table.resident_pages)
    silent = silent_pages(
        resident, whole_rows, table.end - table.start, armed, armed_rows.round().astype(np.int64)
    )
    rate_hz = run.prior_count / (run.prior_exposure_s + np.maximum(now_s - first_s, 0.0))
    return Silence(rows, silent, rate_hz, np.maximum(resident - whole_rows, 0) - silent, bounds)


def _join(arrays: list[Int64s]) -> Int64s:
    return np.concatenate([np.empty(0, np.int64), *arrays])
