# SPDX-License-Identifier: Apache-2.0
"""top's screens against tests/golden (HOTPAGE_UPDATE_GOLDEN=1 rewrites those), and what its keys do.

The session is frozen; tests wait until the screen is as it should be.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from patience import PATIENCE_S
from profiles import changes, interval, node, process, run_info
from rich.style import Style
from screentext import screen_text
from textual.events import MouseScrollDown, MouseScrollUp
from textual.pilot import Pilot
from textual.widgets import Static
from topfeed import FrozenFeed, busy_feed, frozen_feed

from hotpage.cli.topfeed import KernelMoves, SessionFeed
from hotpage.profile.live.watched import WatchedProfile
from hotpage.recording.session import Progress
from hotpage.views import units
from hotpage.views.top.app import TopApp
from hotpage.views.top.columns import Context, amount
from hotpage.views.top.feed import PAUSES, WAITS
from hotpage.views.top.grid import _segments
from hotpage.views.top.screens import HelpScreen

GOLDEN = Path(__file__).parents[1] / "golden"


def run(
    feed: FrozenFeed,
    script: Callable[[TopApp, Pilot], Awaitable[None]],
    size: tuple[int, int] = (80, 24),
    **options: object,
) -> TopApp:
    """Run the application without a terminal, and the script in it."""
    app = TopApp(feed, **options)

    async def drive() -> None:
        async with app.run_test(size=size) as pilot:
            await until(app, pilot, lambda shown: "processes" in shown or app.grid.level is None)
            await script(app, pilot)

    asyncio.run(drive())
    return app


async def until(app: TopApp, pilot: Pilot, holds: Callable[[str], bool]) -> str:
    """Wait until something holds of the screen's text."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds(shown := screen_text(app)):
        assert time.monotonic() < deadline, shown
        await pilot.pause(0.02)
    return shown


async def press(pilot: Pilot, *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await pilot.pause()


SCREENS = {
    "processes": (),
    "mappings": ("enter",),
    "ranges": ("enter", "enter"),
    "pages": ("enter", "enter", "enter", "end"),
    "tree": ("t", "down"),
    "filter": ("backslash", "p", "o", "s", "t", "enter"),
    "share": ("e", "e", "p"),
    "help": ("f1",),
    "recording": ("R",),
}
SIZES = {"80": (80, 24), "160": (160, 50)}


@pytest.mark.parametrize(
    ("name", "nodes", "width"),
    [
        *((name, 1, "80") for name in SCREENS),
        *((name, 2, "80") for name in ("processes", "mappings")),
        *((name, 2, "160") for name in ("processes", "mappings", "ranges", "pages", "tree")),
    ],
)
def test_golden(name: str, nodes: int, width: str) -> None:
    golden = GOLDEN / f"top-{width}-{name}{'-two-tiers' * (nodes > 1)}.txt"

    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, *SCREENS[name])
        if "HOTPAGE_UPDATE_GOLDEN" in os.environ:
            await pilot.pause(0.5)
            golden.write_text(screen_text(app))
            return
        expected = golden.read_text()
        deadline = time.monotonic() + PATIENCE_S
        while screen_text(app) != expected and time.monotonic() < deadline:
            await pilot.pause(0.02)
        assert screen_text(app) == expected

    run(frozen_feed(nodes), script, SIZES[width])


def order_of(app: TopApp) -> list[str]:
    return [row.name for row in app.grid.rows]


def test_sorting_by_key_heading_and_menu() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        assert order_of(app)[:2] == ["redis-server", "postgres"]
        await press(pilot, "N")
        assert order_of(app) == ["redis-server", "postgres", "bash", "node", "python3"]
        await press(pilot, "I")
        assert order_of(app)[0] == "python3"
        await press(pilot, "M")
        assert order_of(app)[:3] == ["redis-server", "postgres", "node"]
        await pilot.click("Grid", offset=(12, 0))  # COMMAND
        await pilot.pause()
        assert order_of(app) == sorted(order_of(app))
        await press(pilot, "f6", "home", "enter")
        await until(app, pilot, lambda shown: "Sort by" not in shown and app.level.order.key == "pid")
        assert order_of(app)[0] == "redis-server"

    run(frozen_feed(), script)


