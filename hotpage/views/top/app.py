# SPDX-License-Identifier: Apache-2.0
"""The application: keys and clicks, and a look at the feed a few times a second."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from hotpage.errors import HotpageError, UsageError
from hotpage.placement.background import MoveJob, Stage
from hotpage.placement.chosen import Wish
from hotpage.profile.live.view import LiveView
from hotpage.views.moves import outcome_summary
from hotpage.views.top.columns import ALERT, FAINT, UNITS, Context
from hotpage.views.top.feed import Feed
from hotpage.views.top.grid import Grid
from hotpage.views.top.header import header_height, header_lines, notes
from hotpage.views.top.levels import Level, Order
from hotpage.views.top.movescreen import MoveScreen
from hotpage.views.top.processes import ProcessLevel
from hotpage.views.top.screens import HelpScreen, SortScreen
from hotpage.views.units import last_cells

_LOOK_S = 0.2
_MOST_SEARCHED = 100_000
_FOOTER = (
    ("F1", "Help", "help"),
    ("F3", "Search", "search"),
    ("F4", "Filter", "filter"),
    ("F5", "Tree", "tree"),
    ("F6", "Sort", "sort"),
    ("F7", "Fast", "promote"),
    ("F8", "Slow", "demote"),
    ("Z", "Freeze", "freeze"),
    ("R", "Record", "record"),
    ("Esc", "Back", "leave"),
    ("F10", "Quit", "quit"),
)
_MOVES = ("promote", "demote")
_GIVE_WAY = ("freeze", "search", "tree", "sort", "filter", "record", "leave", "promote", "demote")


class TopApp(App[str]):
    """Runs until somebody quits, or ``should_stop`` gives a reason (a signal, an error of the session); the
    session itself is not its business.
    """

    CSS = """
    Screen { layout: vertical; background: #1e1e1e; color: #e0e0e0; overflow: hidden; }
    SortScreen { background: #1e1e1e 30%; }
    #header { height: 1; }
    Grid { height: 1fr; }
    #path { height: 1; background: #2a2a2a; }
    #detail { height: 1; background: #2a2a2a; color: #b0b0b0; }
    #keys { height: 1; link-color: #1e1e1e; link-background: #87b38d; link-style: none; }
    #asking { height: 1; display: none; background: #3a3a2a; }
    #question { width: auto; }
    #words { width: 1fr; height: 1; border: none; padding: 0; background: #3a3a2a; }
    #words:focus { border: none; }
    """
    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None  # keys are commands until words are asked for
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c,ctrl+q", "quit", priority=True),
        Binding("f10,q", "quit"),
        Binding("f1,h,question_mark", "help"),
        Binding("f3", "search", priority=True),
        Binding("slash", "search"),
        Binding("n", "search_next"),
        Binding("f4,backslash", "filter"),
        Binding("f5,t", "tree"),
        Binding("plus", "fold(False)"),
        Binding("minus", "fold(True)"),
        Binding("f6,s", "sort"),
        Binding("less_than_sign", "sort_beside(-1)"),
        Binding("greater_than_sign", "sort_beside(1)"),
        Binding("I", "invert"),
        Binding("P", "sort_by('accesses')"),
        Binding("M", "sort_by('rss')"),
        Binding("N", "sort_by('pid')"),
        Binding("z,Z", "freeze"),
        Binding("e", "unit"),
        Binding("p", "commands"),
        Binding("R", "record"),
        Binding("f7,right_square_bracket", "promote"),
        Binding("f8,left_square_bracket", "demote"),
        Binding("enter,right", "enter"),
        Binding("escape,backspace,left", "leave"),
        Binding("up,k", "move(-1)"),
        Binding("down,j", "move(1)"),
        Binding("pageup", "move_page(-1)"),
        Binding("pagedown", "move_page(1)"),
        Binding("home", "first"),
        Binding("end", "last"),
        Binding("ctrl+l", "redraw"),
        *(Binding(digit, f"pid('{digit}')") for digit in "0123456789"),
    ]

    def __init__(
        self,
        feed: Feed,
        should_stop: Callable[[], str | None] = lambda: None,
        unicode: bool = True,
        order: Order | None = None,
        is_tree: bool = False,
    ) -> None:
        super().__init__()
        self._feed = feed
        self._should_stop = should_stop
        self._unicode = unicode
        self._unit = 0
        self._full_commands = False
        first = ProcessLevel()
        first.is_tree = is_tree
        first.order = order or first.order
        self._levels: list[tuple[Level, object]] = [(first, None)]
        self._words: dict[int, str] = {}
        self._search = ""
        self._pid = ""
        self._asking = ""
        self._view: LiveView | None = None
        self._is_frozen = False
        self._message = ""
        self._job: MoveJob | None = None
        self._parent_pid = os.getppid()

    # Parts

    def compose(self) -> ComposeResult:
        yield Static(id="header")
        yield Grid()
        yield Static(id="path")
        yield Static(id="detail")
        yield Static(id="keys")
        yield Horizontal(Static(id="question"), Input(id="words"), id="asking")

    def on_mount(self) -> None:
        self.set_interval(_LOOK_S, self._look)
        self._show_header()
        self._look()

    @property
    def level(self) -> Level:
        """The table shown."""
        return self._levels[-1][0]

    @property
    def grid(self) -> Grid:
        """Its widget."""
        return self.screen_stack[0].query_one(Grid)

    def _look(self) -> None:
        """Is there a new picture, or a reason to stop?"""
        if not self.screen_stack:  # Textual closes the screens first and stops the timers then
            return
        reason = self._should_stop()
        if reason is None and self.is_web and os.getppid() != self._parent_pid:
            reason = "the server has gone"
        if reason is not None:
            self.exit(reason)
            return
        self._look_at_moves()
        view = self._feed.view
        if view is not self._view and not self._is_frozen:
            self._view = view
            self.show()

    def show(self) -> None:
        """Bring everything on the screen up to the newest picture."""
        if not self.screen_stack:
            return
        self._show_header()
        self._show_keys()
        if self._view is None:
            return
        rows = self.level.rows(self._feed, self._view, self._filter)
        context = Context(UNITS[self._unit], self._unicode, self._full_commands)
        self.grid.show(self.level, self._view, rows, context)

    @property
    def _filter(self) -> str:
        return self._words.get(id(self.level), "").lower()

    def _show_header(self) -> None:
        header = self.screen_stack[0].query_one("#header", Static)
        lines = header_lines(self._view, self._feed.status(), self.size.width, self._unicode, self._is_frozen)
        if header.styles.height is None or header.styles.height.value != header_height(self._view):
            header.styles.height = header_height(self._view)
        header.update(Text("\n", no_wrap=True, overflow="crop").join(lines))

    def _show_detail(self) -> None:
        """Where this is, and the row under the cursor in full."""
        base, row = self.screen_stack[0], self.grid.row
        count = f"{self.grid.cursor + 1:,} of {len(self.grid.rows):,}" if row is not None else "nothing here"
        right = Text(
            f"{self._filter and f'filter: {self._filter}  '}{count}", "#ffc14d" if self._filter else FAINT
        )
        path = " > ".join(level.title for level, _ in self._levels)
        room = max(self.size.width - right.cell_len - 1, 0)
        if cell_len(path) > room:
            path = "…" * self._unicode + last_cells(path, room - 1)
        line = Text.assemble((set_cell_size(path, room + 1), "bold #87b38d"), right, no_wrap=True)
        base.query_one("#path", Static).update(line)
        text = Text(self._message, ALERT, no_wrap=True)
        if not self._message and row is not None and self._view is not None:
            text = Text(self.level.describe(row, self._view), no_wrap=True)
        text.truncate(self.size.width, overflow="ellipsis" if self._unicode else "crop")
        base.query_one("#detail", Static).update(text)

    def _show_keys(self) -> None:
        has_tiers = self._view is not None and self._view.has_tiers
        hidden = set(() if has_tiers else _MOVES)
        if not self.level.can_filter:
            hidden.add("filter")
        if not isinstance(self.level, ProcessLevel):
            hidden.add("tree")
        keys = [one for one in _FOOTER if one[2] not in hidden]
        for action in _GIVE_WAY:
            if sum(len(key) + len(label) + 1 for key, label, _ in keys) - 1 > self.size.width:
                keys = [one for one in keys if one[2] != action]
        self.screen_stack[0].query_one("#keys", Static).update(self._keys(keys))

    def _keys(self, keys: Sequence[tuple[str, str, str]]) -> Text:
        line = Text(no_wrap=True)
        for key, label, action in keys:
            line.append(key, "bold #e0e0e0")
            start = len(line)
            line.append(label, "#1e1e1e on #87b38d")
            line.apply_meta({"@click": f"app.{action}"}, start, len(line))
            line.append(" ")
        return line

    # What happens in the table

    def on_resize(self) -> None:
        self.call_after_refresh(self.show)

    def on_grid_moved(self) -> None:
        self._show_detail()

    def on_grid_entered(self) -> None:
        self.action_enter()

    def on_grid_heading_clicked(self, event: Grid.HeadingClicked) -> None:
        if event.column.value is not None:
            self.action_sort_by(event.column.key)

    def action_move(self, rows: int) -> None:
        self._message = ""  # has been read
        self.grid.move_to(self.grid.cursor + rows)

    def action_move_page(self, pages: int) -> None:
        self.action_move(pages * self.grid.page)

    def action_first(self) -> None:
        self.action_move(-len(self.grid.rows))

    def action_last(self) -> None:
        self.action_move(len(self.grid.rows))

    def action_enter(self) -> None:
        self._message = ""
        row = self.grid.row
        if row is None:
            return
        deeper = self.level.enter(row)
        if deeper is not None:
            self._levels[-1] = (self.level, self.level.identity(row))
            self._levels.append((deeper, None))
        self.show()

    def action_leave(self) -> None:
        """Of input, filter and level the one that came last."""
        self._message = ""
        if self._asking:
            if self._asking == "filter":
                self._words.pop(id(self.level), None)
            self._end_asking()
        elif self._filter:
            self._words.pop(id(self.level))
        elif len(self._levels) > 1:
            self._words.pop(id(self.level), None)
            self._levels.pop()
            self.show()
            self.grid.go_to(self._levels[-1][1])
        self.show()

    # Sorting and other ways of looking

    def action_sort_by(self, key: str) -> None:
        """The same column again: the other end first."""
        if self._view is None:
            return
        keys = {column.key: column for column in self.level.columns(self._view) if column.value is not None}
        if key not in keys:  # P and N in the tables of ranges and pages
            key = {"accesses": "rate", "pid": "address"}.get(key, key)
        if key not in keys:
            return
        order = self.level.order
        descending = not order.descending if order.key == key else keys[key].descending
        self.level.order = Order(key, descending)
        self.show()

    def action_sort_beside(self, step: int) -> None:
        if self._view is not None:
            keys = [column.key for column in self.grid.columns if column.value is not None]
            place = keys.index(self.level.order.key) if self.level.order.key in keys else 0
            beside = keys[min(max(place + step, 0), len(keys) - 1)]
            if beside != self.level.order.key:  # else there is none, and it would turn the rows over
                self.action_sort_by(beside)

    def action_sort(self) -> None:
        if self._view is not None:
            columns = self.level.columns(self._view)

            def chosen(key: str | None) -> None:
                if key is not None and key != self.level.order.key:
                    self.action_sort_by(key)

            self.push_screen(SortScreen(columns, self.level.order.key), chosen)

    def action_invert(self) -> None:
        self.level.order = self.level.order._replace(descending=not self.level.order.descending)
        self.show()

    def action_tree(self) -> None:
        first = self._levels[0][0]
        if isinstance(first, ProcessLevel) and self.level is first:
            first.is_tree = not first.is_tree
            self.show()

    def action_fold(self, is_folded: bool) -> None:
        """Of the tree; a process stands for the cgroup that it is in."""
        level, row = self.level, self.grid.row
        if isinstance(level, ProcessLevel) and level.is_tree and row is not None:
            identity = level.fold(row, is_folded)
            self.show()
            if is_folded:
                self.grid.go_to(identity)

    def action_freeze(self) -> None:
        self._is_frozen = not self._is_frozen
        self._show_header()
        self._look()

    def action_unit(self) -> None:
        self._unit = (self._unit + 1) % len(UNITS)
        self.show()

    def action_commands(self) -> None:
        self._full_commands = not self._full_commands
        self.show()

    def action_redraw(self) -> None:
        """As after another program has written to the terminal."""
        self.refresh(layout=True, repaint=True)
        self.show()

    def action_help(self) -> None:
        self.push_screen(HelpScreen(notes(self._view, self._feed.status()), self._unicode))

    def action_record(self) -> None:
        try:
            if self._feed.status().recording is None:
                self._feed.record()
                self._message = f"recording into {self._feed.status().recording}"
            else:
                where = self._feed.status().recording
                self._feed.stop_recording()
                self._message = f"recorded; see it with: hotpage report -i {where}"
        except HotpageError as error:
            self._message = str(error)
        self._show_header()
        self._show_detail()

    # Moving

    def action_promote(self) -> None:
        self._ask_to_move(promote=True)

    def action_demote(self) -> None:
        self._ask_to_move(promote=False)

    def _ask_to_move(self, promote: bool) -> None:
        """Propose to move what the selected row shows, or go back to a move that is under way."""
        row, view = self.grid.row, self._view
        if view is None or row is None or isinstance(self.screen, ModalScreen):
            return
        try:
            if self._job is None or not self._job.is_moving:
                wish = self._wish(row, promote, view)
                self._job = self._feed.propose(wish)
            self.push_screen(MoveScreen(self._feed, self._job, view.threshold.hot_hz, self._unicode))
        except HotpageError as error:
            self._message = str(error)
        self._show_detail()

    def _wish(self, row: object, promote: bool, view: LiveView) -> Wish:
        if not view.has_tiers:
            raise UsageError("all memory of this machine is in one tier", "there is nowhere to move pages to")
        wish = self.level.wish(row, promote, view)
        if isinstance(wish, str):
            raise UsageError(wish)
        return wish

    def _look_at_moves(self) -> None:
        """Say how a move ended that nobody watched."""
        screen = self.screen
        if isinstance(screen, MoveScreen):
            self._job = screen.job
        elif self._job is not None and self._job.stage in (Stage.DONE, Stage.FAILED):
            job, self._job = self._job, None
            said = outcome_summary(job.outcome) if job.outcome is not None else job.problem
            self._message = f"{'promoting' if job.wish.promote else 'demoting'} {job.wish.name}: {said}"
            self._show_detail()

    # Words to look for

    def action_search(self) -> None:
        """While words are typed: to the next row that has them."""
        if self._asking == "search":
            self.action_search_next()
        elif not self._asking and not isinstance(self.screen, ModalScreen):
            self._ask("search")

    def action_pid(self, digit: str) -> None:
        """To the process whose number is typed, digit by digit."""
        if isinstance(self.level, ProcessLevel):
            for typed in (self._pid + digit, digit):
                self._pid = typed
                place = self.level.place_of_pid(self.grid.rows, typed)
                if place is not None:
                    self.grid.move_to(place)
                    return

    def action_filter(self) -> None:
        if self.level.can_filter:
            self._ask("filter")

    def action_search_next(self) -> None:
        self._find(self.grid.cursor + 1)

    def _ask(self, what: str) -> None:
        words = self.query_one("#words", Input)
        self._asking = what
        words.placeholder = "words, a|b for either; Enter keeps, Esc leaves"
        words.value = self._words.get(id(self.level), "") if what == "filter" else ""
        self._show_question()
        self.query_one("#asking").display = True
        self.query_one("#keys").display = False
        words.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if self._asking == "filter":
            self._words[id(self.level)] = event.value
            self.show()
        elif self._asking == "search":
            self._search = event.value.lower()
            self._show_question(is_found=self._find(self.grid.cursor))

    def on_input_submitted(self) -> None:
        self._end_asking()

    def _end_asking(self) -> None:
        self._asking = ""
        self.query_one("#asking").display = False
        self.query_one("#keys").display = True
        self.set_focus(None)

    def _show_question(self, is_found: bool = True) -> None:
        question = Text(f"{self._asking}: ") if is_found else Text("not found: ", ALERT)
        self.query_one("#question", Static).update(question)

    def _find(self, start: int) -> bool:
        """Go to the first row from ``start`` on that matches, then from the top."""
        rows = self.grid.rows
        if self._search and rows:
            places = (*range(start, len(rows)), *range(min(start, len(rows))))
            for place in places[:_MOST_SEARCHED]:
                if self.level.matches(rows[place], self._search):
                    self.grid.move_to(place)
                    return True
        return not self._search
