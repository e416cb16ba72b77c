# SPDX-License-Identifier: Apache-2.0
"""Columns: what each shows of a row, how it sorts, and how columns share the width of the screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hotpage.arrays import Float32s
from hotpage.machine.folios import PAGE_BYTES
from hotpage.profile.live.view import LiveHeat
from hotpage.profile.threshold import HeatClass
from hotpage.views import units

Span = tuple[str, str]
"""Text and its rich style."""
Cell = Span | list[Span]

HEAT_STYLES: Mapping[HeatClass, str] = {
    HeatClass.HOT: "bold #ff6b5e",
    HeatClass.WARM: "#ffc14d",
    HeatClass.COLD: "#6cb6ff",
    HeatClass.UNKNOWN: "#9a9a9a",
}
PLAIN, FAINT, STRONG, ALERT = "", "#8a8a8a", "bold", "bold #ff6b5e"
STRIP_STYLES = (
    "#6a6a6a",
    "#3f7fc4",
    "#4f93da",
    "#6cb6ff",
    "#8fd0ff",
    "#ffc14d",
    "#ff9a4d",
    "#ff6b5e",
    "bold #ff3b30",
)
"""By level of views.strip: armed and silent, four of cold, warm, three of hot."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.:-=+*#"
UNITS = ("bytes", "pages", "% of RSS")


@dataclass(frozen=True)
class Context:
    """What cells depend on beside the row."""

    unit: str = UNITS[0]
    unicode: bool = True
    full_commands: bool = False


@dataclass(frozen=True)
class Column:
    """``cell`` gets a row, the width and the context. A column with ``most`` grows up to that from ``width``.

    ``drop``: where the width is short, the columns with the highest go first; 0 stays. ``value``: what to
    sort by, None if that makes no sense; of a row, in ranges.py of the arrays that hold all of them.
    """

    key: str
    header: str
    width: int
    cell: Callable[[Any, int, Context], Cell]
    right: bool = True
    most: int = 0
    drop: int = 0
    value: Callable[[Any], Any] | None = None
    descending: bool = True


def fit(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """The columns that have room, and how wide each is; a blank lies between two."""
    kept = list(columns)
    while len(kept) > 1 and _least(kept) > width:
        worst = max(kept, key=lambda column: column.drop)
        if worst.drop == 0:
            break
        kept.remove(worst)
    spare = max(width - _least(kept), 0)
    widths = [column.width for column in kept]
    growing = [place for place, column in enumerate(kept) if column.most > column.width]
    while spare and growing:
        for place in list(growing):
            if spare and widths[place] < kept[place].most:
                widths[place] += 1
                spare -= 1
            elif widths[place] >= kept[place].most:
                growing.remove(place)
    return list(zip(kept, widths, strict=True))


def _least(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + len(columns) - 1


def amount(count_bytes: float, of_bytes: float, context: Context) -> str:
    """Memory in the unit chosen."""
    if context.unit == "pages":
        return units.rate(round(count_bytes / PAGE_BYTES))
    if context.unit == UNITS[2]:
        return f"{100 * count_bytes / of_bytes:.0f}%" if of_bytes else "?"
    return units.size(count_bytes)


def heat_columns(heat: Callable[[Any], LiveHeat], drop: Mapping[str, int]) -> list[Column]:
    """RSS to misplaced, for rows that have a heat; ``drop`` says which give way first."""

    def memory(key: str, header: str, width: int, style: str, pick: Callable[[LiveHeat], float]) -> Column:
        def cell(row: Any, _width: int, context: Context) -> Cell:
            whole = heat(row)
            count = pick(whole)
            return amount(count, whole.resident_bytes, context), style if count else FAINT

        return Column(key, header, width, cell, drop=drop.get(key, 0), value=lambda row: pick(heat(row)))

    return [
        memory("rss", "RSS", 5, PLAIN, lambda one: one.resident_bytes),
        memory("hot", "HOT", 5, HEAT_STYLES[HeatClass.HOT], lambda one: one.hot_bytes),
        memory("warm", "WARM", 5, HEAT_STYLES[HeatClass.WARM], lambda one: one.warm_bytes),
        memory("cold", "COLD", 5, HEAT_STYLES[HeatClass.COLD], lambda one: one.cold_bytes),
        memory("unknown", "UNKNOWN", 7, HEAT_STYLES[HeatClass.UNKNOWN], lambda one: one.unknown_bytes),
        Column(
            "accesses",
            "ACC/S",
            5,
            lambda row, _width, _context: faint_zero(units.rate(heat(row).accesses_per_s)),
            drop=drop.get("accesses", 0),
            value=lambda row: heat(row).accesses_per_s,
        ),
        Column(
            "error",
            "ERROR",
            5,
            lambda row, _width, _context: (units.error(heat(row).relative_error), FAINT),
            drop=drop.get("error", 0),
            value=lambda row: _last(heat(row).relative_error),
            descending=False,
        ),
        memory("misplaced", "MISPL", 5, ALERT, lambda one: one.misplaced_bytes),
    ]


def node_columns(heat: Callable[[Any], LiveHeat], nodes: Sequence[int], drop: int) -> list[Column]:
    """Bytes on each node; the later ones give way first."""

    def column(place: int, node: int) -> Column:
        def cell(row: Any, _width: int, context: Context) -> Cell:
            whole = heat(row)
            count = whole.bytes_by_node.get(node, 0)
            return amount(count, whole.resident_bytes, context), PLAIN if count else FAINT

        return Column(
            f"node{node}",
            f"N{node}",
            5,
            cell,
            drop=drop + place,
            value=lambda row: heat(row).bytes_by_node.get(node, 0),
        )

    return [column(place, node) for place, node in enumerate(nodes)]


def sparkline(history_hz: Float32s, width: int, unicode: bool) -> str:
    """The newest values, the highest of them a full block; a blank where there was none."""
    signs = _BLOCKS if unicode else _ASCII_BLOCKS
    recent = history_hz[-width:]
    known = np.isfinite(recent)
    top = float(recent[known].max()) if known.any() else 0.0
    if top <= 0:
        return "".join(signs[0] if is_known else " " for is_known in known)
    steps = np.rint(recent / top * (len(signs) - 1))
    places = np.where(known, steps + 1, 0).astype(np.int64).tolist()
    return "".join(map((" " + signs).__getitem__, places))


def log_bar(rate_hz: float, lowest_hz: float, highest_hz: float, width: int, unicode: bool) -> str:
    """A bar from the lowest rate to the highest, in octaves."""
    if not rate_hz > 0 or not highest_hz > 0:
        return ""
    span = math.log2(highest_hz / lowest_hz) + 1
    length = round(width * (math.log2(rate_hz / lowest_hz) + 1) / span)
    return ("█" if unicode else "#") * max(length, 1)


def faint_zero(text: str) -> Span:
    """A number that is easy to pass over where it is none."""
    return (text, FAINT if text == "0" else PLAIN)


def _last(value: float) -> float:
    """Unknown sorts behind everything."""
    return math.inf if math.isnan(value) else value
