# SPDX-License-Identifier: Apache-2.0
"""Promoting and demoting from top: what is proposed for a row, confirmed or not, and what is said after."""

import os

import pytest
from profiles import changes, interval
from screentext import screen_text
from test_top_screen import GOLDEN, SIZES, press, run, until
from textual.pilot import Pilot
from topfeed import HEAP, FrozenFeed, frozen_feed

from hotpage.placement.background import MoveJob, Stage
from hotpage.placement.chosen import END, Wish
from hotpage.views.top.app import TopApp
from hotpage.views.top.movescreen import MoveScreen


def job_of(app: TopApp) -> MoveJob:
    assert isinstance(app.screen, MoveScreen)
    return app.screen.job


async def propose(app: TopApp, pilot: Pilot, key: str = "f7") -> MoveJob:
    await press(pilot, key)
    await until(app, pilot, lambda shown: "planning" not in shown and "Esc" in shown)
    return job_of(app)


async def golden(app: TopApp, pilot: Pilot, name: str) -> None:
    """Wait until the screen is as tests/golden has it."""
    path = GOLDEN / f"top-{name}-two-tiers.txt"
    if "HOTPAGE_UPDATE_GOLDEN" in os.environ:
        await pilot.pause(0.5)
        path.write_text(screen_text(app))
    expected = path.read_text()
    await until(app, pilot, lambda shown: shown == expected or "never" in shown)


@pytest.mark.parametrize("width", SIZES)
def test_from_the_proposal_to_the_outcome(width: str) -> None:
    feed = frozen_feed(2)

    async def script(app: TopApp, pilot: Pilot) -> None:
        job = await propose(app, pilot)
        await golden(app, pilot, f"{width}-move-proposed")
        await press(pilot, "enter")
        assert job.stage is Stage.MOVING
        feed.moves.go_on(job, 1600)
        await golden(app, pilot, f"{width}-move-going")
        feed.moves.finish(job)
        await golden(app, pilot, f"{width}-move-done")
        await press(pilot, "escape")
        feed.profile.interval(interval(11, changes(), nodes=(), migrated_pages={1: 8, 2: 100}))
        await until(app, pilot, lambda shown: "11.0 s" in shown)
        await golden(app, pilot, f"{width}-processes-moved")
        await press(pilot, "enter", "enter", "enter", *["pagedown"] * 2)
        feed.moves.now_s += 12.0
        feed.profile.interval(interval(12, changes(), nodes=()))
        await until(app, pilot, lambda shown: "12.0 s" in shown)
        await golden(app, pilot, f"{width}-pages-moved")

    run(feed, script, SIZES[width])


ROWS = {
    "process": (),
    "mapping": ("enter", "M", "home"),
    "range": ("enter", "enter", "home"),
    "page": ("enter", "enter", "enter", "home"),
}


@pytest.mark.parametrize(("key", "promote"), [("f7", True), ("f8", False), ("right_square_bracket", True)])
@pytest.mark.parametrize("row", ROWS)
def test_the_row_says_what_is_to_move(row: str, key: str, promote: bool) -> None:
    feed = frozen_feed(2)

    async def script(app: TopApp, pilot: Pilot) -> None:
        assert app._view is not None
        await press(pilot, *ROWS[row])
        selected, hot_hz = app.grid.row, app._view.threshold.hot_hz
        await propose(app, pilot, key)
        (wish,) = feed.moves.wishes
        assert (wish.process, wish.promote) == (1, promote)
        if row == "process":
            assert wish == Wish("redis-server (4001)", 1, promote, 0, END, hot_hz)
        elif row == "mapping":
            vma = selected.record.vma
            assert (wish.start, wish.end, wish.hot_hz) == (vma.start, vma.end, hot_hz)
        elif row == "range":
            assert (wish.start, wish.end, wish.hot_hz) == (selected.start, selected.end, None)
        else:
            assert (wish.start, wish.end) == (selected.vpn << 12, (selected.vpn + 1) << 12)
            assert wish.hot_hz is None and wish.start >> 12 >= HEAP
        await until(app, pilot, lambda shown: ("Promote " if promote else "Demote ") in shown)

    run(feed, script)


def test_a_plan_that_is_longer_than_the_screen_scrolls() -> None:
    async def script(app: TopApp, pilot: Pilot) -> None:
        await propose(app, pilot)
        assert "would move" not in screen_text(app)
        await press(pilot, "end")
        await until(app, pilot, lambda shown: "12.5M would move" in shown)

    run(frozen_feed(2), script, (80, 9))


def test_nothing_moves_unless_it_is_confirmed() -> None:
    feed = frozen_feed(2)

    async def script(app: TopApp, pilot: Pilot) -> None:
        for key in ("escape", "q"):
            job = await propose(app, pilot)
            await press(pilot, key)
            assert not isinstance(app.screen, MoveScreen)
            assert job.is_cancelled and job.stage is Stage.PROPOSED
        await until(app, pilot, lambda shown: "F10Quit" in shown)

    run(feed, script)


