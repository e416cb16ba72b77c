# SPDX-License-Identifier: Apache-2.0
"""What ``fit`` makes of limits: shares and weights of cgroups, cpusets, rates, headrooms, two fast nodes."""

from dataclasses import replace

import pytest
from situations import PAGE, candidates, facts, room

from hotpage.placement.history import History, page_keys
from hotpage.placement.plan import Aim, Fate, GroupLimits, Plan, ProcessFacts, Situation
from hotpage.placement.policies import policy

A_AND_B = {0: facts(100, "/a"), 1: facts(101, "/b")}


def fit(situation: Situation) -> Plan:
    return policy("fit")(situation, Aim())


def pages(plan: Plan) -> dict[tuple[int, int, int], int]:
    """Pages moved by process, source and target."""
    return {(move.process, move.source, move.target): move.vpn.size for move in plan.moves}


def rows(
    process: int, count: int, node: int, rate_hz: float, vpn: int = 1000
) -> list[tuple[int, int, int, int, float]]:
    """So many pages in a row, each a little hotter than the one before."""
    return [(process, vpn + page, 1, node, rate_hz * (1 + page / 1000)) for page in range(count)]


def test_a_weight_ranks_a_cgroup_higher() -> None:
    rows = [(0, 1, 1, 1, 100.0), (1, 1, 1, 1, 60.0)]
    processes = {0: facts(cgroup="/a"), 1: facts(cgroup="/b")}
    situation = Situation(candidates(rows), processes, [room(0, 1), room(1, 9)])
    assert fit(situation).moves[0].process == 0
    weighted = replace(situation, limits={"/b": GroupLimits(weight=4.0)})
    assert fit(weighted).moves[0].process == 1


def test_what_a_ceiling_keeps_out_leaves_its_room_to_others() -> None:
    rows = [(process, 1000 + page, 1, 1, 100.0 * (48 - page)) for process in (0, 1) for page in range(48)]
    plan = policy("fit")(
        Situation(
            candidates(rows),
            {0: facts(100, "/a"), 1: facts(101, "/b")},
            [room(0, 24), room(1, 1000)],
            limits={"/b": GroupLimits(ceiling_bytes=6 * PAGE)},
        ),
        Aim(),
    )
    assert [(move.process, move.vpn.size) for move in plan.moves] == [(0, 18), (1, 6)]
    assert plan.kept_bytes[Fate.GROUP] > 0


def test_at_its_ceiling_a_cgroup_changes_its_own_pages() -> None:
    there = [(0, 1000 + page, 1, 0, 100.0) for page in range(6)]
    hotter = [(0, 2000 + page, 1, 1, 1000.0 - page) for page in range(8)]
    plan = policy("fit")(
        Situation(
            candidates(there + hotter),
            {0: facts(100, "/a")},
            [room(0, 24), room(1, 1000)],
            limits={"/a": GroupLimits(ceiling_bytes=6 * PAGE)},
        ),
        Aim(),
    )
    down, up = plan.moves
    assert down.vpn.tolist() == list(range(1000, 1006))
    assert up.vpn.tolist() == list(range(2000, 2006))
    assert plan.kept_bytes == {Fate.GROUP: 2 * PAGE}


@pytest.mark.parametrize("why", ["cpuset", "failed", "halted"])
def test_what_may_not_come_takes_no_room_from_others(why: str) -> None:
    """Pages of a process that no fast node is allowed, or that failed to move, or of a halted cgroup."""
    table = candidates([*rows(0, 200, 1, 2000.0), *rows(1, 80, 1, 600.0)])
    situation = Situation(table, A_AND_B, [room(0, 100), room(1, 10_000)], now_s=110.0)
    if why == "cpuset":
        batch: ProcessFacts = facts(100, "/a", allowed=(1,))
        situation = replace(situation, processes={**A_AND_B, 0: batch})
    elif why == "failed":
        keys = page_keys(table.process, table.vpn)
        situation = replace(situation, history=History().noting(keys[:0], keys[:200], 100.0))
    else:
        situation = replace(situation, limits={"/a": GroupLimits(rate_bytes=0.0)})
    plan = fit(situation)
    assert pages(plan) == {(1, 1, 0): 80}
    fate = {"cpuset": Fate.FORBIDDEN, "failed": Fate.FAILED_BEFORE, "halted": Fate.RATE}[why]
    assert plan.kept_bytes == {fate: 200 * PAGE}


