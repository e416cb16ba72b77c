# SPDX-License-Identifier: Apache-2.0
"""A summary as flat rows for programs, units in their names (--json, --csv), and the keys to sort by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from hotpage.errors import UsageError
from hotpage.profile.snapshot import Snapshot
from hotpage.profile.strips import heat_strip
from hotpage.profile.summary import (
    RANGE_KEYS,
    WINDOWS_S,
    Heat,
    MappingHeat,
    NodeHeat,
    ProcessHeat,
    RangeHeat,
    Summary,
)
from hotpage.views.units import address, without_nan

Row = dict[str, Any]
Entry = TypeVar("Entry", ProcessHeat, MappingHeat)
_STRIP_CELLS = 32
_JSON_RANGES = 1000


def _touched(place: int) -> Callable[[Heat], float]:
    return lambda heat: -heat.working_set_bytes[place]


_HEAT_KEYS: Mapping[str, Callable[[Heat], float]] = {
    "hot": lambda heat: -heat.hot_bytes,
    "warm": lambda heat: -heat.warm_bytes,
    "cold": lambda heat: -heat.cold_bytes,
    "unknown": lambda heat: -heat.unknown_bytes,
    "accesses": lambda heat: -heat.accesses_per_s,
    "error": lambda heat: heat.relative_error if heat.accesses_per_s else math.inf,
    "resident": lambda heat: -heat.resident_bytes,
    **{f"touched-{window_s:.0f}s": _touched(place) for place, window_s in enumerate(WINDOWS_S)},
}

KEYS: Mapping[str, Sequence[str]] = {
    "process": (*_HEAT_KEYS, "pid"),
    "vma": (*_HEAT_KEYS, "address"),
    "range": tuple(RANGE_KEYS),
    "page": tuple(key for key in RANGE_KEYS if key != "size"),
    "node": ("node", "resident", "hot", "warm", "free"),
}
"""What ``-s`` takes for each ``--by``; the first is the default, but for pages, which come hottest first."""

_HEAT_COLUMNS = (
    *("hot_bytes", "warm_bytes", "cold_bytes", "silent_bytes", "unknown_bytes"),
    *("accesses_per_s", "relative_error", "resident_bytes", "resident_bytes_by_node"),
    *(f"touched_in_{window_s:.0f}_s_bytes" for window_s in WINDOWS_S),
)
_RANGE_COLUMNS = (
    *("process", "pid", "comm", "start", "end", "size_bytes", "heat", "rate_hz", "rate_short_hz"),
    *("accesses_per_s", "relative_error", "mapping", "mapping_start"),
)
COLUMNS: Mapping[str, Sequence[str]] = {
    "process": (
        *("process", "pid", "start_time_ticks", "comm", "cmdline", "exe", "threads", "cgroup"),
        *("parent_pid", "first_s", "exited_s", "previous_index", *_HEAT_COLUMNS),
    ),
    "vma": (
        *("process", "pid", "comm", "start", "end", "size_bytes", "permissions", "kind", "name", "path"),
        *("offset_bytes", "armable", "page_size_bytes", *_HEAT_COLUMNS),
    ),
    "range": _RANGE_COLUMNS,
    "page": _RANGE_COLUMNS,
    "node": (
        *("node", "tier", "cpus", "total_bytes", "free_bytes", "read_latency_ns", "write_latency_ns"),
        *("read_bandwidth_mbps", "write_bandwidth_mbps", "resident_bytes", "hot_bytes", "warm_bytes"),
    ),
}
"""What a row of each table has, in this order and whatever the profile: None where it is unknown."""


def check_key(by: str, key: str | None) -> str:
    """The key to sort by; UsageError naming the keys if there is no such one."""
    if key is None:
        return "rate" if by == "page" else KEYS[by][0]
    if key not in KEYS[by]:
        raise UsageError(f"cannot sort by {key}", f"for --by {by}, -s takes {', '.join(KEYS[by])}")
    return key


def sort_heat(entries: Iterable[Entry], key: str) -> list[Entry]:
    """Processes or mappings by one of their keys; equal ones by accesses/s, then by what is resident."""
    if key in ("pid", "address"):
        return sorted(entries, key=_place)
    heat_key = _HEAT_KEYS[key]
    return sorted(
        entries,
        key=lambda entry: (heat_key(entry.heat), -entry.heat.accesses_per_s, -entry.heat.resident_bytes),
    )


def sort_nodes(nodes: Iterable[NodeHeat], key: str) -> list[NodeHeat]:
    """Nodes by one of their keys."""
    order: Mapping[str, Callable[[NodeHeat], int]] = {
        "node": lambda node: node.record.node,
        "resident": lambda node: -node.resident_bytes,
        "hot": lambda node: -node.hot_bytes,
        "warm": lambda node: -node.warm_bytes,
        "free": lambda node: -node.record.free_bytes,
    }
    return sorted(nodes, key=order[key])


def flat_rows(summary: Summary, by: str, key: str, count: int | None) -> list[Row]:
    """The rows of one table, sorted and cut to ``count`` (None: all)."""
    snapshot = summary.snapshot
    if by == "process":
        return [process_row(entry) for entry in sort_heat(summary.processes, key)[:count]]
    if by == "vma":
        return [mapping_row(snapshot, entry) for entry in sort_heat(summary.mappings, key)[:count]]
    if by == "node":
        return [node_row(node) for node in sort_nodes(summary.nodes, key)[:count]]
    found = summary.ranges(key, count) if by == "range" else summary.pages(key, count)
    return [range_row(snapshot, entry) for entry in found]


def json_document(summary: Summary, by: str | None, key: str | None, count: int | None) -> Row:
    """Everything a report knows, pages only when asked for.

    ``count``: rows of the table of ``by``, or of ranges if that is None; 0: all. Other tables have all their
    rows, but ranges only 1000.
    """
    snapshot = summary.snapshot
    chosen = {name: check_key(name, key if name == by else None) for name in KEYS}
    names = ["process", "vma", "range", "node", *(["page"] if by == "page" else [])]
    limits: dict[str, int | None] = dict.fromkeys(names) | {"range": _JSON_RANGES}
    if count is not None:
        limits[by or "range"] = count or None
    histogram = summary.histogram
    document: Row = {
        "run": asdict(snapshot.run) | {"sees_rates": snapshot.run.sees_rates},
        "end": asdict(snapshot.end) if snapshot.end else None,
        "time_s": snapshot.time_s,
        "usage": asdict(snapshot.usage) | {"window_s": snapshot.usage.window_s},
        "problems": list(snapshot.problems),
        "threshold": asdict(summary.threshold) | {"warm_hz": summary.threshold.warm_hz},
        "total": heat_row(summary.total),
        "hot_bytes_on_several_nodes": summary.hot_bytes_on_several_nodes,
        "histogram": [
            {"from_hz": low, "to_hz": high, "bytes": count_bytes}
            for low, high, count_bytes in zip(
                histogram.edges_hz[:-1].tolist(),
                histogram.edges_hz[1:].tolist(),
                histogram.bytes.tolist(),
                strict=True,
            )
            if count_bytes
        ],
        **{_PLURALS[name]: flat_rows(summary, name, chosen[name], limits[name]) for name in names},
    }
    for row, entry in zip(document["vmas"], sort_heat(summary.mappings, chosen["vma"]), strict=False):
        strip = heat_strip(snapshot, entry, _STRIP_CELLS) if entry.heat.accesses_per_s else None
        row["strip_rate_hz"] = strip.rate_hz.tolist() if strip is not None else None
    written: Row = without_nan(document)
    return written


_PLURALS = {"process": "processes", "vma": "vmas", "range": "ranges", "node": "nodes", "page": "pages"}


def heat_row(heat: Heat) -> Row:
    """The columns that all kinds of memory have."""
    row: Row = {
        "hot_bytes": heat.hot_bytes,
        "warm_bytes": heat.warm_bytes,
        "cold_bytes": heat.cold_bytes,
        "silent_bytes": heat.silent_bytes,
        "unknown_bytes": heat.unknown_bytes,
        "accesses_per_s": heat.accesses_per_s,
        "relative_error": heat.relative_error,
        "resident_bytes": heat.resident_bytes,
        "resident_bytes_by_node": {str(node): count for node, count in heat.resident_bytes_by_node.items()},
    }
    for window_s, count_bytes in zip(WINDOWS_S, heat.working_set_bytes, strict=True):
        row[f"touched_in_{window_s:.0f}_s_bytes"] = round(count_bytes)
    return row


def process_row(entry: ProcessHeat) -> Row:
    """One process."""
    row: Row = {"process": entry.process}
    if entry.record is not None:
        row |= asdict(entry.record.process) | {
            "first_s": entry.record.first_s,
            "exited_s": entry.record.exited_s,
            "previous_index": entry.record.previous_index,
        }
    return _in_columns("process", row | heat_row(entry.heat))


def mapping_row(snapshot: Snapshot, entry: MappingHeat) -> Row:
    """One mapping."""
    row = _whose(snapshot, entry.process)
    if entry.record is not None:
        vma, residency = entry.record.vma, entry.record.residency
        row |= {
            "start": address(vma.start),
            "end": address(vma.end),
            "size_bytes": vma.size_bytes,
            "permissions": vma.permissions,
            "kind": vma.kind,
            "name": vma.name,
            "path": vma.path,
            "offset_bytes": vma.offset,
            "armable": entry.record.armable,
            "page_size_bytes": residency.page_size_bytes if residency else None,
        }
    return _in_columns("vma", row | heat_row(entry.heat))


def range_row(snapshot: Snapshot, entry: RangeHeat) -> Row:
    """One range, or one page."""
    return _whose(snapshot, entry.process) | {
        "start": address(entry.start),
        "end": address(entry.end),
        "size_bytes": entry.size_bytes,
        "heat": entry.heat_class.name.lower(),
        "rate_hz": entry.rate_hz,
        "rate_short_hz": entry.rate_short_hz,
        "accesses_per_s": entry.accesses_per_s,
        "relative_error": entry.relative_error,
        "mapping": entry.record.vma.name if entry.record else None,
        "mapping_start": address(entry.record.vma.start) if entry.record else None,
    }


def node_row(entry: NodeHeat) -> Row:
    """One node."""
    sums = {
        "resident_bytes": entry.resident_bytes,
        "hot_bytes": entry.hot_bytes,
        "warm_bytes": entry.warm_bytes,
    }
    return _in_columns("node", asdict(entry.record) | sums)


def _in_columns(by: str, values: Row) -> Row:
    return {name: values.get(name) for name in COLUMNS[by]}


def _whose(snapshot: Snapshot, process: int) -> Row:
    record = snapshot.processes.get(process)
    return {
        "process": process,
        "pid": record.process.pid if record else None,
        "comm": record.process.comm if record else None,
    }


def _place(entry: ProcessHeat | MappingHeat) -> tuple[int, int]:
    if isinstance(entry, ProcessHeat):
        return (entry.record.process.pid if entry.record else 0, entry.process)
    return (entry.record.vma.start if entry.record else 0, entry.process)
