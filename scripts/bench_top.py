# SPDX-License-Identifier: Apache-2.0
"""Measure a refresh of top: 16 Mi pages of 500 processes are tracked, and hint faults keep arriving.

*Refresh.* The pages were seen ten minutes ago; since then most are silent. A refresh is what top adds to a
session: the profile's sums and its picture (in the session's thread), and the rows and lines of a screen of
160x50 (in another). Before it, the session takes the changed rates out of its heat table, as it does for
``record`` too: ``changes``, and ``with_changes`` together. CPU time of the process. *Settling* is the same
right after all pages were armed for the first time, when the rates of most of them change at once.

*Loss.* A real session watches a storm of page faults while the profile that it feeds holds all those pages
and a view refreshes ten times a second, down to mappings, ranges and pages. Needs root.
"""

import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from hotpage.cli.top import calm_collector
from hotpage.exerciser import Exerciser
from hotpage.heat.table import HeatTable
from hotpage.machine.processes import Process
from hotpage.machine.vmas import Residency, Vma
from hotpage.placement.movelog import PageMoves
from hotpage.profile.live.watched import WatchedProfile
from hotpage.profile.snapshot import (
    IntervalData,
    NodeRecord,
    ProcessRecord,
    RunInfo,
    SourceCounts,
    VmaRecord,
)
from hotpage.recording.recorder import Options, Recorder
from hotpage.recording.selection import Selection
from hotpage.views.top.columns import Context
from hotpage.views.top.feed import Status
from hotpage.views.top.grid import Grid
from hotpage.views.top.header import header_lines
from hotpage.views.top.levels import Level
from hotpage.views.top.processes import ProcessLevel

PROCESSES = 500
PAGES = 1 << 24
FIRST_INDEX = 1000
FIRST_VPN = 0x7F12_3456_7000 >> 12
MAPPINGS = 40
REFRESHES = 60
SETTLING_REFRESHES = 5
REFRESH_S = 2.0
AGE_S = 600.0
EVENTS = 50_000
HEAVY_SHARE = 0.9
SCREEN = (160, 50)
_EACH = PAGES // PROCESSES
_Result = TypeVar("_Result")
_BATCH = 1 << 20