def test_a_ceiling_is_held_against_what_is_there_already() -> None:
    """First touches go to fast memory, whatever a ceiling says."""
    table = candidates([*rows(0, 80, 0, 1000.0), *rows(1, 80, 1, 600.0)])
    ceiling = {"/a": GroupLimits(ceiling_bytes=20 * PAGE)}
    plan = fit(Situation(table, A_AND_B, [room(0, 0), room(1, 1000)], limits=ceiling))
    assert pages(plan) == {(0, 0, 1): 60, (1, 1, 0): 60}
    assert plan.moves[0].vpn.tolist() == list(range(1000, 1060)), "the coldest go"


def test_of_a_young_process_above_its_ceiling_the_coldest_goes_as_well() -> None:
    table = candidates([*rows(0, 40, 0, 0.01), *rows(0, 40, 0, 1000.0, vpn=2000)])
    young, ceiling = {0: facts(cgroup="/a", age_s=1.0)}, {"/a": GroupLimits(ceiling_bytes=60 * PAGE)}
    (down,) = fit(Situation(table, young, [room(0, 0), room(1, 1000)], limits=ceiling)).moves
    assert down.vpn.tolist() == list(range(1000, 1020))


def test_page_cache_of_a_cgroup_is_not_held_against_its_pages() -> None:
    """What it has in fast memory besides, above its ceiling, cannot be moved."""
    there = candidates(rows(0, 200, 0, 1000.0))
    for ceiling_pages, going in ((300, 0), (150, 50)):
        limits = {"/a": GroupLimits(ceiling_bytes=ceiling_pages * PAGE, fast_bytes=600 * PAGE)}
        plan = fit(Situation(there, A_AND_B, [room(0, 500), room(1, 1000)], limits=limits))
        assert pages(plan) == ({(0, 0, 1): going} if going else {})
        assert {move.reason for move in plan.moves} <= {"above its cgroup's ceiling"}


def test_what_a_ceiling_put_out_is_no_bounce() -> None:
    """Though it is hot, and there is room: its cgroup would be halted for it."""
    limits = {"/a": GroupLimits(ceiling_bytes=20 * PAGE)}
    nodes = [room(0, 500), room(1, 1000)]
    (down,) = fit(Situation(candidates(rows(0, 80, 0, 1000.0)), A_AND_B, nodes, limits=limits)).moves
    assert down.vpn.tolist() == list(range(1000, 1060))
    table = candidates([(0, 1000 + page, 1, int(page < 60), 1000.0 + page) for page in range(80)])
    keys = page_keys(table.process, table.vpn)
    history = History().noting(keys[:60], keys[:0], 1.0)
    after = fit(Situation(table, A_AND_B, nodes, history, limits, now_s=5.0))
    assert not after.moves
    assert after.kept_bytes == {Fate.HOT_IN_PLACE: 20 * PAGE, Fate.GROUP: 60 * PAGE}


def test_a_floor_prefers_what_others_have_that_is_colder() -> None:
    table = candidates(
        [*rows(0, 40, 0, 100.0), *rows(0, 40, 1, 1000.0, vpn=2000), *rows(1, 40, 0, 0.01, vpn=3000)]
    )
    for floor_pages in (0, 40, 1000):
        limits = {"/a": GroupLimits(floor_bytes=floor_pages * PAGE)}
        plan = fit(Situation(table, A_AND_B, [room(0, 0), room(1, 1000)], limits=limits))
        assert pages(plan) == {(1, 0, 1): 40, (0, 1, 0): 40}


