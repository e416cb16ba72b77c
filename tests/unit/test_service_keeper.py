# SPDX-License-Identifier: Apache-2.0
"""Rounds of the service on a machine of our own: what moves, what does not, and what is learned from it."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from profiles import armed
from serviceworld import BASE, FAST, HEADROOM_PAGES, PAGE, SLOW, World

from hotpage.placement.history import BOUNCE_S
from hotpage.placement.outcome import Result
from hotpage.placement.plan import Fate
from hotpage.service.bounces import JUDGE_S, LEAST_MOVES, ranking_half_life_s
from hotpage.service.keeper import IDLE_S, Pace
from hotpage.service.survey import REFRESH_S
from hotpage.service.turn import MOST_PAGES

HOT = np.arange(100, 300)
FREE_PAGES = 56
"""On the fast node beside them."""


def world(**more: object) -> World:
    """A hot set of 200 pages on the slow node; 256 pages fit the fast one."""
    one = World(**more)  # type: ignore[arg-type]
    one.rate[:] = 0.01
    one.rate[HOT] = 1000.0
    return one


def hot_vpns() -> set[int]:
    return set((BASE + HOT).tolist())


def test_the_hot_set_ends_on_the_fast_node_and_stays() -> None:
    one = world()
    step = one.step()
    assert one.fast_vpns() == hot_vpns()
    assert step.outcome is not None and step.outcome.moved_bytes == HOT.size * PAGE
    assert one.keeper.totals.moved["promotion"] == {Result.MOVED: HOT.size * PAGE}
    for _ in range(5):
        assert one.step().outcome is None
    assert one.fast_vpns() == hot_vpns()


def test_other_free_memory_is_no_other_machine() -> None:
    one = world()
    reads: list[float] = []
    one.surveyor.read_topology = lambda: reads.append(one.now_s) or one.topology()  # type: ignore[func-returns-value]
    for free_bytes in (1 << 20, 2 << 20, 3 << 20):
        picture = one.picture()
        nodes = [replace(node, free_bytes=free_bytes) for node in picture.nodes]
        one.keeper.step(replace(picture, nodes=nodes))
    assert len(reads) == 1


def test_a_node_full_of_idle_page_cache_has_room() -> None:
    """As every machine that runs for a while; else the headroom would be restored for the cache to fill."""
    one = world()
    one.cache_pages, one.free_pages[FAST] = one.free_pages[FAST], 0
    one.step()
    assert one.fast_vpns() == hot_vpns()
    assert one.step().outcome is None


def test_where_nothing_is_hot_nothing_moves() -> None:
    one = world()
    one.rate[:] = 0.5  # a sweep: not worth 5 us each within a minute
    for _ in range(5):
        assert one.step().outcome is None


def test_what_no_longer_is_hot_makes_room() -> None:
    one = world()
    one.step()
    one.rate[:] = 0.01
    one.rate[500:700] = 1000.0
    one.step(after_s=61.0)  # it may move again
    assert set(range(BASE + 500, BASE + 700)) <= one.fast_vpns()
    assert len(one.fast_vpns()) <= 256
    assert one.free_pages[FAST] >= HEADROOM_PAGES


def test_pages_are_asked_about_once_in_a_while() -> None:
    one = world()
    one.step()
    assert sorted(one.asked) == one.vpn.tolist()
    one.asked.clear()
    one.step()
    assert len(one.asked) <= 512 * -(-one.vpn.size * 2 // 512) // 2  # the part that is due
    one.asked.clear()
    for _ in range(round(REFRESH_S) + 1):
        one.step()
    assert set(one.asked) == set(one.vpn.tolist())


def test_pages_that_others_moved_are_found_again() -> None:
    one = world()
    one.step()
    one.node[HOT] = SLOW  # reclaim
    one.free_pages[FAST] += HOT.size
    for _ in range(round(REFRESH_S) + 62):  # they were moved a short while ago
        one.step()
    assert one.fast_vpns() == hot_vpns()


def test_pages_that_are_elsewhere_are_asked_about_at_once() -> None:
    one = world()
    first = int(BASE + HOT[0])
    one.refused = {first: Result.ELSEWHERE}
    one.step()
    one.asked.clear()
    one.step()
    assert first in one.asked


def test_pages_that_failed_wait() -> None:
    one = world()
    stuck = int(BASE + HOT[0])
    one.refused = {stuck: Result.PINNED}
    one.step()
    one.refused = {}
    assert one.step().plan.kept_bytes[Fate.FAILED_BEFORE] == PAGE
    one.step(after_s=61.0)
    assert one.fast_vpns() == hot_vpns()


def test_pages_that_found_no_room_go_with_the_next_plan_but_huge_ones_wait() -> None:
    one = World(pages=4096)
    one.rate[:] = 0.01
    one.rate[HOT] = one.rate[512:1024] = 1000.0
    one.sizes[512:1024] = 0
    one.sizes[512] = 512
    one.refused = {int(BASE + HOT[0]): Result.NO_ROOM, BASE + 512: Result.NO_ROOM}
    one.step()
    one.refused = {}
    assert one.step().plan.kept_bytes[Fate.FAILED_BEFORE] == 512 * PAGE
    assert one.fast_vpns() == hot_vpns()


def test_no_more_is_moved_than_the_rate_allows() -> None:
    one = world(text='[budget]\nmove_rate = "80K"')
    step = one.step()
    assert step.outcome is not None and step.outcome.moved_bytes == 20 * PAGE
    assert step.plan.kept_bytes[Fate.RATE] > 0


def test_a_huge_page_is_one_decision() -> None:
    one = World(pages=2048)
    one.free_pages[FAST] = HEADROOM_PAGES + 600
    one.rate[:] = 0.01
    one.rate[512:1024] = 50.0
    one.sizes[512:1024] = 0
    one.sizes[512] = 512
    step = one.step()
    assert one.fast_vpns() == set(range(BASE + 512, BASE + 1024))
    assert [move.vpn.tolist() for move in step.plan.moves] == [[BASE + 512]]


SILENT = np.arange(700, 1024)


def with_silent_pages() -> World:
    """Which fill the fast node."""
    one = world()
    one.sizes[SILENT] = 0
    one.node[SILENT] = FAST
    one.free_pages[FAST] = HEADROOM_PAGES
    return one


def test_silent_pages_go_first() -> None:
    """Memory that was armed and never accessed has no row in the table; it lies on the fast node."""
    one = with_silent_pages()
    one.armed = armed(BASE + 690, BASE + 1024)
    one.step()
    assert hot_vpns() <= one.fast_vpns()
    assert len(one.fast_vpns()) == SILENT.size


def test_silent_memory_above_ever_so_much_more_of_it_goes_as_well() -> None:
    """4 GiB of addresses that were armed: no plan looks at all of them."""
    one = with_silent_pages()
    one.armed = armed(BASE + 690 - MOST_PAGES, BASE + 1024)
    one.empty_pages = MOST_PAGES
    for _ in range(3):
        assert one.step().situation.candidates.vpn.size <= 1024
    assert hot_vpns() <= one.fast_vpns()
    assert len(one.fast_vpns()) == SILENT.size


@pytest.mark.parametrize(
    "text",
    [
        f"[targets]\nexclude_pids = [{2**22 - 1}]\nexclude_comms = ['worker']",
        "[targets]\nexclude_cgroups = ['/db']",
        "[targets]\nexclude_cgroups = ['/']",
    ],
)
def test_what_is_excluded_is_left_alone(text: str) -> None:
    one = world(text=text, cgroup="/db/primary")
    step = one.step()
    assert step.outcome is None and not one.asked and len(step.situation.candidates) == 0


@pytest.mark.parametrize(
    "text", ["[targets]\nexclude_comms = ['backup']", "[targets]\nexclude_cgroups = ['/batch']"]
)
def test_what_turns_into_something_excluded_is_left_alone_from_then_on(text: str) -> None:
    one = world(text=text)
    one.now_is = {"comm": "backup", "cgroup": "/batch/nightly"}
    assert one.step().outcome is None and not one.asked
    one.now_is = {}
    assert one.step().outcome is not None


def test_a_cgroup_has_a_ceiling_and_the_limits_of_the_one_above_it() -> None:
    text = "[[targets.cgroups]]\npath = '/db'\nceiling = '200K'\n[[targets.cgroups]]\npath = '/db2'"
    one = world(text=text, cgroup="/db/primary")
    step = one.step()
    assert step.situation.processes[0].cgroup == "/db"
    assert len(one.fast_vpns()) == 50
    assert step.plan.kept_bytes[Fate.GROUP] > 0


def shuttle(one: World, rounds: int, after_s: float) -> None:
    """The hot set changes its place each time: whatever is moved was moved in vain."""
    for number in range(rounds):
        one.rate[:] = 0.01
        one.rate[(HOT + (number % 2) * 400) % one.rate.size] = 1000.0
        one.step(after_s=after_s)


def test_bounces_shorten_the_horizon() -> None:
    one = world()
    assert one.keeper.bounces.horizon_s(0) == 60.0
    shuttle(one, 2, JUDGE_S)  # moved up, and now cold: each page that would have to go is one bounce
    assert one.keeper.bounces.total == HOT.size - FREE_PAGES
    shuttle(one, 12, JUDGE_S / 5)
    assert one.keeper.bounces.last.share > 0.3
    assert one.keeper.bounces.horizon_s(0) < 60.0
    step = one.step(after_s=1.0)
    assert step.situation.processes[0].horizon_s < 60.0
    assert one.keeper.bounces.control.factor("/db", one.now_s) == 1.0, "what so few cost nobody feels"


def test_bounces_that_cost_time_stop_the_cgroup() -> None:
    one = World(pages=1 << 15)
    for number in range(14):
        one.rate[:] = 0.01
        one.rate[(number % 2) << 14 :][: 1 << 13] = 1000.0
        one.step(after_s=JUDGE_S / 5)
    assert one.keeper.bounces.control.factor("/db", one.now_s) == 0.0
    assert one.step(after_s=1.0).outcome is None


@pytest.mark.parametrize(
    ("moves", "bounces", "half_life_s"),
    [
        (1000, 0, np.inf),
        (1000, 500, BOUNCE_S),
        (1000, 750, BOUNCE_S / 2),
        (1000, 1000, 0.0),
        (63, 63, np.inf),
    ],
)
def test_the_share_that_bounced_tells_how_long_a_ranking_holds(
    moves: int, bounces: int, half_life_s: float
) -> None:
    assert ranking_half_life_s(moves, bounces) == pytest.approx(half_life_s)


def test_a_hot_set_that_moves_is_followed_before_a_minute_is_over_and_its_moves_count_as_bounces() -> None:
    one = world()
    one.step()
    one.rate[:] = 0.01
    one.rate[500:700] = 1000.0
    one.step(after_s=JUDGE_S + 1)
    for _ in range(19):  # 144 of 256 moves: a half-life of 50 s
        one.step(after_s=2.0)
    assert set(range(BASE + 500, BASE + 700)) <= one.fast_vpns()
    total = one.keeper.bounces.total
    assert total >= HOT.size - FREE_PAGES
    one.rate[:] = 0.01
    one.rate[HOT] = 1000.0
    one.step(after_s=1.0)
    assert one.keeper.bounces.total - total >= 2 * (HOT.size - FREE_PAGES), "what went back bounces again"


def test_calm_restores_what_bounces_took() -> None:
    one = world()
    shuttle(one, 14, JUDGE_S / 3)
    assert one.keeper.bounces.horizon_s(0) < 60.0
    one.rate[:] = 0.01
    one.rate[HOT] = 1000.0
    for _ in range(40):
        one.step(after_s=JUDGE_S + 1)
    assert one.keeper.bounces.horizon_s(0) == 60.0
    assert hot_vpns() <= one.fast_vpns()


def test_a_page_bounces_once_for_each_of_its_moves() -> None:
    one = world()
    one.step()
    one.rate[:] = 0.01
    one.rate[500:700] = 1000.0
    for _ in range(20):
        one.step()
    assert one.keeper.bounces.total == HOT.size - FREE_PAGES >= LEAST_MOVES


def test_a_node_that_is_short_gives_up_its_coldest_pages_however_lately_they_came() -> None:
    one = world()
    one.rate[HOT] = np.arange(1000, 1200)
    one.rate[HOT[:50]] = 1e6
    one.step()
    one.free_pages[FAST] = -40  # others took it
    step = one.step(after_s=1.0)
    assert step.outcome is not None
    assert set((BASE + HOT[:50]).tolist()) <= one.fast_vpns()


def test_a_node_that_is_short_gives_up_no_more_than_it_lacks() -> None:
    """What was demoted is at hand for the CPU that did it, and the kernel counts it as free no earlier."""
    one = world()
    one.most_at_hand = 150
    one.step()
    one.free_pages[FAST] = -40
    demoted = [HOT.size - len(one.fast_vpns()) for _ in range(5) if one.step()]
    assert demoted == [40] * 5


def test_what_nobody_drives_out_is_no_bounce() -> None:
    one = world()
    one.step()
    one.rate[HOT] = 0.01
    step = one.step()
    assert one.keeper.bounces.total == 0 and Fate.BOUNCE not in step.plan.kept_bytes


def test_bounces_are_of_the_moves_of_the_last_minute() -> None:
    one = world()
    one.step()
    one.rate[:] = 0.01
    one.rate[500:700] = 1000.0
    one.step(after_s=JUDGE_S)
    assert one.keeper.bounces.last.share > 0.5
    one.rate[:] = 0.01
    one.step(after_s=BOUNCE_S)
    assert np.isnan(one.keeper.bounces.last.share)


def test_reconfiguration_keeps_what_was_learned() -> None:
    one = world()
    one.step()
    other = World(text="[placement]\nhorizon = 10\n[budget]\nmove_rate = '1M'").configuration
    one.keeper.reconfigure(other)
    step = one.step()
    assert step.situation.costs.horizon_s == 10.0
    assert step.situation.history.moved.size == HOT.size
    assert step.situation.nodes[0].rate_bytes == 2**20


def test_one_tier_is_nothing_to_place() -> None:
    assert World().surveyor.has_tiers
    one = World(tiers=1)
    assert not one.surveyor.has_tiers
    assert one.step().outcome is None


def test_a_node_that_comes_later_is_a_target_and_has_a_rate() -> None:
    one = world(tiers=1)
    one.node[:] = FAST
    one.free_pages[FAST] = HEADROOM_PAGES - 100
    assert one.step().outcome is None and one.limited == {FAST}
    one.tiers = 2
    step = one.step()
    assert step.outcome is not None and {move.target for move in step.plan.moves} == {SLOW}
    assert one.limited == {FAST, SLOW}
    one.tiers = 1
    assert [room.node for room in one.step().situation.nodes] == [FAST]


def test_plans_are_made_as_often_as_they_are_cheap() -> None:
    pace = Pace(1.0, 1.0)
    assert pace.is_due(0.0, 0)
    pace.planned(0.0, 0.001, 10)
    assert not pace.is_due(0.4, 20) and pace.is_due(0.5, 20)
    pace.planned(1.0, 0.05, 30)  # 1 % of a CPU: every 5 s
    assert pace.period_s == pytest.approx(5.0)
    assert not pace.is_due(5.4, 40) and pace.is_due(5.6, 40)
    pace.planned(6.0, 0.001, 50)
    assert not pace.is_due(9.0, 50), "nothing was accessed"
    assert pace.is_due(6.0 + IDLE_S, 50)


def test_a_plan_holds_sixty_bytes_a_page_while_it_is_made() -> None:
    one = world(pages=1 << 17)
    one.step()
    one.step()  # now it has its own tables
    picture = one.picture()
    tracemalloc.start()
    try:
        one.keeper.step(picture)
        assert tracemalloc.get_traced_memory()[1] < 60 * one.vpn.size
    finally:
        tracemalloc.stop()