class Machine:
    """The tracked pages: every process has one large mapping and many small ones."""

    def __init__(self, tiers: int) -> None:
        self.rng = np.random.default_rng(7)
        self.table = HeatTable()
        self.now_s = 1.0
        self.changes_ms = 0.0
        self.profile = WatchedProfile(_run_info())
        self.nodes = [NodeRecord(n, n, 4, 64 << 30, 8 << 30) for n in range(tiers)]
        self.tiers = tiers
        for low in range(0, PAGES, _BATCH):
            self._observe(np.arange(low, min(low + _BATCH, PAGES)))
        self._arm(range(PROCESSES))
        self.profile.interval(self.interval(everything=True, first=True))

    def age(self) -> None:
        """Let time pass, and what cools in it be told."""
        self.now_s += AGE_S
        self.profile.interval(self.interval(everything=True))

    def go_on(self) -> None:
        """Events of a refresh: a few processes take most of them, and are armed again."""
        self.now_s += REFRESH_S
        heavy = self.rng.choice(PROCESSES, 20, replace=False)
        self._arm(heavy.tolist())
        count = int(EVENTS * HEAVY_SHARE)
        process = np.concatenate(
            [self.rng.choice(heavy, count), self.rng.integers(0, PROCESSES, EVENTS - count)]
        )
        self._observe(process * _EACH + self.rng.integers(0, _EACH, EVENTS))

    def interval(self, everything: bool = False, first: bool = False) -> IntervalData:
        """What the table has to tell; the mappings of 20 processes have been read again."""
        touched = range(PROCESSES) if first else self.rng.choice(PROCESSES, 20, replace=False).tolist()
        self.changes_ms, changes = _timed(lambda: self.table.take_changes(self.now_s, everything))
        return IntervalData(
            start_s=self.now_s - REFRESH_S,
            end_s=self.now_s,
            changes=changes,
            processes=[self._record(number) for number in range(PROCESSES)] if first else (),
            vmas={FIRST_INDEX + number: self._mappings(number) for number in touched},
            armed={FIRST_INDEX + number: self.table.armed_ranges(FIRST_INDEX + number) for number in touched},
            nodes=self.nodes if first else (),
            sources=[SourceCounts("hint", EVENTS)],
        )

    def _observe(self, place: np.ndarray) -> None:
        place = self.rng.permutation(place)
        process = (FIRST_INDEX + place // _EACH).astype(np.int32)
        vpn = FIRST_VPN + place % _EACH
        times = self.now_s + np.sort(self.rng.random(len(place)))
        exposures = 10 ** self.rng.normal(-1 - 2 * (vpn % 10 == 0), 0.5)
        self.table.observe(process, vpn, times, exposures)
        self.now_s = max(self.now_s, float(times[-1]))

    def _arm(self, numbers: range | list[int]) -> None:
        for number in numbers:
            for start in range(FIRST_VPN, FIRST_VPN + _EACH, _EACH // 4 + 1):
                end = min(start + _EACH // 4 + 1, FIRST_VPN + _EACH)
                self.table.arm(FIRST_INDEX + number, start, end, self.now_s)

    def _record(self, number: int) -> ProcessRecord:
        name = f"job{number}"
        cgroup = f"/slice{number % 10}/service{number % 50}"
        process = Process(
            FIRST_INDEX + number, 10_000 + number, 1, name, f"/usr/bin/{name}", "", 4, cgroup, 1
        )
        return ProcessRecord(process, 0.0)

    def _mappings(self, number: int) -> list[VmaRecord]:
        share = dict.fromkeys(range(self.tiers), _EACH * 4096 // self.tiers)
        large = Vma(FIRST_VPN << 12, (FIRST_VPN + _EACH) << 12, "rw-p", 0, 0, "", "anon")
        found = [VmaRecord(large, Residency(4096, share, "default"))]
        for place in range(MAPPINGS - 1):
            start = (FIRST_VPN + 2 * PAGES + 513 * place) << 12
            library = Vma(start, start + (100 << 12), "r-xp", 0, 9, f"/usr/lib/lib{place}.so", "file")
            found.append(VmaRecord(library, Residency(4096, {0: 90 << 12}, "default")))
        return found


class Feed:
    """The profile, as top sees it."""

    def __init__(self, profile: WatchedProfile) -> None:
        self.profile = profile

    def __getattr__(self, name: str) -> object:
        return getattr(self.profile, name)

    def status(self) -> Status:
        return Status("on")

    def moves_per_s(self) -> dict[int, float]:
        return {}

    def page_moves(self, process: int, start: int, end: int) -> PageMoves:
        return PageMoves.none()

    def nodes(self, process: int, vpn: np.ndarray) -> list[int | None]:
        return [0] * len(vpn)


class Screen:
    """What a refresh of the screen computes, down to the strips of all lines."""

    def __init__(self, feed: Feed) -> None:
        self.feed, self.level, self.grid = feed, ProcessLevel(), _BareGrid()

    def draw(self, level: Level | None = None) -> None:
        level = level or self.level
        view = self.feed.profile.view
        assert view is not None
        header_lines(view, self.feed.status(), SCREEN[0])
        self.grid.show(level, view, level.rows(self.feed, view, ""), Context())
        for y in range(self.grid.size.height):
            self.grid.render_line(y)


class _BareGrid(Grid):
    """Without an application around it."""

    size = property(lambda self: _SIZE)
    rich_style = property(lambda self: _STYLE)

    def post_message(self, message: object) -> bool:
        return True

    def refresh(self, *regions: object, **options: object) -> "_BareGrid":
        return self


def _globals() -> tuple[object, object]:
    from rich.style import Style
    from textual.geometry import Size

    return Size(SCREEN[0], SCREEN[1] - 9), Style()


_SIZE, _STYLE = _globals()


def _timed(work: Callable[[], _Result]) -> tuple[float, _Result]:
    """Milliseconds of CPU time, and what came of them."""
    begun = time.process_time()
    result = work()
    return 1e3 * (time.process_time() - begun), result


def _refresh(machine: Machine, prefix: str, refreshes: int) -> dict[str, float]:
    screen = Screen(Feed(machine.profile))
    parts: dict[str, list[float]] = {"changes": [], "sums": [], "screen": []}
    changed = []
    for _ in range(refreshes):
        machine.go_on()
        data = machine.interval()
        sums_ms, _ = _timed(lambda data=data: machine.profile.interval(data))
        screen_ms, _ = _timed(screen.draw)
        for name, value in (("changes", machine.changes_ms), ("sums", sums_ms), ("screen", screen_ms)):
            parts[name].append(value)
        changed.append(len(data.changes))
    added = [sums + screen for sums, screen in zip(parts["sums"], parts["screen"], strict=True)]
    whole = [sum(values) for values in zip(*parts.values(), strict=True)]
    figures = {f"{prefix}_p50_ms": statistics.median(added), f"{prefix}_p95_ms": _p95(added)}
    for name, values in (*parts.items(), ("with_changes", whole)):
        figures[f"{prefix}_{name}_p50_ms"] = statistics.median(values)
    figures[f"{prefix}_with_changes_p95_ms"] = _p95(whole)
    figures[f"{prefix}_changed_pages"] = statistics.median(changed)
    return figures


def _details(machine: Machine) -> dict[str, float]:
    """The first refresh of each deeper table, of a process with 33,554 pages."""
    screen = Screen(Feed(machine.profile))
    level: Level | None = screen.level
    figures = {}
    for name in ("mappings", "ranges", "pages"):
        assert level is not None and machine.profile.view is not None
        level = level.enter(level.rows(screen.feed, machine.profile.view, "")[0])
        figures[f"{name}_ms"] = statistics.median(
            _timed(lambda level=level: screen.draw(level))[0] for _ in range(9)
        )
    return figures


def _loss(machine: Machine) -> dict[str, float]:
    """A session on a storm, feeding the profile with all those pages, beside a view."""
    profile = machine.profile
    stop = threading.Event()

    def open_sink(run: RunInfo) -> WatchedProfile:
        profile.run = run
        return profile

    seconds = 10.0
    with Exerciser.start(pattern="storm", threads=1) as storm:
        options = Options(
            Selection.of_pids([storm.pid]), duration_s=seconds, sources=("fault",), interval_s=1.0
        )
        recorder = Recorder(options, open_sink)
        session = threading.Thread(target=lambda: (recorder.run(lambda: None), stop.set()))
        session.start()
        screen, drawn = Screen(Feed(profile)), 0
        while not stop.wait(0.1):
            level: Level | None = screen.level
            while level is not None and profile.view is not None:
                screen.draw(level)
                rows = level.rows(screen.feed, profile.view, "")
                level = level.enter(rows[0]) if rows else None
                drawn += 1
        session.join()
    progress = recorder.progress
    return {
        "watched_events_per_s": progress.received["fault"] / seconds,
        "watched_screens_per_s": drawn / seconds,
        "watched_kept_one_in": float(progress.one_in),
        "lost": float(progress.lost["fault"]),
    }


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def _run_info() -> RunInfo:
    return RunInfo(
        "bench",
        (),
        "all processes",
        time.time(),
        0,
        "here",
        "",
        "",
        "",
        1.0,
        True,
        0,
        {"hint": "tracepoint"},
        (2.0, 20.0),
        0.5,
        1e-5,
        2.0,
    )


def run() -> dict[str, float]:
    """All figures; times in milliseconds of CPU time. Without root the loss is left out."""
    figures: dict[str, float] = {}
    calm_collector()
    for tiers, prefix in ((2, "refresh_two_tiers"), (1, "refresh")):
        machine = Machine(tiers)
        if tiers == 1:
            figures |= _refresh(machine, "settling", SETTLING_REFRESHES)
        machine.age()
        figures |= _refresh(machine, prefix, REFRESHES)
    figures |= _details(machine)
    figures["profile_bytes_per_page"] = machine.profile._pages.nbytes / PAGES
    if os.geteuid() == 0:
        figures |= _loss(machine)
    return {name: round(value, 2) for name, value in figures.items()}


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
