# SPDX-License-Identifier: Apache-2.0
"""What top shows a session through; cli.topfeed gives the real one, tests a frozen one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hotpage.arrays import Int64s
from hotpage.placement.background import MoveJob
from hotpage.placement.chosen import Wish
from hotpage.placement.movelog import PageMoves
from hotpage.profile.live.pages import PageRows
from hotpage.profile.live.view import LiveMapping, LiveView
from hotpage.profile.runs import PageRuns
from hotpage.profile.snapshot import VmaRecord
from hotpage.profile.strips import HeatStrip

WAITS = "waits for the budget"
PAUSES = "pauses"


@dataclass(frozen=True)
class Status:
    """How the session itself is doing."""

    arming: str
    """For people: "on", WAITS, PAUSES (the notes say why), "by the kernel", "off"."""
    kept_one_in: int = 1
    """Page faults."""
    target_cost_percent: float = 0.0
    notes: Sequence[str] = ()
    kernel_moves_per_s: tuple[float, float] | None = None
    """Base pages that the kernel promoted and demoted, of all processes, over the last refresh: where there
    are tiers, from the second refresh on.
    """
    recording: Path | None = None
    """Where a recording is being written."""
    recorded_s: float = 0.0
    recording_problem: str | None = None
    has_ended: bool = False


class Feed(Protocol):
    """All methods return at once and what they return does not change."""

    @property
    def view(self) -> LiveView | None:
        """The newest picture; None until there is one."""

    def status(self) -> Status:
        """The session's state."""

    def mappings(self, process: int) -> list[LiveMapping]:
        """A process's mappings."""

    def strip(self, process: int, record: VmaRecord, cells: int) -> HeatStrip:
        """The heat along a mapping."""

    def ranges(self, process: int, start: int, end: int) -> PageRuns:
        """Stretches of similar rate within addresses (bytes)."""

    def pages(self, process: int, start: int, end: int) -> PageRows:
        """Pages within addresses (bytes)."""

    def nodes(self, process: int, vpn: Int64s) -> Sequence[int | None]:
        """The node of each page now; None where it is on none (swapped out, gone) or nobody may ask."""

    def propose(self, wish: Wish) -> MoveJob:
        """Begin to plan a move; raises HotpageError."""

    def carry_out(self, job: MoveJob) -> None:
        """Begin to move what was proposed."""

    def moves_per_s(self) -> Mapping[int, float]:
        """Base pages moved per second from here, over the last refresh, by process."""

    def page_moves(self, process: int, start: int, end: int) -> PageMoves:
        """What became of the pages within addresses (bytes) that were moved from here."""

    def record(self) -> None:
        """Begin to record; raises HotpageError."""

    def stop_recording(self) -> None:
        """End the recording."""