def test_hot_pages_or_everything() -> None:
    feed = frozen_feed(2)

    async def script(app: TopApp, pilot: Pilot) -> None:
        first = await propose(app, pilot)
        await until(app, pilot, lambda shown: "only hot pages: from" in shown and "AEverything" in shown)
        await press(pilot, "a")
        await until(app, pilot, lambda shown: "everything of known rate" in shown)
        assert first.is_cancelled and job_of(app) is not first
        await press(pilot, "a")
        await until(app, pilot, lambda shown: "only hot pages: from" in shown)
        assert [wish.hot_hz is None for wish in feed.moves.wishes] == [False, True, False]
        assert {wish.name for wish in feed.moves.wishes} == {"redis-server (4001)"}

    run(feed, script)


def test_a_move_goes_on_behind_the_table_and_its_end_is_told() -> None:
    feed = frozen_feed(2)

    async def script(app: TopApp, pilot: Pilot) -> None:
        job = await propose(app, pilot)
        await press(pilot, "enter")
        await until(app, pilot, lambda shown: "To the table" in shown)
        await press(pilot, "enter")
        await until(app, pilot, lambda shown: "F10Quit" in shown)
        await press(pilot, "down", "f8")
        assert job_of(app) is job, "one at a time: the key leads back to it"
        await press(pilot, "enter")
        feed.moves.finish(job)
        await until(
            app, pilot, lambda shown: "promoting redis-server (4001): 11.7M of 12.5M moved; armed" in shown
        )
        await press(pilot, "up")
        await until(app, pilot, lambda shown: "promoting" not in shown)

    run(feed, script)


def test_a_move_can_be_stopped() -> None:
    feed = frozen_feed(2)

    async def script(app: TopApp, pilot: Pilot) -> None:
        job = await propose(app, pilot)
        await press(pilot, "enter", "escape")
        assert job.is_cancelled and job_of(app) is job
        await until(app, pilot, lambda shown: "stopping ..." in shown)
        feed.moves.finish(job)
        await until(app, pilot, lambda shown: "EscClose" in shown)

    run(feed, script)


def test_a_plan_takes_its_time_or_fails() -> None:
    feed = frozen_feed(2)
    feed.moves.is_slow_to_plan = True

    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "f7")
        await until(app, pilot, lambda shown: "planning ..." in shown)
        await press(pilot, "enter")  # there is nothing to confirm yet
        job = job_of(app)
        feed.moves.plan(job)
        await until(app, pilot, lambda shown: "EnterMove" in shown)
        await press(pilot, "escape")
        feed.moves.problem = "the process has gone, or is another program now"
        await press(pilot, "f7")
        await until(app, pilot, lambda shown: "the process has gone" in shown and "EscClose" in shown)

    run(feed, script)


def test_nothing_to_move_says_why() -> None:
    feed = frozen_feed(2)
    feed.moves.has_nothing_to_move = True

    async def script(app: TopApp, pilot: Pilot) -> None:
        await propose(app, pilot)
        await until(
            app,
            pilot,
            lambda shown: "nothing to move: not among the pages chosen" in shown and "EnterMove" not in shown,
        )
        await press(pilot, "enter")
        await until(app, pilot, lambda shown: "F10Quit" in shown)

    run(feed, script)


def test_where_there_is_one_tier_the_key_says_so() -> None:
    feed = frozen_feed(1)

    async def script(app: TopApp, pilot: Pilot) -> None:
        assert "F7" not in screen_text(app)
        await press(pilot, "f7")
        await until(app, pilot, lambda shown: "in one tier: there is nowhere to move pages to" in shown)

    run(feed, script)
    assert not feed.moves.wishes


def test_a_cgroup_is_no_process() -> None:
    feed = frozen_feed(2)

    async def script(app: TopApp, pilot: Pilot) -> None:
        await press(pilot, "t", "home", "f7")
        await until(app, pilot, lambda shown: "choose a process" in shown)

    run(feed, script)
    assert not feed.moves.wishes


def test_quitting_while_pages_move() -> None:
    feed = frozen_feed(2)

    async def script(app: TopApp, pilot: Pilot) -> None:
        await propose(app, pilot)
        await press(pilot, "enter", "f10")

    assert run(feed, script).return_code == 0


def test_all_moves_are_counted_in_the_tree() -> None:
    feed: FrozenFeed = frozen_feed(2)

    async def script(app: TopApp, pilot: Pilot) -> None:
        feed.profile.interval(interval(11, changes(), nodes=(), migrated_pages={3: 30, 4: 12}))
        feed.moves.log.note_moved(4, 8)
        await until(app, pilot, lambda shown: "11.0 s" in shown)
        by_name = {row.name: row.moves_per_s for row in app.grid.rows}
        assert by_name["bash"] == 30.0 and by_name["node"] == 16.0 and by_name["redis-server"] == 0.0
        await press(pilot, "t")
        (group,) = [row for row in app.grid.rows if row.record is None and row.name == "/user.slice"]
        assert group.moves_per_s == 46.0

    run(feed, script)
