# SPDX-License-Identifier: Apache-2.0
"""The report for people: how the numbers came about, then processes, mappings and ranges, hottest first."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

from rich.text import Text

from hotpage.machine.proc import printable
from hotpage.profile.snapshot import SourceCounts
from hotpage.profile.strips import heat_strip
from hotpage.profile.summary import WINDOWS_S, Heat, MappingHeat, NodeHeat, ProcessHeat, RangeHeat, Summary
from hotpage.profile.threshold import HeatClass
from hotpage.views import strip, units
from hotpage.views.rows import check_key, sort_heat, sort_nodes
from hotpage.views.tables import Cell, Column, table

Entry = TypeVar("Entry", ProcessHeat, MappingHeat, RangeHeat, NodeHeat)
_LABEL = 10  # width of the labels of the first lines
_ROWS = 20  # of a table asked for with --by
_ROWS_EACH = 8  # of each table when none was asked for
_ARM = "record with --arm: it turns NUMA hint faults on for the session"
_MORE_TIME = (
    "pages are armed only while the target runs: record for longer, or ask hotpage doctor what works here"
)
_SAMPLES = (
    "samples tell accesses that missed the core's caches; without arming, a page they do not show is unknown"
)
_STYLE = {
    HeatClass.HOT: "bold red",
    HeatClass.WARM: "yellow",
    HeatClass.COLD: "blue",
    HeatClass.UNKNOWN: "dim",
}
_HEAT_COLUMNS = (
    Column("HOT"),
    Column("WARM"),
    Column("COLD"),
    Column("UNKNOWN"),
    Column("ACC/S"),
    Column("ERROR"),
    *(Column(f"IN {window_s:.0f}S") for window_s in WINDOWS_S),
)


@dataclass(frozen=True)
class Report:
    """A summary laid out for an output of ``width`` columns. ``count`` None: as many rows as suit, 0: all."""

    summary: Summary
    width: int = 80
    unicode: bool = True
    by: str | None = None
    key: str | None = None
    count: int | None = None

    def lines(self) -> Iterator[Text]:
        """The lines, styled; ``Text.plain`` of each is the plain report."""
        yield from self._how()
        sections = {
            "process": self._processes,
            "vma": self._mappings,
            "range": self._ranges,
            "page": self._pages,
            "node": self._nodes,
        }
        chosen = [self.by] if self.by else ["process", "vma", "range"]
        if not self.by and len({node.record.tier for node in self.summary.nodes}) > 1:
            chosen.append("node")
        for name in chosen:
            yield Text()
            yield from sections[name](check_key(name, self.key if self.by else None))

    # The first lines: can the numbers be believed?

    def _how(self) -> Iterator[Text]:
        snapshot = self.summary.snapshot
        run, usage = snapshot.run, snapshot.usage
        if not self._has_rates():
            yield from self._wrapped(
                "No access rates arrived in this session: memory below is unknown, not cold.",
                "bold yellow",
            )
            for advice in run.advice or (_MORE_TIME if run.sees_rates else _ARM,):
                yield from self._wrapped(f"-> {advice}", "bold yellow")
        yield from self._labelled("target", f"{run.target} on {run.hostname}, Linux {run.kernel_release}")
        begun = datetime.fromtimestamp(run.started_unix_s + usage.start_s, UTC)
        started = begun.strftime("%Y-%m-%d %H:%M:%S UTC")
        how = snapshot.end.status if snapshot.end else "without an end: still recording, or killed"
        yield from self._labelled(
            "measured",
            f"{units.seconds(usage.window_s)} in {usage.intervals} interval{'s' * (usage.intervals != 1)} "
            f"from {started}; {how}",
        )
        yield from self._labelled("events", "; ".join(map(_counts, usage.sources)) or "none")
        yield from self._labelled("sources", self._sources())
        if "sample" in run.rungs:
            yield from self._labelled("", _SAMPLES)
        yield from self._labelled("overhead", self._overhead())
        if self._has_rates():
            for advice in run.advice:
                yield from self._labelled("note", advice)
            yield from self._rule()
        yield from self._memory()

    def _has_rates(self) -> bool:
        """Whether anything was learnt about how often memory is accessed, if only that it was not."""
        total = self.summary.total
        return self.summary.snapshot.run.sees_rates and bool(
            total.hot_bytes + total.warm_bytes + total.cold_bytes
        )

    def _rule(self) -> Iterator[Text]:
        threshold = self.summary.threshold
        yield from self._labelled(
            "threshold",
            f"hot from {units.rate(threshold.hot_hz)} accesses/s a page, "
            f"warm from {units.rate(threshold.warm_hz)}: {threshold.rule}",
        )

    def _memory(self) -> Iterator[Text]:
        total = self.summary.total
        silent = f" ({units.size(total.silent_bytes)} armed and silent)" if total.silent_bytes else ""
        yield from self._labelled(
            "memory",
            f"hot {units.size(total.hot_bytes)}, warm {units.size(total.warm_bytes)}, "
            f"cold {units.size(total.cold_bytes)}{silent}, unknown {units.size(total.unknown_bytes)}"
            f"{self._placement(total, ' on node')}",
        )
        unarmable = self.summary.unarmable_bytes()
        if unarmable and self._has_rates():
            parts = ", ".join(f"{units.size(count)} {why}" for why, count in unarmable.items())
            yield from self._labelled("", f"never armed by the kernel, so unknown: {parts}")
        if not total.accesses_per_s:
            return
        windows = ", ".join(
            f"{units.size(count)} in {window_s:.0f} s"
            for window_s, count in zip(WINDOWS_S, total.working_set_bytes, strict=True)
        )
        yield from self._labelled(
            "touched",
            f"{windows} (expected); {units.rate(total.accesses_per_s)} accesses/s, "
            f"error {units.error(total.relative_error)}",
        )

    def _sources(self) -> str:
        run = self.summary.snapshot.run
        rungs = ", ".join(f"{source} by {rung}" for source, rung in run.rungs.items()) or "none"
        if "sample" in run.rungs and "hint" not in run.rungs:
            return rungs
        if run.armed:
            return f"{rungs}; armed by hotpage"
        if run.numa_balancing:
            return f"{rungs}; armed by the kernel (numa_balancing={run.numa_balancing})"
        return f"{rungs}; not armed"

    def _overhead(self) -> str:
        usage = self.summary.snapshot.usage
        share = usage.own_cpu_s / usage.window_s if usage.window_s else float("nan")
        parts = [f"own CPU {units.seconds(usage.own_cpu_s)} ({units.percent(share)} of one CPU)"]
        if usage.bpf_s is not None:
            parts.append(f"BPF {units.seconds(usage.bpf_s)}")
        parts.append(f"{units.size(usage.peak_rss_bytes)} resident")
        if usage.target_cpu_s is not None:
            parts.append(f"target used {units.seconds(usage.target_cpu_s)} of CPU")
        return ", ".join(parts)

    # The tables

    def _processes(self, key: str) -> Iterator[Text]:
        # What an exec replaced before anything of it was read has nothing to show.
        shown = [entry for entry in self.summary.processes if entry.heat != Heat() or not _exited(entry)]
        entries = sort_heat(shown, key)
        columns = [Column("PID"), Column("COMMAND", right=False, gives_way=True), *_HEAT_COLUMNS]
        yield from self._table("process", columns, entries, self._process_row)

    def _process_row(self, entry: ProcessHeat) -> tuple[list[Cell], Text | None]:
        record = entry.record
        name = record.process.comm if record else f"process {entry.process}"
        facts = (
            [f"exited at {units.seconds(record.exited_s)}"] if record and record.exited_s is not None else []
        )
        if placement := self._placement(entry.heat, "on node"):
            facts.append(placement)
        below = Text(" " * 8 + "; ".join(facts)) if facts else None
        return [self._pid(entry.process), self._name(name), *_heat_cells(entry.heat)], below

    def _mappings(self, key: str) -> Iterator[Text]:
        entries = sort_heat(self.summary.mappings, key)
        columns = [Column("MAPPING", right=False, gives_way=True), *_HEAT_COLUMNS]
        yield from self._table("mapping", columns, entries, self._mapping_row)
        signs = strip.UNICODE_LEVELS if self.unicode else strip.ASCII_LEVELS
        yield Text(
            f"  strip: blank unknown, {signs[0]} armed and silent, {signs[1:5]} cold, "
            f"{signs[5]} warm, {signs[6:]} hot",
            "dim",
        )

    def _mapping_row(self, entry: MappingHeat) -> tuple[list[Cell], Text | None]:
        record = entry.record
        whose = self._whose(entry.process)
        if record is None:
            return ["[no mapping known]", *_heat_cells(entry.heat)], Text(f"  {whose}")
        vma = record.vma
        where = f"  {units.address_range(vma.start, vma.end)} {vma.permissions} {whose} "
        where += (
            self._placement(entry.heat, "node") + " " if len(entry.heat.resident_bytes_by_node) > 1 else ""
        )
        below = Text(where)
        cells = strip.levels(
            heat_strip(self.summary.snapshot, entry, max(8, self.width - len(where) - 2)),
            self.summary.threshold,
        )
        below.append("|", "dim")
        signs = zip(strip.characters(cells, self.unicode), strip.styles(cells), strict=True)
        for style, stretch in groupby(signs, key=itemgetter(1)):
            below.append("".join(sign for sign, _ in stretch), style)
        below.append("|", "dim")
        return [self._name(vma.name), *_heat_cells(entry.heat)], below

    def _ranges(self, key: str) -> Iterator[Text]:
        limit = self._limit()
        entries = self.summary.ranges(key, limit + 1 if limit else None)
        columns = [
            Column("RANGE", right=False),
            Column("SIZE"),
            Column("HEAT", right=False),
            Column("ACC/S"),
            Column("A PAGE"),
            Column("ERROR"),
            Column("PID"),
            Column("MAPPING", right=False, gives_way=True),
        ]
        yield from self._table("range", columns, entries, self._range_row, uncounted=True)

    def _range_row(self, entry: RangeHeat) -> tuple[list[Cell], None]:
        return [
            units.address_range(entry.start, entry.end),
            units.size(entry.size_bytes),
            Text(entry.heat_class.name.lower(), _STYLE[entry.heat_class]),
            units.rate(entry.accesses_per_s),
            units.rate(entry.rate_hz),
            units.error(entry.relative_error),
            self._pid(entry.process),
            self._name(entry.record.vma.name if entry.record else "[no mapping known]"),
        ], None

    def _pages(self, key: str) -> Iterator[Text]:
        limit = self._limit()
        entries = self.summary.pages(key, limit + 1 if limit else None)
        columns = [
            Column("PAGE", right=False),
            Column("HEAT", right=False),
            Column("ACC/S"),
            Column("LATELY"),
            Column("ERROR"),
            Column("PID"),
            Column("MAPPING", right=False, gives_way=True),
        ]
        yield from self._table("page", columns, entries, self._page_row, uncounted=True)

    def _page_row(self, entry: RangeHeat) -> tuple[list[Cell], None]:
        cells, _ = self._range_row(entry)
        return [
            units.address(entry.start),
            cells[2],
            cells[4],
            units.rate(entry.rate_short_hz),
            *cells[5:],
        ], None

    def _nodes(self, key: str) -> Iterator[Text]:
        columns = [Column(name) for name in ("NODE", "TIER", "TOTAL", "FREE", "RESIDENT", "HOT", "WARM")]
        yield from self._table("node", columns, sort_nodes(self.summary.nodes, key), _node_row)
        several = self.summary.hot_bytes_on_several_nodes
        if several:
            yield from self._wrapped(
                f"{units.size(several)} of hot memory lies in mappings spread over several nodes, not in HOT",
                "dim",
            )

    # Pieces

    def _limit(self) -> int:
        """Rows of a table; 0: all."""
        if self.count is not None:
            return self.count
        return _ROWS if self.by else _ROWS_EACH

    def _table(
        self,
        what: str,
        columns: Sequence[Column],
        entries: Sequence[Entry],
        row: Callable[[Entry], tuple[list[Cell], Text | None]],
        uncounted: bool = False,
    ) -> Iterator[Text]:
        """A section: the first of sorted entries; ``uncounted`` ones were cut to one more than shown."""
        limit = self._limit() or len(entries)
        ellipsis = "…" if self.unicode else ".."
        yield from table(columns, [row(entry) for entry in entries[:limit]], self.width, ellipsis)
        if len(entries) > limit:
            more = "more" if uncounted else f"{len(entries) - limit:,} more"
            yield Text(f"  {more} (--by {_BY[what]} -n 0 shows all)", "dim")
        if not entries:
            yield Text(f"  no {what} of known rate" if uncounted else f"  no {what}", "dim")

    def _placement(self, heat: Heat, word: str) -> str:
        """Shares of the resident bytes by node; nothing to say on a machine with one node."""
        nodes = {node: count for node, count in sorted(heat.resident_bytes_by_node.items()) if count}
        if len(self.summary.snapshot.nodes) < 2 or not nodes or -1 in nodes:
            return ""
        whole = sum(nodes.values())
        return f"{word} " + ", ".join(
            f"{node} {units.percent(count / whole)}" for node, count in nodes.items()
        )

    def _pid(self, process: int) -> str:
        record = self.summary.snapshot.processes.get(process)
        return str(record.process.pid) if record else "?"

    def _whose(self, process: int) -> str:
        return f"pid {self._pid(process)}"

    def _name(self, name: str) -> str:
        """A name from the system: no control characters, and nothing that the output cannot show."""
        safe = printable(name)
        return safe if self.unicode else safe.encode("ascii", "backslashreplace").decode()

    def _labelled(self, label: str, text: str) -> Iterator[Text]:
        first = True
        for line in textwrap.wrap(self._name(text), self.width - _LABEL, break_on_hyphens=False):
            yield Text.assemble((f"{label if first else '':<{_LABEL}}", "bold"), line)
            first = False

    def _wrapped(self, text: str, style: str) -> Iterator[Text]:
        for line in textwrap.wrap(self._name(text), self.width, break_on_hyphens=False):
            yield Text(line, style)


_BY = {"process": "process", "mapping": "vma", "range": "range", "page": "page", "node": "node"}


def _exited(entry: ProcessHeat) -> bool:
    return entry.record is not None and entry.record.exited_s is not None


def _heat_cells(heat: Heat) -> list[Cell]:
    return [
        _size_cell(heat.hot_bytes, HeatClass.HOT),
        _size_cell(heat.warm_bytes, HeatClass.WARM),
        _size_cell(heat.cold_bytes, HeatClass.COLD),
        _size_cell(heat.unknown_bytes, HeatClass.UNKNOWN),
        units.rate(heat.accesses_per_s),
        units.error(heat.relative_error),
        *(units.size(count) for count in heat.working_set_bytes),
    ]


def _size_cell(count_bytes: int, kind: HeatClass) -> Text:
    return Text(units.size(count_bytes), _STYLE[kind] if count_bytes else "dim")


def _node_row(entry: NodeHeat) -> tuple[list[Cell], None]:
    record = entry.record
    sizes = (record.total_bytes, record.free_bytes, entry.resident_bytes, entry.hot_bytes, entry.warm_bytes)
    return [str(record.node), str(record.tier), *map(units.size, sizes)], None


def _counts(counts: SourceCounts) -> str:
    emitted = counts.received + counts.lost
    text = f"{counts.source} {counts.received:,} received, {counts.lost:,} lost"
    if counts.lost:
        text += f" ({units.percent(counts.lost / emitted)})"
    if counts.missed_runs:
        text += f", up to {counts.missed_runs:,} more missed by preempted programs"
    if counts.sampled_one_in > 1:
        text += f", sampled 1 in {counts.sampled_one_in} ({counts.skipped:,} left out)"
    if counts.stands_for and counts.received:
        text += f", each for {counts.stands_for / counts.received:,.0f} accesses"
    if counts.without_address:
        text += f", {counts.without_address:,} more without an address"
    if counts.cache_hits:
        text += f", {counts.cache_hits:,} more of cache hits"
    if counts.unwatched_s >= 0.001:
        text += f", not sampled for {units.seconds(counts.unwatched_s)} (throttled)"
    return text
