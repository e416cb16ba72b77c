# SPDX-License-Identifier: Apache-2.0
"""The table as a widget: a line of headings, and as many rows as there is room for; others cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from hotpage.profile.live.view import LiveView
from hotpage.views.top.columns import Column, Context, Span, fit
from hotpage.views.top.levels import Level

_CURSOR = Style.parse("on #264f78")
_HEADING = Style.parse("bold #1e1e1e on #87b38d")
_SORTED = Style.parse("bold #1e1e1e on #d7ba7d")
_WHEEL_ROWS = 3
_KEPT_CELLS = 4096


class Grid(Widget, can_focus=False):
    """Shows the rows of a level. The cursor stays on its row when rows move, come and go."""

    class Entered(Message):
        """A row was double-clicked."""

    class HeadingClicked(Message):
        """Sort by this column."""

        def __init__(self, column: Column) -> None:
            super().__init__()
            self.column = column

    class Moved(Message):
        """The cursor is on another row."""

    def __init__(self) -> None:
        super().__init__()
        self.level: Level | None = None
        self.rows: Sequence[Any] = ()
        self.context = Context()
        self.cursor: int = 0
        self._top = 0
        self._identity: object = None
        self._columns: list[tuple[Column, int]] = []
        self._all_columns: list[Column] = []

    @property
    def row(self) -> Any:
        """The row under the cursor; None in an empty table."""
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    @property
    def columns(self) -> list[Column]:
        """Those that have room."""
        return [column for column, _ in self._columns]

    @property
    def page(self) -> int:
        """Rows on the screen."""
        return max(self.size.height - 1, 1)

    def show(self, level: Level, view: LiveView, rows: Sequence[Any], context: Context) -> None:
        """Take the rows of a new refresh, or of another level."""
        is_same = level is self.level
        self.level, self.rows, self.context = level, rows, context
        self._all_columns = level.columns(view)
        self._columns = fit(self._all_columns, max(self.size.width, 1))
        self.cursor = self._found() if is_same else 0
        if not is_same:
            self._top = 0
        self.move_to(self.cursor)

    def go_to(self, identity: object) -> None:
        """Put the cursor on a row, if it is there."""
        self._identity = identity
        self.move_to(self._found())

    def move_to(self, row: int) -> None:
        """Put the cursor on a row, and that on the screen."""
        self.cursor = min(max(row, 0), max(len(self.rows) - 1, 0))
        self._top = min(max(self._top, self.cursor - self.page + 1), self.cursor)
        self._top = max(min(self._top, len(self.rows) - self.page), 0)
        if self.level is not None:
            self._identity = self.level.identity(self.row) if self.row is not None else None
            self.level.prepare(self.rows[self._top : self._top + self.page])
        self.post_message(self.Moved())
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            return Strip(self._headings()).adjust_cell_length(width, _HEADING)
        place = self._top + y - 1
        if self.level is None or place >= len(self.rows):
            return Strip.blank(width, self.rich_style)
        row = self.rows[place]
        style = self.rich_style + _CURSOR if place == self.cursor else self.rich_style
        segments: list[Segment] = []
        for number, (column, room) in enumerate(self._columns):
            if number:
                segments.append(Segment(" ", style))
            cell = column.cell(row, room, self.context)
            segments += _segments(
                tuple(cell) if isinstance(cell, list) else (cell,), room, column.right, style
            )
        return Strip(segments).adjust_cell_length(width, style)

    def _headings(self) -> list[Segment]:
        """A sign behind the one that rows are sorted by says which end comes first."""
        segments: list[Segment] = []
        for column, room in self._columns:
            text = column.header[:room]
            padded = text.rjust(room) if column.right else text.ljust(room)
            style, sign = _HEADING, " "
            if self.level is not None and column.key == self.level.order.key:
                signs = "▲▼" if self.context.unicode else "^v"
                style, sign = _SORTED, signs[self.level.order.descending]
            segments += (Segment(padded, style), Segment(sign, style))
        return segments[:-1]

    def _found(self) -> int:
        """Where the row is that the cursor was on; where the cursor was, if it has gone."""
        if self.level is not None and self._identity is not None:
            near = range(max(self.cursor - 1, 0), min(self.cursor + 2, len(self.rows)))
            for place in (*near, *range(min(len(self.rows), 100_000))):
                if self.level.identity(self.rows[place]) == self._identity:
                    return int(place)
        return int(self.cursor)

    def on_resize(self, event: events.Resize) -> None:
        self._columns = fit(self._all_columns, max(event.size.width, 1))
        self.move_to(self.cursor)

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            at = 0
            for column, room in self._columns:
                if at <= event.x <= at + room:
                    self.post_message(self.HeadingClicked(column))
                    return
                at += room + 1
        elif self._top + event.y - 1 < len(self.rows):
            self.move_to(self._top + event.y - 1)
            if event.chain >= 2:
                self.post_message(self.Entered())

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.move_to(self.cursor + _WHEEL_ROWS)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.move_to(self.cursor - _WHEEL_ROWS)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return int(container.height)


@lru_cache(_KEPT_CELLS)
def _segments(spans: tuple[Span, ...], room: int, right: bool, style: Style) -> tuple[Segment, ...]:
    length = sum(cell_len(text) for text, _ in spans)
    if length > room:
        spans = ((set_cell_size("".join(text for text, _ in spans), room), spans[0][1]),)
        length = room
    segments = [Segment(text, style + Style.parse(own)) for text, own in spans]
    padding = Segment(" " * max(room - length, 0), style)
    return (padding, *segments) if right else (*segments, padding)
