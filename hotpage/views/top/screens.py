# SPDX-License-Identifier: Apache-2.0
"""What lies over the table for a moment: help, and the choice of what to sort by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static

from hotpage.views.strip import ASCII_LEVELS, UNICODE_LEVELS
from hotpage.views.top.columns import STRIP_STYLES, STRONG, Column

_KEYS = (
    ("arrows PgUp PgDn Home End", "move; so do the wheel and a click"),
    ("Enter, double click", "into a process, mapping, range; fold a cgroup"),
    ("Esc Backspace Left", "back; a filter goes first"),
    ("F3 /  n    F4 \\    0-9", "search, next; filter (a|b is either); a PID"),
    ("F5 t  + -  F6 s < >", "tree by cgroup, unfold, fold; sort by another"),
    ("I   P M N  click a heading", "other end first; by ACC/S, RSS, PID; by that"),
    ("Z   e   p   Ctrl-L", "freeze; bytes, pages, % of RSS; commands; redraw"),
    ("F7 ]      F8 [", "move to fast memory, or to slow; asks first"),
    ("R", "record into hotpage-<date>-<time>; again: end"),
    ("F1 h ?     F10 q Ctrl-C", "this help; quit"),
)
_NUMBERS = (
    "HOT WARM COLD: memory by the accesses/s of its pages, the limit is above. What was armed and stayed "
    "silent is COLD. UNKNOWN is in memory, but nobody observed it.",
    "ACC/S: accesses per second of all pages together. ERROR: its standard error.",
    "MISPL: hot memory on slower tiers, a mapping's heat shared out by its bytes.",
    "LATENCY: from arming to the last access seen. NODE: where the page is now.",
    "MOV/S: pages moved a second, from here and by the kernel (where it tells).",
)


class HelpScreen(ModalScreen[None]):
    """Keys, and what the numbers mean."""

    AUTO_FOCUS = "VerticalScroll"  # or no key would scroll
    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen VerticalScroll { width: 100%; height: 100%; padding: 0 1; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f1,h,question_mark,enter,f10", "app.pop_screen", show=False)
    ]

    def __init__(self, notes: Iterable[str], unicode: bool) -> None:
        super().__init__()
        self._notes, self._unicode = list(notes), unicode

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(self._text())

    def _text(self) -> Text:
        text = Text.assemble(("hotpage top", STRONG), "  (Esc closes this help)\n\n")
        for keys, what in _KEYS:
            text.append(f"{keys:<27}", "#87b38d")
            text.append(f"{what}\n")
        text.append("\n")
        for line in _NUMBERS:
            text.append(f"{line}\n")
        signs = UNICODE_LEVELS if self._unicode else ASCII_LEVELS
        text.append("Strip: blank unknown, ")
        for first, past, what in ((0, 1, "silent, "), (1, 5, "cold, "), (5, 6, "warm, "), (6, 9, "hot\n")):
            for level in range(first, past):
                text.append(signs[level], STRIP_STYLES[level])
            text.append(f" {what}")
        for note in self._notes:
            text.append(f"\n- {note}", "#ffc14d")
        return text


class SortScreen(ModalScreen[str]):
    """Choose a column to sort by; gives its key."""

    AUTO_FOCUS = "OptionList"
    DEFAULT_CSS = """
    SortScreen { align: left top; }
    SortScreen OptionList { width: 30; height: auto; max-height: 100%; border: round #87b38d; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,f10", "app.pop_screen", show=False)]

    def __init__(self, columns: Sequence[Column], current: str) -> None:
        super().__init__()
        self._columns = [column for column in columns if column.value is not None]
        self._current = current

    def compose(self) -> ComposeResult:
        options = OptionList(*(column.header for column in self._columns))
        options.border_title = "Sort by"
        keys = [column.key for column in self._columns]
        options.highlighted = keys.index(self._current) if self._current in keys else 0
        yield options

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._columns[event.option_index].key)
