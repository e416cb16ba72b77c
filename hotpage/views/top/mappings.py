# SPDX-License-Identifier: Apache-2.0
"""The table of a process's mappings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from hotpage.machine.proc import printable
from hotpage.placement.chosen import Wish
from hotpage.profile.live.view import LiveMapping, LiveView
from hotpage.views import strip, units
from hotpage.views.top.columns import (
    FAINT,
    PLAIN,
    STRIP_STYLES,
    Cell,
    Column,
    Context,
    heat_columns,
    node_columns,
)
from hotpage.views.top.feed import Feed
from hotpage.views.top.levels import Level, nodes_of, without_tiers
from hotpage.views.top.ranges import RangeLevel


class MappingLevel(Level):
    """The mappings of a process."""

    can_filter = True

    def __init__(self, process: int, pid: int, comm: str) -> None:
        super().__init__()
        self.process, self.pid, self.comm = process, pid, printable(comm)
        self._feed: Feed | None = None
        self._view: LiveView | None = None

    @property
    def title(self) -> str:
        return f"{self.comm} ({self.pid})"

    def columns(self, view: LiveView) -> list[Column]:
        drop = {"warm": 6, "error": 9, "misplaced": 3}
        found = [
            Column(
                "address",
                "START",
                12,
                lambda row, _width, _context: (
                    units.address(row.record.vma.start) if row.record else "",
                    FAINT,
                ),
                value=lambda row: row.record.vma.start if row.record else -1,
                descending=False,
            ),
            Column(
                "name", "MAPPING", 9, self._name, right=False, most=28, value=_mapping_name, descending=False
            ),
            Column(
                "size",
                "SIZE",
                5,
                lambda row, _width, _context: (units.size(_size(row)), FAINT),
                drop=8,
                value=_size,
            ),
            *(column for column in heat_columns(lambda row: row.heat, drop) if column.key != "error"),
            *node_columns(lambda row: row.heat, nodes_of(view), 20),
            Column("heat", "HEAT STRIP", 20, self._strip, right=False, most=120),
        ]
        return without_tiers(found, view)

    def rows(self, feed: Feed, view: LiveView, words: str) -> Sequence[LiveMapping]:
        self._feed, self._view = feed, view
        rows = [row for row in feed.mappings(self.process) if not words or self.matches(row, words)]
        return self.sorted(rows, view)

    def identity(self, row: LiveMapping) -> int:
        return row.record.vma.start if row.record else -1

    def text_of(self, row: LiveMapping) -> str:
        if row.record is None:
            return _mapping_name(row)
        vma = row.record.vma
        return f"{vma.start:x} {vma.name} {vma.path} {vma.kind}"

    def enter(self, row: LiveMapping) -> Level | None:
        return RangeLevel(self.process, row.record) if row.record else None

    def wish(self, row: LiveMapping, promote: bool, view: LiveView) -> Wish | str:
        if row.record is None:
            return "no mapping is known here"
        vma = row.record.vma
        name = f"{printable(vma.name)} {units.address_range(vma.start, vma.end)} of {self.title}"
        return Wish(name, self.process, promote, vma.start, vma.end, view.threshold.hot_hz)

    def describe(self, row: LiveMapping, view: LiveView) -> str:
        if row.record is None:
            return "pages seen outside all mappings that have been read"
        vma, residency = row.record.vma, row.record.residency
        parts = [units.address_range(vma.start, vma.end), vma.permissions, printable(vma.path) or "anonymous"]
        if not row.record.armable:
            parts.append("never armed by the kernel: unknown")
        if residency is not None:
            parts += [f"node {node} {units.size(n)}" for node, n in residency.bytes_by_node.items() if n]
        return "  ".join(parts)

    def _name(self, row: LiveMapping, width: int, context: Context) -> Cell:
        return units.shorten(_mapping_name(row), width, "…" if context.unicode else "~"), PLAIN

    def _strip(self, row: LiveMapping, width: int, context: Context) -> Cell:
        if row.record is None or self._feed is None or self._view is None:
            return ("", PLAIN)
        cells = strip.levels(self._feed.strip(self.process, row.record, width), self._view.threshold)
        styles = ["" if level is None else STRIP_STYLES[level] for level in cells]
        signs = zip(strip.characters(cells, context.unicode), styles, strict=True)
        return [("".join(sign for sign, _ in part), style) for style, part in groupby(signs, itemgetter(1))]


def _size(row: LiveMapping) -> int:
    return row.record.vma.size_bytes if row.record else 0


def _mapping_name(row: LiveMapping) -> str:
    return row.record.vma.name if row.record else "[no mapping known]"
