# SPDX-License-Identifier: Apache-2.0
"""The mappings and the arming of all processes as arrays, so that a refresh treats them all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Float64s, Int64s
from hotpage.heat.results import ArmedRanges
from hotpage.machine.folios import PAGE_BYTES
from hotpage.profile.coverage import Coverage, silent_counts
from hotpage.profile.live.pages import LivePages, key_of
from hotpage.profile.sharing import memory_of
from hotpage.profile.snapshot import RunInfo, VmaRecord


@dataclass(frozen=True)
class Table:
    """Columns of some mappings, by address."""

    slot: Int64s
    start: Int64s  # keys of live.pages
    end: Int64s
    resident_pages: Int64s  # -1 where the kernel did not tell
    bytes_by_node: Float64s  # nodes x mappings
    shares: Float64s  # the same: each node's share of the bytes; nothing where the kernel did not tell
    memory: Int64s  # profile.sharing.memory_of


_Columns = tuple[npt.NDArray[Any], ...]


class _Joined:
    """Columns of rows that belong to slots, in order of slots: the rows of a slot are replaced in place where
    they are as many as before, and all are joined again else.
    """

    def __init__(self, none: _Columns) -> None:
        self._none = none
        self._parts: dict[int, _Columns] = {}
        self._first: dict[int, int] = {}
        self._whole: _Columns | None = None

    def put(self, slot: int, columns: _Columns) -> None:
        """Replace a slot's rows."""
        before = self._parts.get(slot, self._none)
        self._parts[slot] = columns
        count = len(columns[0])
        if self._whole is None or len(before[0]) != count or slot not in self._first:
            self._whole = None
            return
        first = self._first[slot]
        for whole, column in zip(self._whole, columns, strict=True):
            whole[..., first : first + count] = column

    def drop(self, slot: int) -> None:
        """The slot has none any more."""
        if self._parts.pop(slot, None) is not None:
            self._whole = None

    def columns(self) -> _Columns:
        """Of all slots; they change with the next ``put``."""
        if self._whole is None:
            slots = sorted(self._parts)
            parts = [self._parts[slot] for slot in slots]
            first = np.cumsum([0, *(len(part[0]) for part in parts)])
            self._first = dict(zip(slots, first.tolist(), strict=False))
            every = parts or [self._none]
            self._whole = tuple(np.concatenate(column, axis=-1) for column in zip(*every, strict=True))
        return self._whole


class MappingTable:
    """The mappings of all live processes, by slot."""

    def __init__(self) -> None:
        self.records: dict[int, list[VmaRecord]] = {}
        self._nodes: tuple[int, ...] = (0,)
        self._tables = _Joined(self._columns(0, []))
        self._ranges: dict[int, ArmedRanges] = {}
        self._armed = _Joined(_armed_columns(0, _NOT_ARMED))

    def set_nodes(self, nodes: Sequence[int]) -> None:
        """The memory nodes by number; those of other nodes, or of an unknown one, count for the first."""
        if tuple(nodes) != self._nodes and nodes:
            self._nodes = tuple(nodes)
            self._tables = _Joined(self._columns(0, []))
            for slot, records in list(self.records.items()):
                self.set_mappings(slot, records)

    def set_mappings(self, slot: int, records: Sequence[VmaRecord]) -> None:
        """Replace a process's mappings."""
        mine = sorted(records, key=lambda record: record.vma.start)
        self.records[slot] = mine
        self._tables.put(slot, self._columns(slot, mine))

    def set_armed(self, slot: int, armed: ArmedRanges) -> None:
        """Replace what was armed of a process."""
        self._ranges[slot] = armed
        self._armed.put(slot, _armed_columns(slot, armed))

    def armed(self, slot: int) -> ArmedRanges | None:
        """What was armed of a process."""
        return self._ranges.get(slot)

    def forget(self, slot: int) -> None:
        """The process has gone."""
        self.records.pop(slot, None)
        self._tables.drop(slot)
        self._ranges.pop(slot, None)
        self._armed.drop(slot)

    def table(self) -> Table:
        """All mappings, by slot and address; valid until the next change."""
        return Table(*self._tables.columns())

    def coverage(self) -> tuple[Int64s, Coverage]:
        """All that was armed, in keys of live.pages: the starts and ends, and ready for questions; valid
        until the next change.
        """
        joined = ArmedRanges(*self._armed.columns())
        return np.concatenate([joined.start_vpn, joined.end_vpn]), Coverage(joined)

    def _columns(self, slot: int, records: Sequence[VmaRecord]) -> _Columns:
        """Those of ``Table``."""
        count = len(records)
        nodes = np.zeros((len(self._nodes), count))
        resident = np.full(count, -1, np.int64)
        place_of = {node: place for place, node in enumerate(self._nodes)}
        for row, record in enumerate(records):
            if record.residency is not None:
                resident[row] = 0
                for node, count_bytes in record.residency.bytes_by_node.items():
                    nodes[place_of.get(node, 0), row] += count_bytes
                    resident[row] += count_bytes // PAGE_BYTES
        start = np.fromiter((record.vma.start // PAGE_BYTES for record in records), np.int64, count)
        end = np.fromiter((record.vma.end // PAGE_BYTES for record in records), np.int64, count)
        whole = nodes.sum(axis=0)
        shares = np.divide(nodes, whole, out=np.zeros_like(nodes), where=whole > 0)
        keys = key_of(slot, start), key_of(slot, end)
        memory = np.fromiter((memory_of(record.vma) for record in records), np.int64, count)
        return np.full(count, slot, np.int64), *keys, resident, nodes, shares, memory


_NOT_ARMED = ArmedRanges(
    np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0, np.int32)
)


def _armed_columns(slot: int, armed: ArmedRanges) -> _Columns:
    """Those of ArmedRanges, with keys of live.pages."""
    keys = key_of(slot, armed.start_vpn), key_of(slot, armed.end_vpn)
    return *keys, armed.first_s, armed.last_s, armed.passes


@dataclass(frozen=True)
class Silence:
    """Of each mapping (float64 arrays), what profile.attribution finds out for a report."""

    rows: Float64s  # tracked pages
    silent_pages: Float64s  # resident, armed and never accessed
    silent_rate_hz: Float64s  # at most
    unseen_pages: Float64s  # resident, neither tracked nor armed


def silence(mappings: MappingTable, pages: LivePages, run: RunInfo, now_s: float) -> Silence:
    """Tell memory that stayed silent from memory that nobody observed, for all mappings at once."""
    table = mappings.table()
    armed_keys, coverage = mappings.coverage()
    count, ranges = len(table.slot), len(coverage.armed)
    edges = np.concatenate([table.start, table.end])
    below = pages.bounds(np.concatenate([edges, armed_keys])).pages()
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
    silent = silent_counts(
        resident, whole_rows, table.end - table.start, armed, armed_rows.round().astype(np.int64)
    )
    rate_hz = run.silent_rate_hz(np.maximum(now_s - first_s, 0.0))
    return Silence(rows, silent, rate_hz, np.maximum(resident - whole_rows, 0) - silent)
