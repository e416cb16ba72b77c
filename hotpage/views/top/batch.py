# SPDX-License-Identifier: Apache-2.0
"""Batch mode: the process table as text with columns that stay, or a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hotpage.errors import UsageError
from hotpage.profile.live.view import LiveHeat, LiveView
from hotpage.views import units
from hotpage.views.top.feed import Status
from hotpage.views.top.header import header_lines
from hotpage.views.top.levels import Order
from hotpage.views.top.processes import ProcessLevel, ProcessRow, process_row

_WIDTH = 110
KEYS = ("accesses", "hot", "warm", "cold", "unknown", "rss", "error", "misplaced", "moves", "pid", "command")
_ASCENDING = ("error", "pid", "command")
_HEADINGS = (
    *("PID", "RSS", "HOT", "WARM", "COLD", "UNKNOWN", "ACC/S", "ERROR", "MISPL", "MOV/S"),
    *("NODES", "COMMAND"),
)


def check_key(key: str) -> Order:
    """The order of ``-s KEY``; UsageError naming the keys if there is no such one."""
    if key not in KEYS:
        raise UsageError(f"cannot sort by {key}", f"-s takes {', '.join(KEYS)}")
    return Order(key, key not in _ASCENDING)


def text_block(view: LiveView, status: Status, key: str, again: bool = False) -> str:
    """Header and table; a blank line before all but the first."""
    lines = [""] if again else []
    lines += [line.plain.rstrip() for line in header_lines(view, status, _WIDTH, unicode=False)]
    lines.append("")
    lines.append(_row(_HEADINGS))
    lines += [_row(_cells(row)) for row in _sorted(view, key)]
    return "".join(f"{line}\n" for line in lines)


def json_line(view: LiveView, status: Status, key: str) -> str:
    """One object: the session's state, tiers, and the processes in order."""
    usage = {counts.source: asdict(counts) for counts in view.usage.sources}
    recent = view.recent
    document = {
        "time_s": view.time_s,
        "unix_s": view.run.started_unix_s + view.time_s,
        "target": view.run.target,
        "hostname": view.run.hostname,
        "ended": view.end.status if view.end else None,
        "armed": view.run.armed,
        "arming": status.arming,
        "sees_rates": view.run.sees_rates,
        "sources": usage,
        "own_cpu_share": recent.own_cpu_s / recent.window_s if recent.window_s else None,
        "bpf_share": recent.bpf_s / recent.window_s if recent.bpf_s and recent.window_s else None,
        "target_cost_percent": status.target_cost_percent,
        "hot_rate_hz": view.threshold.hot_hz,
        "warm_rate_hz": view.threshold.warm_hz,
        "threshold_rule": view.threshold.rule,
        "tracked_pages": view.pages,
        "fast_tier_share": view.fast_share,
        "total": _heat(view.total),
        "tiers": [
            {
                "tier": tier.tier,
                "nodes": [node.node for node in tier.nodes],
                "total_bytes": tier.total_bytes,
                "used_bytes": tier.used_bytes,
                "target_bytes": round(tier.resident_bytes),
                "hot_bytes": round(tier.hot_bytes),
                "accesses_per_s": tier.accesses_per_s,
            }
            for tier in view.tiers
        ],
        "processes": [_process(row) for row in _sorted(view, key)],
    }
    return json.dumps(units.without_nan(document), separators=(",", ":")) + "\n"


def _sorted(view: LiveView, key: str) -> Sequence[ProcessRow]:
    level = ProcessLevel()
    level.order = check_key(key)
    return level.sorted([process_row(process) for process in view.processes], view)


def _cells(row: ProcessRow) -> tuple[str, ...]:
    heat, record = row.heat, row.record
    sizes = (heat.resident_bytes, heat.hot_bytes, heat.warm_bytes, heat.cold_bytes, heat.unknown_bytes)
    nodes = ",".join(f"{node}:{units.size(count)}" for node, count in heat.bytes_by_node.items())
    return (
        str(record.process.pid) if record else "",
        *map(units.size, sizes),
        units.rate(heat.accesses_per_s),
        units.error(heat.relative_error),
        units.size(heat.misplaced_bytes),
        units.rate(row.moves_per_s),
        nodes or "-",
        row.name,
    )


def _row(cells: Sequence[str]) -> str:
    widths = (7, 6, 6, 6, 6, 7, 6, 6, 6, 6)
    right = " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=False))
    return f"{right} {cells[-2]:<12} {cells[-1]}".rstrip()


def _process(row: ProcessRow) -> dict[str, Any]:
    assert row.record is not None
    process = row.record.process
    return {
        "pid": process.pid,
        "start_time_ticks": process.start_time_ticks,
        "comm": process.comm,
        "cmdline": process.cmdline,
        "cgroup": process.cgroup,
        "exited_s": row.record.exited_s,
        "moved_pages_per_s": row.moves_per_s,
        **_heat(row.heat),
    }


def _heat(heat: LiveHeat) -> dict[str, Any]:
    return {
        "resident_bytes": heat.resident_bytes,
        "hot_bytes": heat.hot_bytes,
        "warm_bytes": heat.warm_bytes,
        "cold_bytes": heat.cold_bytes,
        "unknown_bytes": heat.unknown_bytes,
        "accesses_per_s": heat.accesses_per_s,
        "relative_error": heat.relative_error,
        "misplaced_bytes": round(heat.misplaced_bytes),
        "resident_bytes_by_node": {str(node): count for node, count in heat.bytes_by_node.items()},
    }