def test_pages_are_sorted_by_the_same_keys() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "enter", "enter", "enter")
        for key, order in (("P", ("rate", True)), ("N", ("address", False)), ("M", ("address", False))):
            await press(pilot, key)
            assert app.level.order == order
        await press(pilot, "P", "P")
        assert app.level.order == ("rate", False)

    run(frozen_feed(), script)


def test_the_table_stays_in_sight_beside_the_sort_menu() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "f6")
        await until(app, pilot, lambda shown: "Sort by" in shown and "252M" in shown)

    run(frozen_feed(), script, (160, 50))


def test_help_scrolls_where_it_is_longer_than_the_screen() -> None:
    feed = frozen_feed(advice=("the last line of all",))

    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "f1")
        await until(app, pilot, lambda shown: "arrows PgUp" in shown)
        assert "the last line" not in screen_text(app)
        await press(pilot, "end")
        await until(app, pilot, lambda shown: "the last line of all" in shown)
        await press(pilot, "home", "pagedown", "down", "up", "escape")
        assert app.grid.cursor == 0, "the table below keeps its row"

    run(feed, script, (80, 16))


def test_every_name_of_a_key() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        for key, column in (("greater_than_sign", "error"), ("less_than_sign", "accesses"), ("M", "rss")):
            await press(pilot, key)
            assert app.level.order.key == column
        await press(pilot, "P")
        assert app.level.order.key == "accesses"
        for into, back in (("right", "left"), ("enter", "backspace"), ("enter", "escape")):
            await press(pilot, into)
            await until(app, pilot, lambda shown: "HEAT STRIP" in shown)
            await press(pilot, back)
            await until(app, pilot, lambda shown: "HEAT STRIP" not in shown)
        for key, words in (("f5", "by cgroup"), ("f4", "filter:"), ("f3", "search:"), ("z", "FROZEN")):
            await press(pilot, key)
            await until(app, pilot, lambda shown, words=words: words in shown)
            await press(pilot, "escape" if words.endswith(":") else key)
            await until(app, pilot, lambda shown, words=words: words not in shown)
        for key in ("h", "f1", "question_mark"):
            await press(pilot, key)
            assert isinstance(app.screen, HelpScreen)
            await press(pilot, "escape")
        await press(pilot, "s")
        await until(app, pilot, lambda shown: "Sort by" in shown)

    run(frozen_feed(), script)


def test_the_heading_tells_which_end_comes_first_and_only_columns_shown_are_beside() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await until(app, pilot, lambda shown: "ACC/S▼" in shown)
        await press(pilot, "I")
        await until(app, pilot, lambda shown: "ACC/S▲" in shown and "▼" not in shown)
        for _ in range(15):
            await press(pilot, "greater_than_sign")
            assert app.level.order.key in {column.key for column in app.grid.columns}
        assert app.level.order == ("node1", True), "ERROR and MOV/S have no room here"
        await press(pilot, "greater_than_sign")
        assert app.level.order == ("node1", True), "at the end nothing turns over"
        for _ in range(15):
            await press(pilot, "less_than_sign")
        assert app.level.order == ("pid", False)
        await press(pilot, "less_than_sign")
        assert app.level.order == ("pid", False)

    run(frozen_feed(2), script)


def test_digits_go_to_a_process() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, *"4012")
        assert app.grid.row.record.process.pid == 4012
        await press(pilot, *"4003")
        assert app.grid.row.record.process.pid == 4003
        await press(pilot, "9")
        assert app.grid.row.record.process.pid == 4003, "there is none"
        await press(pilot, "t", *"4012")
        assert app.grid.row.record.process.pid == 4012
        await press(pilot, "enter", "1")
        assert "HEAT STRIP" in screen_text(app)

    run(busy_feed(40), script)


