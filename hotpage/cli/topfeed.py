# SPDX-License-Identifier: Apache-2.0
"""What top shows and does, on a real session."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hotpage.arrays import Int64s
from hotpage.errors import ProfileError, UsageError
from hotpage.machine.capabilities import Capability, keep_only
from hotpage.machine.folios import PAGE_BYTES
from hotpage.machine.numa import MovePages
from hotpage.machine.proc import PROC
from hotpage.machine.tiering import TieringCounters
from hotpage.machine.topology import Topology
from hotpage.placement.background import BackgroundMover, MoveJob
from hotpage.placement.budget import room_bytes
from hotpage.placement.chosen import Proposal, Wish, propose
from hotpage.placement.movelog import MoveLog, PageMoves
from hotpage.placement.movers.move_pages import MovePagesMover
from hotpage.placement.movers.whereabouts import Whereabouts
from hotpage.profile.disk.naming import default_directory
from hotpage.profile.live.pages import PageRows
from hotpage.profile.live.view import LiveMapping, LiveView
from hotpage.profile.live.watched import WatchedProfile
from hotpage.profile.runs import PageRuns
from hotpage.profile.snapshot import VmaRecord
from hotpage.profile.strips import HeatStrip
from hotpage.recording.background import BackgroundSession
from hotpage.views.top.feed import PAUSES, WAITS, Status

_NEEDED_TO_MOVE = (Capability.DAC_READ_SEARCH, Capability.SYS_PTRACE, Capability.SYS_ADMIN)
"""Of the thread that moves. move_pages(2) asks for ptrace access and, for pages that no other process maps,
for nothing else: not for CAP_SYS_NICE. Only CAP_SYS_ADMIN is told which pages are one huge page.
"""


class TopMoves:
    """Moves that are asked for in top, carried out in a thread that keeps the privileges for them."""

    def __init__(self, session: BackgroundSession) -> None:
        self._session = session
        self.log = MoveLog()
        self.mover = BackgroundMover(
            self._propose,
            lambda: MovePagesMover(room_bytes=room_bytes),
            self.log,
            lambda: keep_only(_NEEDED_TO_MOVE),
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """To be entered before privileges are dropped."""
        with self.mover.running():
            yield

    def _propose(self, wish: Wish) -> Proposal:
        profile = self._session.profile
        if profile is None:
            raise ProfileError("nothing has been observed yet", "wait for the first refresh")
        snapshot = profile.snapshot(wish.process, wish.start, wish.end)
        return propose(wish, snapshot, Whereabouts.here(), Topology.read())


class KernelMoves:
    """What the kernel promotes and demotes by itself: counted once a picture, where there are tiers."""

    def __init__(self, proc_root: Path = PROC, clock: Callable[[], float] = time.monotonic) -> None:
        self._proc, self._clock = proc_root, clock
        self._view: LiveView | None = None
        self._before: tuple[float, TieringCounters] | None = None
        self._per_s: tuple[float, float] | None = None

    def per_s(self, view: LiveView | None) -> tuple[float, float] | None:
        """Base pages promoted and demoted per second between the last two pictures."""
        if view is None or not view.has_tiers:
            return None
        if view is not self._view:
            now_s, counts = self._clock(), TieringCounters.read(self._proc)
            if self._before is not None and now_s > self._before[0]:
                before_s, before = self._before
                passed_s = now_s - before_s
                self._per_s = (
                    (counts.promoted - before.promoted) / passed_s,
                    (counts.demoted - before.demoted) / passed_s,
                )
            self._view, self._before = view, (now_s, counts)
        return self._per_s


class SessionFeed:
    """A session as top sees it (views.top.feed.Feed)."""

    def __init__(self, session: BackgroundSession, moves: TopMoves | None) -> None:
        self._session, self._moves = session, moves
        self._kernel_moves = KernelMoves()

    @property
    def is_running(self) -> bool:
        """Whether more pictures may come."""
        return self._session.is_running

    @property
    def error(self) -> BaseException | None:
        """What ended the session early."""
        return self._session.error

    @property
    def view(self) -> LiveView | None:
        profile = self._session.profile
        return profile.view if profile is not None else None

    def status(self) -> Status:
        progress, profile = self._session.progress, self._session.profile
        recording = profile.recording if profile is not None else None
        is_recording = recording is not None and recording.is_running
        return Status(
            arming=self._arming(),
            kept_one_in=progress.one_in,
            target_cost_percent=progress.target_cost_percent,
            notes=tuple(progress.notes),
            kernel_moves_per_s=self._kernel_moves.per_s(profile.view if profile is not None else None),
            recording=recording.directory if recording is not None and is_recording else None,
            recorded_s=recording.until_s - recording.since_s if recording is not None else 0.0,
            recording_problem=recording.problem if recording is not None else None,
            has_ended=not self._session.is_running,
        )

    def _arming(self) -> str:
        profile = self._session.profile
        if profile is None or not profile.run.armed:
            is_armed = profile is not None and profile.run.numa_balancing
            return "by the kernel" if is_armed else "off"
        progress = self._session.progress
        if progress.is_arming:
            return "on"
        return PAUSES if progress.arming_pauses else WAITS

    def mappings(self, process: int) -> list[LiveMapping]:
        return self._profile.mappings(process)

    def strip(self, process: int, record: VmaRecord, cells: int) -> HeatStrip:
        return self._profile.strip(process, record, cells)

    def ranges(self, process: int, start: int, end: int) -> PageRuns:
        return self._profile.ranges(process, start, end)

    def pages(self, process: int, start: int, end: int) -> PageRows:
        return self._profile.pages(process, start, end)

    def nodes(self, process: int, vpn: Int64s) -> Sequence[int | None]:
        view = self.view
        for row in view.processes if view is not None else ():
            if row.record.process.index == process and row.record.exited_s is None:
                nodes = MovePages().query(row.record.process.pid, vpn)
                return [node if node >= 0 else None for node in nodes.tolist()]
        return [None] * len(vpn)

    def propose(self, wish: Wish) -> MoveJob:
        if self._moves is None:
            raise UsageError("nothing is moved in batch mode", "use hotpage move")
        return self._moves.mover.propose(wish)

    def carry_out(self, job: MoveJob) -> None:
        if self._moves is not None:
            self._moves.mover.carry_out(job)

    def moves_per_s(self) -> Mapping[int, float]:
        view = self.view
        if self._moves is None or view is None or not view.recent.window_s:
            return {}
        return self._moves.log.pages_per_s(view.recent.window_s)

    def page_moves(self, process: int, start: int, end: int) -> PageMoves:
        if self._moves is None:
            return PageMoves.none()
        return self._moves.log.of(process, start // PAGE_BYTES, end // PAGE_BYTES)

    def record(self) -> None:
        profile = self._session.profile
        if profile is None:
            raise ProfileError("nothing has been observed yet", "wait for the first refresh")
        profile.record(Path.cwd() / default_directory(time.time()))

    def stop_recording(self) -> None:
        self._profile.stop_recording()

    @property
    def _profile(self) -> WatchedProfile:
        profile = self._session.profile
        assert profile is not None, "there is no picture yet"
        return profile