@pytest.mark.parametrize(("hot", "going"), [(1, 0), (7, 0), (8, 1), (20, 2)])
def test_a_floor_is_not_worn_away_by_large_pages(hot: int, going: int) -> None:
    """A page of 8 goes for 8 that come."""
    cold = [(0, 1000 + 8 * page, 8, 0, 0.01) for page in range(10)]
    floor = {"/a": GroupLimits(floor_bytes=80 * PAGE)}
    table = candidates([*cold, *rows(0, hot, 1, 1000.0, vpn=2000)])
    plan = fit(Situation(table, {0: facts(cgroup="/a")}, [room(0, 0), room(1, 1000)], limits=floor))
    assert pages(plan) == ({(0, 0, 1): going, (0, 1, 0): 8 * going} if going else {})


@pytest.mark.parametrize(("rate_pages", "going"), [(12, 0), (20, 1)])
def test_nor_where_the_rate_ends_a_plan(rate_pages: int, going: int) -> None:
    cold = [(0, 1000 + 8 * page, 8, 0, 0.01) for page in range(10)]
    limits = {"/a": GroupLimits(floor_bytes=80 * PAGE, rate_bytes=rate_pages * PAGE)}
    table = candidates([*cold, *rows(0, 20, 1, 1000.0, vpn=2000)])
    plan = fit(Situation(table, {0: facts(cgroup="/a")}, [room(0, 0), room(1, 1000)], limits=limits))
    assert pages(plan) == ({(0, 0, 1): going, (0, 1, 0): 8 * going} if going else {})


@pytest.mark.parametrize("spare_pages", [0, 1, 7, 8])
def test_large_pages_change_places_at_a_floor(spare_pages: int) -> None:
    cold = [(0, 1000 + 8 * page, 8, 0, 0.01) for page in range(10)]
    hot = [(0, 2000 + 8 * page, 8, 1, 1000.0) for page in range(6)]
    floor = {"/a": GroupLimits(floor_bytes=(80 - spare_pages) * PAGE)}
    situation = Situation(candidates(cold + hot), {0: facts(cgroup="/a")}, [room(0, 0), room(1, 1000)])
    assert pages(fit(replace(situation, limits=floor))) == {(0, 0, 1): 6, (0, 1, 0): 6}


@pytest.mark.parametrize(("weight", "slow_hz", "swapped"), [(0.25, 8.0, 20), (1.0, 8.0, 20), (8.0, 0.5, 0)])
def test_within_a_cgroup_its_weight_decides_nothing(weight: float, slow_hz: float, swapped: int) -> None:
    table = candidates([*rows(0, 20, 0, 0.01), *rows(0, 20, 1, slow_hz, vpn=2000)])
    limits = {"/a": GroupLimits(weight=weight, ceiling_bytes=20 * PAGE)}
    plan = fit(Situation(table, {0: facts(cgroup="/a")}, [room(0, 500), room(1, 1000)], limits=limits))
    assert pages(plan) == ({(0, 0, 1): 20, (0, 1, 0): 20} if swapped else {})


def test_free_room_is_filled_at_the_whole_rate() -> None:
    rate = {"/a": GroupLimits(rate_bytes=30 * PAGE)}
    table = candidates(rows(0, 60, 1, 1000.0))
    plan = fit(Situation(table, {0: facts(cgroup="/a")}, [room(0, 500), room(1, 1000)], limits=rate))
    assert pages(plan) == {(0, 1, 0): 30}


@pytest.mark.parametrize("floor_pages", [0, 80, 1000])
def test_by_its_floor_a_cgroup_loses_nothing_but_changes_its_own_pages(floor_pages: int) -> None:
    table = candidates([*rows(0, 80, 0, 0.01), *rows(0, 60, 1, 1000.0, vpn=2000)])
    floor = {"/a": GroupLimits(floor_bytes=floor_pages * PAGE)}
    plan = fit(Situation(table, {0: facts(cgroup="/a")}, [room(0, 0), room(1, 1000)], limits=floor))
    assert pages(plan) == {(0, 0, 1): 60, (0, 1, 0): 60}