def test_only_keys_that_do_something_are_shown() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        keys = [screen_text(app).splitlines()[-1]]
        for _ in range(3):
            await press(pilot, "enter")
            keys.append(screen_text(app).splitlines()[-1])
        assert ["F4Filter" in line for line in keys] == [True, True, False, False]
        assert ["F5Tree" in line for line in keys] == [True, False, False, False]
        assert all("F10Quit" in line and "F7Fast" in line for line in keys)

    run(frozen_feed(2), script)


def test_the_cursor_stays_on_its_process() -> None:
    feed = frozen_feed()

    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "down", "down")
        assert app.grid.row.name == "bash"
        feed.profile.interval(interval(11, changes((3, 1, 9e9))))
        await until(app, pilot, lambda shown: "11.0 s" in shown)
        assert (app.grid.row.name, app.grid.cursor) == ("bash", 0)
        feed.profile.interval(interval(12, changes(), processes=[process(3, "bash", exited_s=11.5)]))
        feed.profile.interval(interval(13, changes()))
        await until(app, pilot, lambda shown: "13.0 s" in shown)
        assert app.grid.row is not None and "bash" not in order_of(app)

    run(feed, script)


def test_a_process_that_goes_while_it_is_looked_into() -> None:
    feed = frozen_feed()

    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "enter", "enter", "enter")
        for number in (11, 12, 13):
            gone = [process(1, "redis-server", exited_s=10.5)] if number == 11 else []
            feed.profile.interval(interval(number, changes(), processes=gone))
        await until(app, pilot, lambda shown: "nothing here" in shown)
        await press(pilot, "escape", "escape", "escape")
        await until(app, pilot, lambda shown: "postgres" in shown and "redis" not in shown)

    run(feed, script)


def test_frozen_means_frozen() -> None:
    feed = frozen_feed()

    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "Z")
        await until(app, pilot, lambda shown: "FROZEN" in shown)
        feed.profile.interval(interval(11, changes((3, 1, 9e9))))
        await pilot.pause(0.5)
        assert "10.0 s" in screen_text(app)
        await press(pilot, "Z")
        await until(app, pilot, lambda shown: "11.0 s" in shown and "FROZEN" not in shown)

    run(feed, script)


def test_search_goes_to_what_matches() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "slash", *"job7", "enter")
        first = app.grid.row.name
        assert "job7" in first
        await press(pilot, "n")
        second = app.grid.row.name
        assert "job7" in second and second != first
        await press(pilot, "f3", *"job7")
        assert app.grid.row.name == second
        await press(pilot, "f3")
        assert "job7" in app.grid.row.name and app.grid.row.name not in (first, second)
        await press(pilot, *"xyz")
        await until(app, pilot, lambda shown: "not found: job7xyz" in shown)
        await press(pilot, "backspace", "backspace", "backspace")
        await until(app, pilot, lambda shown: "search: job7" in shown)
        await press(pilot, "escape")
        await until(app, pilot, lambda shown: "F1Help" in shown)

    run(busy_feed(100), script)


def test_words_are_taken_whatever_letters_they_have() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "backslash", *"qRz")
        await until(app, pilot, lambda shown: "filter: qrz" in shown)
        assert len(app.grid.rows) == 0
        await press(pilot, "escape")
        await until(app, pilot, lambda shown: "F1Help" in shown)
        assert len(app.grid.rows) == 5

    feed = frozen_feed()
    run(feed, script)
    assert feed.state.recording is None


@pytest.mark.parametrize(
    "name", ["日本語", "名前が長いプロセスの名前", "mixed 日本語 name", "e\u0301te\u0301"]
)
def test_all_is_in_its_place_where_names_have_wide_characters(name: str) -> None:
    def feed_with(comm: str) -> FrozenFeed:
        profile = WatchedProfile(run_info(target=f"pid 4001 ({comm * 5})"))
        profile.interval(interval(1, changes((1, 1000, 8.0)), processes=[process(1, comm)]))
        return FrozenFeed(profile)

    def right_of_names(app: TopApp) -> str:
        heading, row = app.grid.render_line(0), app.grid.render_line(1)
        assert "COMMAND" in heading.text
        return row.crop(heading.text.index("RSS") - 2, heading.cell_length).text

    shown: list[list[str]] = []

    async def script(app: TopApp, pilot: Pilot) -> None:
        short = right_of_names(app)
        await press(pilot, "p")
        shown.append([short, right_of_names(app)])
        await press(pilot, "enter")
        for part in ("#header", "#path"):
            first = app.query_one(part, Static).content.split()[0]
            assert first.cell_len == app.size.width, first.plain

    for comm in ("sh", name):
        run(feed_with(comm), script, (60, 24))
    assert shown[0] == shown[1]


