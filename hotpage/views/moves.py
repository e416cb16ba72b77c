# SPDX-License-Identifier: Apache-2.0
"""Plans of moves and what became of them: as tables for people, and as one document for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from rich.text import Text

from hotpage.machine.proc import printable
from hotpage.placement.outcome import RESULT_WORDS, Outcome, Result
from hotpage.placement.plan import WORDS, Move, Plan, ProcessFacts
from hotpage.views.tables import Column, table
from hotpage.views.units import rate, seconds, shorten, size

_WIDTH = 100
_PLAN_COLUMNS = (
    Column("PID"),
    Column("COMMAND", right=False),
    Column("NODE", right=False),
    Column("SIZE"),
    Column("ACC/S"),
    Column("SAVES"),
    Column("COSTS"),
    Column("WHY", right=False, gives_way=True),
)


def plan_lines(plan: Plan, processes: Mapping[int, ProcessFacts], width: int = _WIDTH) -> Iterator[Text]:
    """What would move and why, then what stays and why. Rates are of one page, on average."""
    if plan.moves:
        rows = [(_cells(move, processes[move.process]), None) for move in plan.moves]
        yield from table(_PLAN_COLUMNS, rows, width, "...")
    hot = f"; hot from {rate(plan.hot_hz)} accesses/s a page" if plan.hot_hz > 0 else ""
    yield Text(f"policy {plan.policy}: {size(plan.moved_bytes)} to move{hot}")
    for fate, count in sorted(plan.kept_bytes.items(), key=lambda item: -item[1]):
        yield Text(f"{size(count):>7} stays: {WORDS[fate]}")


def _cells(move: Move, process: ProcessFacts) -> tuple[str, ...]:
    return (
        str(process.pid),
        shorten(printable(process.comm), 16, "..."),
        f"{move.source} -> {move.target}",
        size(move.size_bytes),
        rate(move.mean_rate_hz),
        seconds(move.gain_s) if move.gain_s >= 0 else f"-{seconds(-move.gain_s)}",
        seconds(move.cost_s),
        move.reason,
    )


def outcome_lines(outcome: Outcome) -> Iterator[Text]:
    """What became of the bytes that were asked for."""
    for kind, count in sorted(outcome.bytes_by_result().items()):
        yield Text(f"{size(count):>7} {RESULT_WORDS[kind]}")
    if outcome.calls:
        speed = outcome.moved_bytes / outcome.call_s if outcome.call_s else 0.0
        yield Text(
            f"{size(outcome.requested_bytes):>7} asked for, in {outcome.calls:,} calls and "
            f"{seconds(outcome.elapsed_s)}; {size(speed)}/s while moving, longest call "
            f"{outcome.longest_call_s * 1e3:.1f} ms"
        )
    for note in outcome.notes:
        yield Text(note)


def outcome_summary(outcome: Outcome) -> str:
    """In a line: how much moved of what was asked for, and the weightiest reason why not more."""
    text = f"{size(outcome.moved_bytes)} of {size(outcome.requested_bytes)} moved"
    if outcome.moved_bytes < outcome.requested_bytes:
        text += f"; {why_not_moved(outcome)}"
    return text


def move_document(
    plan: Plan, processes: Mapping[int, ProcessFacts], outcome: Outcome | None
) -> dict[str, Any]:
    """Everything, in bytes, seconds and accesses/s; names are those of the enumerations, in lower case."""
    document: dict[str, Any] = {
        "policy": plan.policy,
        "hot_hz": plan.hot_hz if isfinite(plan.hot_hz) else None,
        "planned_bytes": plan.moved_bytes,
        "moves": [
            {
                "pid": processes[move.process].pid,
                "comm": processes[move.process].comm,
                "source": move.source,
                "target": move.target,
                "promotion": move.is_promotion,
                "bytes": move.size_bytes,
                "mean_rate_hz": move.mean_rate_hz,
                "gain_s": move.gain_s,
                "cost_s": move.cost_s,
                "reason": move.reason,
            }
            for move in plan.moves
        ],
        "kept_bytes": {fate.name.lower(): count for fate, count in plan.kept_bytes.items()},
    }
    if outcome is not None:
        document["result"] = {
            "requested_bytes": outcome.requested_bytes,
            "moved_bytes": outcome.moved_bytes,
            "bytes": {kind.name.lower(): count for kind, count in outcome.bytes_by_result().items()},
            "elapsed_s": outcome.elapsed_s,
            "calls": outcome.calls,
            "longest_call_s": outcome.longest_call_s,
            "notes": list(outcome.notes),
        }
    return document


def why_not_moved(outcome: Outcome) -> str:
    """The weightiest failure, for people."""
    failed = {kind: n for kind, n in outcome.bytes_by_result().items() if kind is not Result.MOVED}
    return RESULT_WORDS[max(failed, key=lambda kind: failed[kind])] if failed else "nothing was asked for"
