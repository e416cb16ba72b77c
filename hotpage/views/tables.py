# SPDX-License-Identifier: Apache-2.0
"""Plain text tables that fit the width: one column gives way, the others are as wide as what they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from hotpage.views.units import shorten

Cell = str | Text
_GAP = "  "
_NARROW_GAP = " "


@dataclass(frozen=True)
class Column:
    """A column; one may give way: its texts are shortened in the middle, down to ``least`` cells."""

    header: str
    right: bool = True
    gives_way: bool = False
    least: int = 10


def table(
    columns: Sequence[Column],
    rows: Sequence[tuple[Sequence[Cell], Text | None]],
    width: int,
    ellipsis: str,
) -> Iterator[Text]:
    """Lines of a table; a row is its cells and, if any, a line of its own below them."""
    gap = _GAP if width >= 100 else _NARROW_GAP
    widths = [
        max(len(column.header), *(_width(cells[place]) for cells, _ in rows)) if rows else len(column.header)
        for place, column in enumerate(columns)
    ]
    for place, column in enumerate(columns):
        if column.gives_way:
            others = sum(widths) - widths[place] + len(gap) * (len(columns) - 1)
            widths[place] = min(widths[place], max(column.least, width - others))
    yield _line(columns, [Text(column.header, "bold") for column in columns], widths, gap, ellipsis)
    for cells, below in rows:
        yield _line(columns, cells, widths, gap, ellipsis)
        if below is not None:
            yield below


def _line(
    columns: Sequence[Column], cells: Sequence[Cell], widths: Sequence[int], gap: str, ellipsis: str
) -> Text:
    line = Text()
    for place, (column, cell, width) in enumerate(zip(columns, cells, widths, strict=True)):
        text = cell if isinstance(cell, Text) else Text(cell)
        if text.cell_len > width:
            text = Text(shorten(text.plain, width, ellipsis), text.style)
        padding = " " * (width - text.cell_len)
        line.append(gap if place else "")
        line.append_text(Text(padding) + text if column.right else text + Text(padding))
    line.rstrip()
    return line


def _width(cell: Cell) -> int:
    """In cells of a terminal, of which some characters take two."""
    return cell.cell_len if isinstance(cell, Text) else cell_len(cell)