def test_cells_are_cut_to_their_room_whatever_they_hold() -> None:
    for text in ("plain text", "日本語の名前", "a日本語の名前"):
        cut = _segments(((text[:2], ""), (text[2:], "bold")), 5, False, Style())
        assert sum(segment.cell_length for segment in cut) == 5


def test_rows_beyond_the_screen_are_reached() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "end")
        await until(app, pilot, lambda shown: "500 of 500" in shown and "job0\n" not in shown)
        await press(pilot, "pageup", "up", "k", "j", "home")
        await until(app, pilot, lambda shown: "1 of 500" in shown)
        await pilot._post_mouse_events([__import__("textual.events").events.MouseScrollDown], "Grid")
        await until(app, pilot, lambda shown: "4 of 500" in shown)

    run(busy_feed(500), script)


@pytest.mark.parametrize("size", [(40, 10), (20, 5), (250, 80), (1, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await pilot.resize_terminal(*size)
        assert size[1] < 10 or screen_text(app).splitlines()[-1].endswith("F10Quit")
        for keys in (("enter",), ("enter",), ("enter",), ("f1",), ("escape",)):
            await press(pilot, *keys)
            assert all(len(line) <= size[0] for line in screen_text(app).splitlines())
        await pilot.resize_terminal(80, 24)
        await until(app, pilot, lambda shown: "LATENCY" in shown)

    run(frozen_feed(2), script)


def test_only_pages_on_screen_are_asked_about() -> None:
    feed = frozen_feed()

    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "enter", "enter", "enter")
        await until(app, pilot, lambda shown: "1 of 1,600" in shown)

    run(feed, script)
    assert 0 < len(set(feed.asked_nodes)) < 50


def test_a_click_selects_and_a_second_one_enters() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await pilot.click("Grid", offset=(5, 2))
        await until(app, pilot, lambda _shown: app.grid.row.name == "postgres")
        await pilot.double_click("Grid", offset=(5, 1))
        await until(app, pilot, lambda shown: "redis-server (4001)" in shown)

    run(frozen_feed(), script)


def test_the_wheel_moves_the_cursor() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        for way, cursor in ((MouseScrollDown, 3), (MouseScrollDown, 6), (MouseScrollUp, 3)):
            await pilot._post_mouse_events([way], "Grid", offset=(5, 3))
            await pilot.pause()
            assert app.grid.cursor == cursor

    run(busy_feed(40), script)


def test_a_click_on_a_key_below_presses_it() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        for key, words in (("F5", "processes by cgroup"), ("F1", "this help; quit"), ("F10", "")):
            line = screen_text(app).splitlines()[-1]
            await pilot.click("#keys", offset=(line.index(key) + len(key) + 1, 0))
            if words:
                await until(app, pilot, lambda shown, words=words: words in shown)
            if key == "F1":
                await press(pilot, "escape")
        assert app._exit

    run(frozen_feed(), script)


def test_bytes_pages_and_shares() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        row = "redis-server"

        def rss() -> str:
            line = next(line for line in screen_text(app).splitlines() if row in line)
            return line.split(row)[1].split()[0]

        resident = app.grid.row.heat.resident_bytes
        assert rss() == units.size(resident)
        await press(pilot, "e")
        await until(app, pilot, lambda shown: rss() == units.rate(resident / 4096))
        await press(pilot, "e")
        await until(app, pilot, lambda shown: rss() == "100%")
        await press(pilot, "e")
        await until(app, pilot, lambda shown: rss() == units.size(resident))

    run(frozen_feed(), script)


def test_pages_are_whole() -> None:
    assert amount(14.5 * 4096, 100 * 4096, Context(unit="pages")) == "14"
    assert amount(1500 * 4096, 2000 * 4096, Context(unit="pages")) == "1.5k"


def test_cgroups_fold() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "t", "home", "enter")
        await until(app, pilot, lambda shown: "▸" in shown and "postgres" not in shown)
        await press(pilot, "enter")
        await until(app, pilot, lambda shown: "postgres" in shown)

    run(frozen_feed(), script)


def test_plus_and_minus_fold_in_the_tree_alone() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "minus")
        assert "postgres" in order_of(app)
        await press(pilot, "t", "home")
        while app.grid.row.name != "postgres":
            await press(pilot, "down")
        await press(pilot, "minus")
        assert "postgres" not in order_of(app) and "redis-server" in order_of(app)
        await until(app, pilot, lambda shown: shown.count("▸") == 1)
        group = app.grid.row.name
        assert group.endswith("/postgresql.service"), "the cursor is on its cgroup"
        await press(pilot, "minus")
        assert "postgres" not in order_of(app), "folded is folded"
        await press(pilot, "plus", "plus")
        assert "postgres" in order_of(app) and app.grid.row.name == group
        await until(app, pilot, lambda shown: "▸" not in shown)

    run(frozen_feed(), script)