def test_by_its_floor_a_cgroup_uses_free_room_first() -> None:
    table = candidates([*rows(0, 80, 0, 0.01), *rows(0, 60, 1, 1000.0, vpn=2000)])
    floor = {"/a": GroupLimits(floor_bytes=1000 * PAGE)}
    plan = fit(Situation(table, {0: facts(cgroup="/a")}, [room(0, 40), room(1, 1000)], limits=floor))
    assert pages(plan) == {(0, 0, 1): 20, (0, 1, 0): 60}


def test_the_weight_decides_who_gives_way() -> None:
    table = candidates([*rows(0, 80, 0, 20.0), *rows(1, 60, 1, 15.0)])
    situation = Situation(table, A_AND_B, [room(0, 0), room(1, 1000)])
    assert pages(fit(situation)) == {}
    heavier = fit(replace(situation, limits={"/b": GroupLimits(weight=4.0)}))
    assert pages(heavier) == {(0, 0, 1): 60, (1, 1, 0): 60}


def test_the_weight_decides_whose_page_goes() -> None:
    table = candidates([*rows(0, 40, 0, 2.0), *rows(1, 40, 0, 1.0), *rows(1, 40, 1, 1000.0, vpn=3000)])
    situation = Situation(table, A_AND_B, [room(0, 0), room(1, 1000)])
    assert (1, 0, 1) in pages(fit(situation))
    assert (0, 0, 1) in pages(fit(replace(situation, limits={"/b": GroupLimits(weight=16.0)})))


def test_a_small_weight_leaves_no_room_unused() -> None:
    situation = Situation(
        candidates(rows(1, 40, 1, 4.0)),
        A_AND_B,
        [room(0, 500), room(1, 1000)],
        limits={"/b": GroupLimits(weight=0.25)},
    )
    assert pages(fit(situation)) == {(1, 1, 0): 40}


def test_a_rate_is_for_what_goes_and_what_comes_together() -> None:
    table = candidates([*rows(0, 80, 0, 0.01), *rows(0, 60, 1, 1000.0, vpn=2000)])
    rate = {"/a": GroupLimits(rate_bytes=30 * PAGE)}
    plan = fit(Situation(table, {0: facts(cgroup="/a")}, [room(0, 0), room(1, 1000)], limits=rate))
    assert pages(plan) == {(0, 0, 1): 15, (0, 1, 0): 15}


@pytest.mark.parametrize(("free_pages", "swapped"), [(1200, 60), (999, 60), (400, 60), (30, 20), (10, 0)])
def test_pages_change_places_within_the_headroom_of_the_slow_node(free_pages: int, swapped: int) -> None:
    """But its high watermark, 10 pages, is kept."""
    table = candidates([*rows(0, 80, 0, 0.01), *rows(0, 60, 1, 1000.0, vpn=2000)])
    fast = room(0, 100, headroom_pages=100, watermark_bytes=5 * PAGE)
    slow = room(1, free_pages, headroom_pages=1000, watermark_bytes=10 * PAGE)
    plan = fit(Situation(table, {0: facts()}, [fast, slow]))
    assert pages(plan) == ({(0, 0, 1): swapped, (0, 1, 0): swapped} if swapped else {})


def test_a_fast_node_gives_nothing_back_while_another_has_room() -> None:
    table = candidates(rows(0, 200, 1, 1000.0))
    full = room(1, 20, tier=0, headroom_pages=50, watermark_bytes=5 * PAGE)
    roomy = room(0, 1000, tier=0, headroom_pages=50, watermark_bytes=5 * PAGE)
    slow = room(2, 5000, tier=1)
    anywhere = {0: facts(allowed=(0, 1, 2))}
    assert pages(fit(Situation(table, anywhere, [roomy, full, slow]))) == {}
    both_full = replace(roomy, free_bytes=full.free_bytes)
    assert pages(fit(Situation(table, anywhere, [both_full, full, slow]))) == {(0, 1, 2): 30}
