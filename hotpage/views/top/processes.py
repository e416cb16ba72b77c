# SPDX-License-Identifier: Apache-2.0
"""The first table of top: processes, as a list or as a tree of their cgroups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hotpage.arrays import Float32s
from hotpage.machine.proc import printable
from hotpage.placement.chosen import Wish
from hotpage.profile.live.view import LiveHeat, LiveProcess, LiveView
from hotpage.profile.snapshot import ProcessRecord
from hotpage.views import units
from hotpage.views.top.columns import (
    FAINT,
    PLAIN,
    STRONG,
    Cell,
    Column,
    Context,
    faint_zero,
    heat_columns,
    node_columns,
    sparkline,
)
from hotpage.views.top.feed import Feed
from hotpage.views.top.levels import Level, nodes_of, without_tiers
from hotpage.views.top.mappings import MappingLevel


class ProcessRow(NamedTuple):
    """A process, or in the tree a cgroup with all below it (``record`` None; ``name`` its path, as it is)."""

    name: str
    heat: LiveHeat
    history_hz: Float32s
    record: ProcessRecord | None
    depth: int = 0
    is_folded: bool = False
    label: str = ""
    """Of a cgroup: its path from the one above on."""
    moves_per_s: float = 0.0
    """Base pages, by the kernel as far as hint faults tell it, and from here."""


class ProcessLevel(Level):
    """All processes."""

    can_filter = True

    def __init__(self) -> None:
        super().__init__()
        self.is_tree = False
        self._folded: set[str] = set()

    @property
    def title(self) -> str:
        return "processes by cgroup" if self.is_tree else "processes"

    def columns(self, view: LiveView) -> list[Column]:
        drop = {"error": 30}
        found = [
            Column(
                "pid",
                "PID",
                7,
                self._pid,
                value=lambda row: row.record.process.pid if row.record else 0,
                descending=False,
            ),
            Column(
                "command",
                "COMMAND",
                10,
                self._command,
                right=False,
                most=60,
                value=lambda row: row.name.lower(),
                descending=False,
            ),
            *heat_columns(lambda row: row.heat, drop),
            *node_columns(lambda row: row.heat, nodes_of(view), 20),
            Column(
                "moves",
                "MOV/S",
                5,
                lambda row, _width, _context: faint_zero(units.rate(row.moves_per_s)),
                drop=29,
                value=lambda row: row.moves_per_s,
            ),
            Column("history", "TREND", 5, self._history, most=60, drop=1),
        ]
        return without_tiers(found, view)

    def rows(self, feed: Feed, view: LiveView, words: str) -> Sequence[ProcessRow]:
        moves_per_s = feed.moves_per_s()
        rows = [
            process_row(process, moves_per_s.get(process.record.process.index, 0.0))
            for process in view.processes
        ]
        rows = [row for row in rows if not words or self.matches(row, words)]
        if not self.is_tree:
            return self.sorted(rows, view)
        return list(self._tree(_Group.of(rows), view, 0, ""))

    def identity(self, row: ProcessRow) -> object:
        return row.record.process.index if row.record else row.name

    def text_of(self, row: ProcessRow) -> str:
        if row.record is None:
            return row.name
        process = row.record.process
        return f"{process.pid} {process.comm} {process.cmdline} {process.cgroup}"

    def enter(self, row: ProcessRow) -> Level | None:
        if row.record is None:
            self.fold(row, not row.is_folded)
            return None
        process = row.record.process
        return MappingLevel(process.index, process.pid, process.comm)

    def fold(self, row: ProcessRow, is_folded: bool) -> object:
        """Fold or unfold, in the tree, a cgroup or the one that a process is in; the identity of its row."""
        name = row.name if row.record is None else _path(row.record.process.cgroup)
        if is_folded:
            self._folded.add(name)
        else:
            self._folded.discard(name)
        return name

    def place_of_pid(self, rows: Sequence[ProcessRow], digits: str) -> int | None:
        """Where the process is; else the first whose number begins so."""
        pids = [str(row.record.process.pid) if row.record else "" for row in rows]
        if digits in pids:
            return pids.index(digits)
        return next((place for place, pid in enumerate(pids) if pid.startswith(digits)), None)

    def wish(self, row: ProcessRow, promote: bool, view: LiveView) -> Wish | str:
        if row.record is None:
            return "choose a process: this is a cgroup, for which there is hotpage move --cgroup"
        process = row.record.process
        name = f"{row.name} ({process.pid})"
        return Wish(name, process.index, promote, hot_hz=view.threshold.hot_hz)

    def describe(self, row: ProcessRow, view: LiveView) -> str:
        if row.record is None:
            return f"cgroup {printable(row.name)}"
        process = row.record.process
        parts = [f"{process.pid}", printable(process.cmdline) or printable(process.comm)]
        parts.append(f"{process.threads} thread{'s' * (process.threads != 1)}")
        if row.record.exited_s is not None:
            parts.append(f"exited at {units.seconds(row.record.exited_s)}")
        elif process.cgroup:
            parts.append(f"cgroup {printable(process.cgroup)}")
        return "  ".join(parts)

    def _tree(self, group: _Group, view: LiveView, depth: int, above: str) -> Iterator[ProcessRow]:
        rows = [row._replace(depth=depth) for row in group.rows]
        for name, child in group.children.items():
            row = child.row(name, depth, name in self._folded)
            rows.append(row._replace(label=name.removeprefix(above)))
        for row in self.sorted(rows, view):
            yield row
            if row.record is None and not row.is_folded:
                yield from self._tree(group.children[row.name], view, depth + 1, f"{row.name}/")

    def _pid(self, row: ProcessRow, _width: int, context: Context) -> Cell:
        if row.record is None:
            folded, open_ = ("▸", "▾") if context.unicode else ("+", "-")
            return folded if row.is_folded else open_, FAINT
        return str(row.record.process.pid), FAINT if row.record.exited_s is not None else PLAIN

    def _command(self, row: ProcessRow, width: int, context: Context) -> Cell:
        indent = "  " * row.depth
        ellipsis = "…" if context.unicode else "~"
        if row.record is None:
            return indent + units.shorten(printable(row.label), max(width - len(indent), 4), ellipsis), STRONG
        name = row.record.process.cmdline if context.full_commands else row.name
        text = units.shorten(printable(name) or row.name, max(width - len(indent), 4), ellipsis)
        return indent + text, FAINT if row.record.exited_s is not None else PLAIN

    def _history(self, row: ProcessRow, width: int, context: Context) -> Cell:
        return sparkline(row.history_hz, width, context.unicode).rjust(width), "#7fbf7f"


class _Group:
    """A cgroup: processes of its own, and cgroups below it by path."""

    def __init__(self) -> None:
        self.rows: list[ProcessRow] = []
        self.children: dict[str, _Group] = {}

    @classmethod
    def of(cls, rows: Sequence[ProcessRow]) -> _Group:
        """The tree; a cgroup with nothing but one cgroup in it shares that one's row."""
        root = cls()
        for row in rows:
            group, path = root, ""
            cgroup = row.record.process.cgroup if row.record else ""
            for part in [part for part in cgroup.split("/") if part] or ["/"]:
                path = part if part == "/" else f"{path}/{part}"
                group = group.children.setdefault(path, cls())
            group.rows.append(row)
        root.join()
        return root

    def join(self) -> None:
        """Join what holds a single cgroup with that."""
        for path, child in list(self.children.items()):
            child.join()
            if not child.rows and len(child.children) == 1:
                del self.children[path]
                self.children |= child.children

    def every(self) -> list[ProcessRow]:
        """All processes in it."""
        return self.rows + [row for child in self.children.values() for row in child.every()]

    def row(self, name: str, depth: int, is_folded: bool) -> ProcessRow:
        """The sum."""
        rows = self.every()
        heat = LiveHeat.sum(row.heat for row in rows)
        histories = np.array([row.history_hz for row in rows])
        known = np.isfinite(histories).any(axis=0)
        history = np.where(known, np.nansum(histories, axis=0), np.nan).astype(np.float32)
        moves_per_s = sum(row.moves_per_s for row in rows)
        return ProcessRow(name, heat, history, None, depth, is_folded, moves_per_s=moves_per_s)


def _path(cgroup: str) -> str:
    """The name of a process's cgroup as a row."""
    return f"/{cgroup.strip('/')}"


def process_row(process: LiveProcess, moves_per_s: float = 0.0) -> ProcessRow:
    """A row of the list; ``moves_per_s`` are those from here."""
    return ProcessRow(
        printable(process.record.process.comm),
        process.heat,
        process.history_hz,
        process.record,
        moves_per_s=process.migrated_per_s + moves_per_s,
    )