def test_a_recording_that_cannot_begin_says_why() -> None:
    feed = frozen_feed()
    feed.refuses = True

    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "R")
        await until(app, pilot, lambda shown: "cannot make the profile directory: choose another" in shown)

    run(feed, script)


def test_before_the_first_picture() -> None:
    from profiles import run_info

    from hotpage.profile.live.watched import WatchedProfile

    feed = FrozenFeed(WatchedProfile(run_info()))

    async def script(app: TopApp, pilot: Pilot) -> None:
        await until(app, pilot, lambda shown: "starting" in shown)
        await press(pilot, "enter", "f6", "M", "I", "t", "end", "slash", "a", "enter", "escape")
        feed.profile.interval(interval(1, changes((1, 1, 1.0)), processes=[process(1, "late")]))
        await until(app, pilot, lambda shown: "late" in shown)

    run(feed, script)


def test_what_is_missing_is_said() -> None:
    feed = frozen_feed(armed=False, advice=("no access rates can arrive: balancing is off",))
    feed.state = replace(feed.state, arming="off", notes=("one process could not be held",), kept_one_in=16)

    async def script(app: TopApp, pilot: Pilot) -> None:
        await until(app, pilot, lambda shown: "start top with --arm" in shown and "1 in 16 kept" in shown)
        await press(pilot, "question_mark")
        await until(app, pilot, lambda shown: "could not be held" in shown and "balancing is off" in shown)
        assert isinstance(app.screen, HelpScreen)

    run(feed, script)


def test_why_arming_waits_is_said() -> None:
    feed = frozen_feed()
    feed.state = replace(feed.state, arming=WAITS)

    async def script(app: TopApp, pilot: Pilot) -> None:
        await until(app, pilot, lambda shown: "arming waits for the budget" in shown)
        await press(pilot, "f1", "end")
        await until(app, pilot, lambda shown: "a longer -d" in shown)

    run(feed, script)


def test_a_pause_of_arming_is_no_matter_of_the_budget() -> None:
    feed = frozen_feed()
    feed.state = replace(feed.state, arming=PAUSES, notes=("arming pauses for 5 s: why",))

    async def script(app: TopApp, pilot: Pilot) -> None:
        await until(app, pilot, lambda shown: "arming pauses" in shown)
        await press(pilot, "f1", "end")
        await until(app, pilot, lambda shown: "for 5 s: why" in shown and "--budget" not in shown)

    run(feed, script)


@pytest.mark.parametrize(
    ("is_arming", "pauses", "told"), [(True, False, "on"), (False, True, PAUSES), (False, False, WAITS)]
)
def test_the_state_of_arming_is_the_sessions(is_arming: bool, pauses: bool, told: str) -> None:
    progress = Progress(is_arming=is_arming, arming_pauses=pauses)
    session: Any = SimpleNamespace(
        progress=progress, profile=WatchedProfile(run_info(armed=True)), is_running=True
    )
    assert SessionFeed(session, None).status().arming == told


