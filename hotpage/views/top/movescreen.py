# SPDX-License-Identifier: Apache-2.0
"""What lies over the table when pages are to move: the plan and why, how it goes, what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from hotpage.errors import HotpageError
from hotpage.placement.background import MoveJob, Stage
from hotpage.placement.chosen import Proposal
from hotpage.views import units
from hotpage.views.moves import outcome_lines, plan_lines
from hotpage.views.top.columns import ALERT, FAINT, STRONG
from hotpage.views.top.feed import Feed

_LOOK_S = 0.1
_BAR = 30
_KEY, _LABEL = "bold #e0e0e0", "#1e1e1e on #87b38d"


class MoveScreen(ModalScreen[None]):
    """A job from the plan to its outcome. ``hot_hz``: the rate of hot pages, for a plan of just those."""

    AUTO_FOCUS = "VerticalScroll"  # or no key would scroll
    DEFAULT_CSS = """
    MoveScreen { align: center middle; }
    MoveScreen VerticalScroll { width: 100%; height: 1fr; padding: 0 1; background: $surface; }
    MoveScreen #move-keys { dock: bottom; height: 1; background: #2a2a2a; link-color: #1e1e1e;
                            link-background: #87b38d; link-style: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "go_on"),
        Binding("escape,q", "stop"),
        Binding("a", "extent"),
        Binding("f10", "app.quit"),
    ]

    def __init__(self, feed: Feed, job: MoveJob, hot_hz: float, unicode: bool) -> None:
        super().__init__()
        self.job = job
        self._feed, self._hot_hz, self._unicode = feed, hot_hz, unicode

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(id="move")
        yield Static(id="move-keys")

    def on_mount(self) -> None:
        self.set_interval(_LOOK_S, self._show)
        self._show()

    def on_resize(self) -> None:
        self._show()

    # Keys

    def action_go_on(self) -> None:
        """Move what is proposed; else there is nothing more to do here, and moves go on without it."""
        if self._may_move:
            self._feed.carry_out(self.job)
            self._show()
        elif self.job.stage is not Stage.PLANNING:
            self.dismiss()

    def action_stop(self) -> None:
        """Stop moving; before and after that, close."""
        self.job.cancel()
        if not self.job.is_moving:
            self.dismiss()

    def action_extent(self) -> None:
        """Plan again, for everything or for what is hot."""
        if self.job.stage is Stage.PROPOSED:
            hot_hz = self._hot_hz if self.job.wish.hot_hz is None else None
            self.job.cancel()
            try:
                self.job = self._feed.propose(replace(self.job.wish, hot_hz=hot_hz))
            except HotpageError as error:
                self.job.problem, self.job.stage = str(error), Stage.FAILED
            self._show()

    @property
    def _may_move(self) -> bool:
        job = self.job
        return job.stage is Stage.PROPOSED and job.proposal is not None and bool(job.proposal.plan.moves)

    # What is shown

    def _show(self) -> None:
        text = Text("\n").join(self._lines())
        self.query_one("#move", Static).update(text)
        keys = Text(no_wrap=True)
        for key, label, action in self._actions():
            keys.append(key, _KEY)
            start = len(keys)
            keys.append(label, _LABEL)
            keys.apply_meta({"@click": f"screen.{action}"}, start, len(keys))
            keys.append(" ")
        self.query_one("#move-keys", Static).update(keys)

    def _actions(self) -> Iterator[tuple[str, str, str]]:
        job = self.job
        if self._may_move:
            yield "Enter", "Move", "go_on"
        if job.stage is Stage.PROPOSED:
            extent = "Everything" if job.wish.hot_hz is not None else self._hot_or_cold.capitalize()
            yield "A", extent, "extent"
            yield "Esc", "Leave it", "stop"
        elif job.is_moving:
            yield "Enter", "To the table, it goes on", "go_on"
            yield "Esc", "Stop", "stop"
        elif job.stage is Stage.PLANNING:
            yield "Esc", "Leave it", "stop"
        else:
            yield "Esc", "Close", "stop"

    @property
    def _hot_or_cold(self) -> str:
        return "only hot pages" if self.job.wish.promote else "only cold pages"

    def _lines(self) -> Iterator[Text]:
        job = self.job
        verb = "Promote" if job.wish.promote else "Demote"
        yield Text.assemble((verb, STRONG), f" {job.wish.name}")
        if job.wish.hot_hz is None:
            what = "everything of known rate, the hottest first" if job.wish.promote else "everything"
            yield Text(what, FAINT)
        else:
            limit_hz = job.wish.hot_hz if job.wish.promote else job.wish.hot_hz / 2
            side = "from" if job.wish.promote else "under"
            yield Text(f"{self._hot_or_cold}: {side} {units.rate(limit_hz)} accesses/s a page", FAINT)
        yield Text()
        if job.stage is Stage.FAILED:
            yield Text(job.problem, ALERT)
        elif job.proposal is None:
            yield Text("planning ...", FAINT)
        elif job.outcome is not None:
            yield from outcome_lines(job.outcome)
        elif job.is_moving:
            yield from self._progress()
        else:
            yield from self._proposal(job.proposal)

    def _proposal(self, proposal: Proposal) -> Iterator[Text]:
        yield from plan_lines(proposal.plan, proposal.processes, max(self.size.width - 2, 20))
        yield Text()
        if not proposal.plan.moves:
            yield Text(f"nothing to move: {proposal.plan.why_nothing()}", ALERT)
            return
        yield Text("Tried, without moving anything:", FAINT)
        yield from outcome_lines(proposal.checked)

    def _progress(self) -> Iterator[Text]:
        progress = self.job.progress
        share = progress.settled_bytes / max(progress.requested_bytes, 1) if progress is not None else 0.0
        full, rest = ("█", "░") if self._unicode else ("#", ".")
        filled = round(share * _BAR)
        moved = units.size(progress.moved_bytes) if progress is not None else "0"
        yield Text(f"{full * filled}{rest * (_BAR - filled)} {units.percent(share)}  {moved} moved")
        if self.job.is_cancelled:
            yield Text("stopping ...", FAINT)