def test_what_the_kernel_moves_is_told_where_there_is_room() -> None:
    feed = frozen_feed(2)
    feed.state = replace(feed.state, kernel_moves_per_s=(1234.0, 5.0))

    async def script(app: TopApp, pilot: Pilot) -> None:
        shown = await until(app, pilot, lambda shown: "arming on" in shown)
        assert ("kernel promotes 1.23k/s demotes 5/s" in shown) == (app.size.width == 160)

    for size in SIZES.values():
        run(feed, script, size)


def test_what_the_kernel_moves_is_counted_between_pictures(tmp_path: Path) -> None:
    now_s = 100.0
    moves = KernelMoves(tmp_path, lambda: now_s)
    feed = frozen_feed(2)

    def count(promoted: int, demoted: int) -> None:
        (tmp_path / "vmstat").write_text(
            f"pgpromote_success {promoted}\npgdemote_kswapd {demoted}\npgdemote_direct 7\n"
        )

    count(1000, 50)
    assert moves.per_s(feed.view) is None, "nothing to compare with"
    count(1600, 50)
    now_s += 2.0
    assert moves.per_s(feed.view) is None, "the same picture"
    feed.profile.interval(interval(50, changes(), nodes=[node(0), node(1, 1)]))
    assert moves.per_s(feed.view) == (300.0, 0.0)
    count(1600, 70)
    now_s += 4.0
    assert moves.per_s(feed.view) == (300.0, 0.0)
    feed.profile.interval(interval(51, changes(), nodes=[node(0), node(1, 1)]))
    assert moves.per_s(feed.view) == (0.0, 5.0)
    assert moves.per_s(frozen_feed(1).view) is None, "there are no tiers"


def test_no_more_than_ascii_where_the_terminal_has_no_more() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        for keys in ((), ("enter",), ("enter",), ("enter",)):
            await press(pilot, *keys)
            await pilot.pause(0.1)
            assert screen_text(app).replace("±", "").isascii(), screen_text(app)

    run(frozen_feed(2), script, unicode=False)


@pytest.mark.parametrize(
    "keys",
    [
        *(("enter", "down", key) for key in ("q", "f10", "ctrl+c", "ctrl+q")),
        *(("f4", "x", key) for key in ("f10", "ctrl+c")),
        *(("slash", "x", key) for key in ("f10", "ctrl+c")),
        *((over, "ctrl+c") for over in ("f1", "f6")),
    ],
)
def test_keys_that_quit(keys: tuple[str, ...]) -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        *before, last = keys
        await press(pilot, *before)
        assert app.return_code is None
        await press(pilot, last)

    app = run(frozen_feed(), script)
    assert app.return_code == 0


@pytest.mark.parametrize("key", ["f10", "q", "escape"])
@pytest.mark.parametrize("over", ["f1", "f6"])
def test_help_and_sort_menu_close_and_the_session_goes_on(over: str, key: str) -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, over)
        await until(app, pilot, lambda _: len(app.screen_stack) == 2)
        await press(pilot, key)
        await until(app, pilot, lambda shown: "F10Quit" in shown)
        assert len(app.screen_stack) == 1 and app.return_code is None

    run(frozen_feed(), script)


def test_timers_that_outlive_the_screens_do_no_harm() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        pass

    app = run(frozen_feed(2), script)
    assert not app.screen_stack
    app._look()
    app.show()


def test_a_reason_to_stop_ends_it() -> None:
    reasons: list[str] = []

    async def script(app: TopApp, pilot: Pilot) -> None:
        reasons.append("ended by SIGTERM")
        deadline = time.monotonic() + PATIENCE_S
        while app.return_value is None and time.monotonic() < deadline:
            await pilot.pause(0.05)

    app = run(frozen_feed(), script, should_stop=lambda: reasons[0] if reasons else None)
    assert app.return_value == "ended by SIGTERM"
