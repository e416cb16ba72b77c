# SPDX-License-Identifier: Apache-2.0
"""What every plan keeps to, whatever the policy; and what each policy is for."""

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from situations import PAGE, aims, candidates, facts, room, situations

from hotpage.errors import UsageError
from hotpage.placement.census import places
from hotpage.placement.history import BOUNCE_S, FIRST_WAIT_S, History, page_keys
from hotpage.placement.plan import ABSENT, Aim, Costs, Fate, Move, Plan, Situation
from hotpage.placement.policies import names, policy
from hotpage.placement.ranking import OCTAVE, UNKNOWN_KEY, hottest_that_fit, key_rate_hz, rank_keys

ANY = st.sampled_from(names())


def test_every_policy_is_found_by_its_file() -> None:
    assert names() == ["cold", "fit", "random", "threshold"]
    with pytest.raises(UsageError, match="choose from cold, fit, random, threshold"):
        policy("magic")


def rows_of(situation: Situation, move: Move) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The candidates that a move is about, found independently of how it was made."""
    keys = page_keys(situation.candidates.process, situation.candidates.vpn)
    mine = page_keys(np.full(move.vpn.size, move.process, np.int32), move.vpn)
    place = np.searchsorted(keys, mine)
    assert (keys[place] == mine).all()
    return place


@given(st.data(), situations(), ANY)
def test_a_plan_keeps_to_every_limit(data: st.DataObject, situation: Situation, name: str) -> None:
    aim = data.draw(aims(len(situation.nodes)))
    plan = policy(name)(situation, aim)
    table, nodes = situation.candidates, {room.node: room for room in situation.nodes}
    free = {node: room.free_bytes for node, room in nodes.items()}
    into: Counter[int] = Counter()
    of_group: Counter[str] = Counter()
    fast_of_group: Counter[str] = Counter()
    fast = places(situation.nodes, aim).fast
    for row in range(len(table)):
        if table.node[row] in fast:
            fast_of_group[situation.processes[int(table.process[row])].cgroup] += int(table.pages[row]) * PAGE
    before = Counter(fast_of_group)
    room_has_to_be_made = bool(aim.free_bytes) or any(
        nodes[node].free_bytes < max(nodes[node].headroom_bytes, nodes[node].watermark_bytes) for node in fast
    )
    seen: set[int] = set()
    demotions_are_over = False
    for move in plan.moves:
        rows = rows_of(situation, move)
        assert not seen & set(rows.tolist()), "a page moves once"
        seen |= set(rows.tolist())
        demotions_are_over |= move.is_promotion
        assert move.is_promotion == demotions_are_over, "demotions come first"
        assert (table.node[rows] == move.source).all()
        assert move.source != move.target and move.source in nodes
        assert (table.pages[rows] == move.pages).all()
        assert not np.isnan(table.rate_hz[rows]).any(), "what nobody observed stays"
        assert not nodes[move.source].is_device or move.source in (aim.promote_to or set()), "unless named"
        if nodes[move.target].is_device:
            assert move.target in (aim.promote_to or set()) | (aim.demote_to or set())
        process = situation.processes[move.process]
        assert move.target in process.allowed_nodes
        free[move.target] -= move.size_bytes
        free[move.source] += move.size_bytes
        target = nodes[move.target]
        if move.is_promotion:
            least = min(target.headroom_bytes, max(target.free_bytes, target.watermark_bytes))
            assert free[move.target] >= least, "what is free of the headroom stays free, and the watermark"
        else:  # pages that leave it in exchange are worth headroom
            assert free[move.target] >= min(target.headroom_bytes, target.watermark_bytes)
        into[move.target] += move.size_bytes
        of_group[process.cgroup] += move.size_bytes
        if move.is_promotion:
            fast_of_group[process.cgroup] += move.size_bytes
        elif move.source in fast:
            fast_of_group[process.cgroup] -= move.size_bytes
        keys = page_keys(table.process[rows], table.vpn[rows])
        if situation.history.moved_lately(keys, situation.now_s).any():
            assert room_has_to_be_made and move.source in fast and not move.is_promotion
        assert not situation.history.is_waiting(keys, situation.now_s).any()
    for node, count in into.items():
        assert count <= nodes[node].rate_bytes
    for group, limits in situation.limits.items():
        assert of_group[group] <= limits.rate_bytes
        assert fast_of_group[group] <= max(limits.ceiling_bytes, before[group])
        assert fast_of_group[group] >= min(limits.floor_bytes, before[group])
    promoted = sum(move.size_bytes for move in plan.moves if move.is_promotion)
    assert promoted <= aim.most_bytes
    assert name != "cold" or plan.moved_bytes <= aim.most_bytes
    total = int(table.pages.sum()) * PAGE
    assert plan.moved_bytes + sum(plan.kept_bytes.values()) == total, "everything has a fate"


@given(st.data(), situations(), ANY)
def test_same_input_same_plan(data: st.DataObject, situation: Situation, name: str) -> None:
    aim = data.draw(aims(len(situation.nodes)))
    first, second = policy(name)(situation, aim), policy(name)(situation, aim)
    assert first.kept_bytes == second.kept_bytes
    assert len(first.moves) == len(second.moves)
    for one, other in zip(first.moves, second.moves, strict=True):
        for field in fields(Move):
            assert np.array_equal(getattr(one, field.name), getattr(other, field.name))


@given(situations(), st.sampled_from(["fit", "threshold", "cold"]), st.booleans())
def test_nothing_is_demoted_while_something_colder_could_be(
    situation: Situation, name: str, promote: bool
) -> None:
    """Among pages that nothing tells apart but their rate."""
    alike = {index: facts(100 + index) for index in situation.processes}
    nodes = [room(0, situation.nodes[0].free_bytes // PAGE, headroom_pages=3), room(1, 20)]
    table = candidates(
        [
            (int(process), int(vpn), 1, int(node) % 2, float(rate))
            for process, vpn, node, rate in zip(
                situation.candidates.process,
                situation.candidates.vpn,
                situation.candidates.node,
                situation.candidates.rate_hz,
                strict=True,
            )
        ]
    )
    plain = Situation(table, alike, nodes)
    plan = policy(name)(plain, Aim(promote=promote, free_bytes={0: 10.0 * PAGE}))
    moved = {int(row) for move in plan.moves for row in rows_of(plain, move) if not move.is_promotion}
    key = rank_keys(table.rate_hz)
    stays = [int(key[r]) for r in range(len(table)) if table.node[r] == 0 and r not in moved]
    hottest_moved = max((int(key[row]) for row in moved), default=-1)
    assert all(hottest_moved <= other for other in stays if other < UNKNOWN_KEY)


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1), st.integers(0, 200))
def test_the_threshold_fits_the_capacity(rates: list[float], capacity: int) -> None:
    key = rank_keys(np.array(rates, np.float32))
    by_key = np.bincount(key, minlength=1 << 16).astype(np.float64)
    hot = hottest_that_fit(by_key, capacity)
    assert (key > hot).sum() <= capacity
    if capacity:
        assert (key >= hot).sum() >= min(capacity, key.size)


def test_keys_ascend_with_rates() -> None:
    rates = np.array([0.0, 1e-9, 0.5, 1.0, 1.009, 2.0, 1e9, np.inf, np.nan, -np.nan], np.float32)
    key = rank_keys(rates).astype(int)
    assert (np.diff(key[:8]) > 0).all()
    assert key[5] - key[3] == OCTAVE
    assert (key[8:] >= UNKNOWN_KEY).all()
    assert key_rate_hz(int(key[3])) == 1.0


def two_nodes(free_fast: int, *rows: tuple[int, int, int, int, float], **more: object) -> Situation:
    situation = Situation(candidates(rows), {0: facts()}, [room(0, free_fast), room(1, 100)])
    return replace(situation, **more)


def moved(plan: Plan) -> list[tuple[int, int, list[int]]]:
    return [(move.source, move.target, move.vpn.tolist()) for move in plan.moves]


def test_fit_swaps_one_for_one_and_demotes_first() -> None:
    rows = [(0, vpn, 1, 0, 0.01 * vpn) for vpn in range(1, 5)] + [(0, 10, 1, 1, 500.0), (0, 11, 1, 1, 900.0)]
    plan = policy("fit")(two_nodes(0, *rows), Aim())
    assert moved(plan) == [(0, 1, [1, 2]), (1, 0, [10, 11])]
    assert plan.kept_bytes == {Fate.HOT_IN_PLACE: 2 * PAGE}
    down, up = plan.moves
    assert up.gain_s == pytest.approx(1400 * 100e-9 * 60)
    assert (up.cost_s, down.cost_s) == (pytest.approx(1e-5), pytest.approx(1e-5))


def test_fit_uses_free_room_before_it_swaps() -> None:
    plan = policy("fit")(two_nodes(1, (0, 1, 1, 0, 0.01), (0, 2, 1, 1, 500.0), (0, 3, 1, 1, 400.0)), Aim())
    assert moved(plan) == [(0, 1, [1]), (1, 0, [2, 3])]
    plan = policy("fit")(two_nodes(2, (0, 1, 1, 0, 0.01), (0, 2, 1, 1, 500.0), (0, 3, 1, 1, 400.0)), Aim())
    assert moved(plan) == [(1, 0, [2, 3])]


def test_fit_stops_where_a_swap_no_longer_pays() -> None:
    """100 ns x 60 s x rate > 1.5 x 10 us: from 2.5 accesses/s on a swap pays, from 1.25 a promotion."""
    rows = [(0, 1, 1, 0, 0.001), (0, 2, 1, 0, 0.001), (0, 10, 1, 1, 2.6), (0, 11, 1, 1, 2.4)]
    plan = policy("fit")(two_nodes(0, *rows), Aim())
    assert moved(plan) == [(0, 1, [1]), (1, 0, [10])]
    assert plan.kept_bytes[Fate.NOT_WORTH_IT] == PAGE
    plan = policy("fit")(two_nodes(9, (0, 1, 1, 1, 1.3), (0, 2, 1, 1, 1.2)), Aim())
    assert moved(plan) == [(1, 0, [1])]


def test_fit_leaves_warm_pages_alone() -> None:
    plan = policy("fit")(two_nodes(0, (0, 1, 1, 0, 60.0), (0, 2, 1, 1, 100.0)), Aim())
    assert moved(plan) == []
    assert plan.kept_bytes == {Fate.WARM: PAGE, Fate.ROOM: PAGE}


def test_fit_drives_nothing_out_for_an_uncertain_page() -> None:
    rows = [(0, 1, 1, 0, 0.01), (0, 2, 1, 1, 100.0)]
    situation = two_nodes(0, *rows)
    unsure = replace(situation.candidates, relative_error=np.array([0.1, 9.0], np.float32))
    plan = policy("fit")(replace(situation, candidates=unsure), Aim())
    assert moved(plan) == [] and plan.kept_bytes[Fate.UNCERTAIN] == PAGE
    plan = policy("fit")(replace(situation, candidates=unsure, nodes=[room(0, 1), room(1, 9)]), Aim())
    assert moved(plan) == [(1, 0, [2])], "free room costs nobody anything"


def test_where_only_errors_spread_the_rates_nothing_changes_places() -> None:
    """Of many pages with one rate some seem far hotter than others, and surely so."""
    seen, random = 4, np.random.default_rng(3)
    rates = (100.0 * seen / random.gamma(seen, size=2000)).astype(np.float32)
    rows = [(0, vpn, 1, vpn % 2, rate) for vpn, rate in enumerate(rates.tolist())]
    error = np.full(2000, (seen + 0.5) ** -0.5, np.float32)
    situation = two_nodes(0, *rows, nodes=[room(0, 0), room(1, 2000)])
    alike = replace(situation.candidates, relative_error=error)
    assert moved(policy("fit")(replace(situation, candidates=alike), Aim())) == []
    hotter = alike.rate_hz * np.where(alike.vpn % 3, np.float32(1), np.float32(100))
    apart = replace(alike, rate_hz=hotter, rate_short_hz=hotter)
    went_up = policy("fit")(replace(situation, candidates=apart), Aim()).moves[1].vpn
    assert set(range(3, 2000, 6)) <= set(went_up.tolist()), "the slow ones of those that are hotter"


def test_fit_waits_for_a_second_look_where_others_follow() -> None:
    rows = [(0, 1, 1, 0, 40.0), (0, 2, 1, 1, 100.0), (0, 3, 1, 1, 1000.0)]
    situation = two_nodes(1, *rows, (0, 4, 1, 1, 50.0))
    lone = replace(situation.candidates, relative_error=np.full(4, 0.81, np.float32))
    assert moved(policy("fit")(replace(situation, candidates=lone), Aim())) == [(1, 0, [3])]
    often = replace(situation, processes={0: facts()})
    situation = replace(situation, processes={0: replace(facts(), will_be_surer=True)})
    plan = policy("fit")(replace(situation, candidates=lone), Aim(can_wait=True))
    assert moved(plan) == [(1, 0, [3])], "sure enough"
    rows[2] = (0, 3, 1, 1, 200.0)
    less = replace(lone, rate_hz=candidates([*rows, (0, 4, 1, 1, 50.0)]).rate_hz)
    plan = policy("fit")(replace(situation, candidates=less), Aim(can_wait=True))
    assert moved(plan) == [] and plan.kept_bytes[Fate.UNCERTAIN] == 2 * PAGE
    plan = policy("fit")(replace(often, candidates=less), Aim(can_wait=True))
    assert moved(plan) == [(1, 0, [3])], "it will not be surer"
    twice = replace(less, relative_error=np.full(4, 0.6, np.float32))
    assert moved(policy("fit")(replace(situation, candidates=twice), Aim(can_wait=True))) == [(1, 0, [3])]


def test_fit_does_not_follow_a_page_that_cools_down() -> None:
    situation = two_nodes(1, (0, 1, 1, 1, 100.0), (0, 2, 1, 1, 60.0))
    cooling = replace(situation.candidates, rate_short_hz=np.array([40.0, 60.0], np.float32))
    plan = policy("fit")(replace(situation, candidates=cooling), Aim())
    assert plan.kept_bytes[Fate.COOLING] == PAGE and moved(plan) == []
    cold = replace(situation.candidates, rate_short_hz=np.array([1.0, 0.5], np.float32))
    plan = policy("fit")(replace(situation, candidates=cold), Aim())
    assert plan.kept_bytes[Fate.COOLING] == PAGE, "nothing is worth a move any more"


def test_fit_finds_what_cools_down_among_many_pages_without_a_rate() -> None:
    """So many that it looks at a sample."""
    rows = [(0, vpn, 1, 1, float("nan")) for vpn in range(1 << 18)]
    rows[1], rows[3] = (0, 1, 1, 1, 100.0), (0, 3, 1, 1, 60.0)
    situation = two_nodes(1, *rows)
    short_hz = situation.candidates.rate_hz.copy()
    short_hz[1] = 40.0
    plan = policy("fit")(replace(situation, candidates=candidates(rows, rate_short_hz=short_hz)), Aim())
    assert plan.kept_bytes[Fate.COOLING] == PAGE and moved(plan) == []


def test_fit_is_not_misled_by_a_process_that_stood_still() -> None:
    """Half a second without an access lengthens all latencies alike, which are shortest for the hottest."""
    long_hz = 1000.0 / np.arange(1, 41)
    situation = two_nodes(10, *((0, vpn, 1, 1, rate) for vpn, rate in enumerate(long_hz.tolist())))
    stood_still = replace(situation.candidates, rate_short_hz=(1 / (1 / long_hz + 0.5)).astype(np.float32))
    plan = policy("fit")(replace(situation, candidates=stood_still), Aim())
    assert moved(plan) == [(1, 0, list(range(10)))]


def test_fit_restores_the_headroom() -> None:
    rows = [(0, vpn, 1, 0, 0.01 * vpn) for vpn in range(1, 9)] + [(0, 20, 2, 0, 900.0)]
    situation = Situation(candidates(rows), {0: facts()}, [room(0, 1, headroom_pages=4), room(1, 100)])
    assert moved(policy("fit")(situation, Aim())) == [(0, 1, [1, 2, 3])]


def test_a_huge_page_is_judged_by_its_rate_per_byte_and_moves_whole() -> None:
    rows = [(0, 512, 512, 0, 0.01), (0, 2048, 512, 1, 50.0), (0, 4096, 1, 1, 20.0)]
    situation = Situation(candidates(rows), {0: facts()}, [room(0, 0), room(1, 600)])
    plan = policy("fit")(situation, Aim())
    assert moved(plan) == [(0, 1, [512]), (1, 0, [2048])]
    assert plan.moves[0].size_bytes == 2 << 20


def test_latencies_of_the_firmware_decide_where_they_are_known() -> None:
    row = (0, 1, 1, 1, 2.0)
    near = [room(0, 9, read_latency_ns=100), room(1, 9, read_latency_ns=120)]
    far = [room(0, 9, read_latency_ns=100), room(1, 9, read_latency_ns=400)]
    assert moved(policy("fit")(two_nodes(9, row, nodes=near), Aim())) == []
    assert moved(policy("fit")(two_nodes(9, row, nodes=far), Aim())) == [(1, 0, [1])]
    slower = [room(0, 9, read_latency_ns=400), room(1, 9, read_latency_ns=100)]
    plan = policy("fit")(two_nodes(9, (0, 1, 1, 1, 1e6), nodes=slower), Aim())
    assert plan.kept_bytes == {Fate.NOT_WORTH_IT: PAGE}, "loaded latencies may cross: then nothing is gained"


def test_costs_are_those_measured() -> None:
    situation = two_nodes(9, (0, 1, 1, 1, 100.0), costs=Costs(promotion_s=1.0))
    assert policy("fit")(situation, Aim()).kept_bytes == {Fate.NOT_WORTH_IT: PAGE}


def test_young_pages_are_not_demoted() -> None:
    rows = [(0, 1, 1, 0, 0.01), (1, 1, 1, 0, 0.02), (1, 2, 1, 1, 900.0)]
    situation = Situation(
        candidates(rows), {0: facts(age_s=5.0), 1: facts(age_s=50.0)}, [room(0, 0), room(1, 9)]
    )
    plan = policy("fit")(situation, Aim())
    assert [(move.process, move.vpn.tolist()) for move in plan.moves] == [(1, [1]), (1, [2])]
    assert plan.kept_bytes == {Fate.YOUNG: PAGE}


def test_demotion_goes_to_the_nearest_node_with_room() -> None:
    rows = [(0, vpn, 1, 0, 0.01) for vpn in range(6)] + [(0, 10, 4, 1, 900.0)]
    nodes = [room(0, 0, tier=0), room(1, 3, tier=1), room(2, 50, tier=1)]
    plan = policy("fit")(Situation(candidates(rows), {0: facts(allowed=(0, 1, 2))}, nodes), Aim())
    assert moved(plan) == [(0, 1, [0, 1, 2]), (0, 2, [3]), (1, 0, [10])]


def test_memory_of_devices_is_left_alone_unless_named() -> None:
    nodes = [room(0, 0), room(1, 50, is_device=True), room(2, 50)]
    rows = [(0, 1, 1, 0, 0.01), (0, 2, 1, 1, 900.0)]
    situation = Situation(candidates(rows), {0: facts(allowed=(0, 1, 2))}, nodes)
    plan = policy("cold")(situation, Aim(hot_rate_hz=1.0))
    assert moved(plan) == [(0, 2, [1])] and plan.kept_bytes == {Fate.LEFT_ALONE: PAGE}
    named = policy("cold")(situation, Aim(hot_rate_hz=1.0, demote_to=frozenset({1})))
    assert moved(named) == [(0, 1, [1])]


def test_cold_frees_what_is_asked_for_on_any_node() -> None:
    rows = [(0, vpn, 1, 1, float(10 - vpn)) for vpn in range(8)]
    nodes = [room(0, 50, tier=0), room(1, 2, tier=1), room(2, 50, tier=1), room(3, 50, tier=2)]
    situation = Situation(candidates(rows), {0: facts(allowed=(0, 1, 2, 3))}, nodes)
    plan = policy("cold")(situation, Aim(free_bytes={1: 5.0 * PAGE}))
    assert moved(plan) == [(1, 2, [5, 6, 7])], "never to a faster tier, and the coldest first"
    plan = policy("cold")(situation, Aim(free_bytes={1: 5.0 * PAGE, 2: 1.0 * PAGE}))
    assert moved(plan) == [(1, 3, [5, 6, 7])], "not to a node that is short itself"
    assert moved(policy("cold")(situation, Aim(free_bytes={1: 1.0 * PAGE}))) == []


def test_threshold_moves_by_rates_alone() -> None:
    rows = [(0, 1, 1, 0, 4.0), (0, 2, 1, 0, 6.0), (0, 3, 1, 1, 11.0), (0, 4, 1, 1, 9.0)]
    plan = policy("threshold")(two_nodes(9, *rows), Aim(hot_rate_hz=10.0))
    assert moved(plan) == [(0, 1, [1]), (1, 0, [3])]
    plan = policy("threshold")(two_nodes(9, *rows), Aim(hot_rate_hz=10.0, promote=False))
    assert moved(plan) == [(0, 1, [1])]
    plan = policy("threshold")(two_nodes(0, *rows), Aim(hot_rate_hz=10.0, demote=False))
    assert moved(plan) == [(0, 1, [1]), (1, 0, [3])], "a swap, for there is no room"
    plan = policy("threshold")(two_nodes(9, *rows), Aim(hot_rate_hz=10.0, demote=False))
    assert moved(plan) == [(1, 0, [3])]


@pytest.mark.parametrize("name", ["cold", "threshold"])
def test_a_limit_holds_for_what_is_demoted_for_its_own_sake(name: str) -> None:
    rows = [(0, vpn, 1, vpn % 2, float(vpn)) for vpn in range(1, 9)] + [(0, 10, 4, 2, 900.0)]
    nodes = [room(0, 0, tier=0), room(1, 0, tier=0), room(2, 99, tier=1)]
    situation = Situation(candidates(rows), {0: facts(allowed=(0, 1, 2))}, nodes)
    plan = policy(name)(situation, Aim(promote=False, hot_rate_hz=100.0, most_bytes=3.0 * PAGE))
    assert moved(plan) == [(0, 2, [2]), (1, 2, [1, 3])], "the coldest of all nodes"
    assert plan.kept_bytes == {Fate.NOT_CHOSEN: 9 * PAGE}, "the hot ones besides"


def test_a_limit_holds_for_what_is_demoted_under_pressure() -> None:
    rows = [(0, vpn, 1 if vpn < 7 else 4, vpn % 2, float(vpn)) for vpn in range(9)]
    nodes = [room(0, 0, tier=0), room(1, 0, tier=0), room(2, 99, tier=1)]
    situation = Situation(candidates(rows), {0: facts(allowed=(0, 1, 2))}, nodes)
    aim = Aim(promote=False, free_bytes={0: 2.0 * PAGE, 1: 9.0 * PAGE}, most_bytes=6.0 * PAGE)
    plan = policy("cold")(situation, aim)
    assert moved(plan) == [(0, 2, [0, 2]), (1, 2, [1, 3, 5])], "a folio of four would be beyond it"


def test_threshold_by_size_takes_the_hottest_bytes() -> None:
    rows = [(0, vpn, 1, 1, float(vpn)) for vpn in range(1, 11)]
    plan = policy("threshold")(two_nodes(99, *rows), Aim(hot_bytes=3.0 * PAGE))
    assert moved(plan) == [(1, 0, [8, 9, 10])]


def test_random_moves_as_many_bytes_as_allowed_by_lot() -> None:
    rows = [(0, vpn, 1, 0, 1.0) for vpn in range(50)] + [(0, vpn, 1, 1, 9.0) for vpn in range(100, 150)]
    situation = two_nodes(0, *rows)
    plans = [policy("random")(situation, Aim(most_bytes=10.0 * PAGE, seed=seed)) for seed in (1, 2)]
    for plan in plans:
        assert [move.size_bytes for move in plan.moves] == [10 * PAGE, 10 * PAGE]
    assert moved(plans[0]) != moved(plans[1])


def test_pages_elsewhere_are_counted_and_stay() -> None:
    rows = [(0, 1, 1, ABSENT, 900.0), (0, 2, 1, 7, 900.0), (0, 3, 1, 1, float("nan"))]
    plan = policy("fit")(two_nodes(9, *rows), Aim())
    assert plan.kept_bytes == {Fate.ABSENT: PAGE, Fate.LEFT_ALONE: PAGE, Fate.UNKNOWN: PAGE}
    assert plan.why_nothing().count(";") == 1


def test_no_pages_no_plan() -> None:
    for name in names():
        plan = policy(name)(two_nodes(9), Aim())
        assert plan.moves == () and plan.kept_bytes == {}
        assert plan.why_nothing() == "there are no pages to decide about"


def test_history_forgets_bounces_and_doubles_waits() -> None:
    def keys(*pages: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(pages, np.int64)

    history = History().noting(keys(1), keys(5), 0.0)
    assert history.moved_lately(keys(1, 2), BOUNCE_S - 1).tolist() == [True, False]
    assert not history.moved_lately(keys(1), BOUNCE_S + 1).any()
    assert history.is_waiting(keys(5, 1), FIRST_WAIT_S - 1).tolist() == [True, False]
    again = history.noting(keys(), keys(5), FIRST_WAIT_S + 1)
    assert again.is_waiting(keys(5), 3 * FIRST_WAIT_S).all(), "twice as long the second time"
    assert not again.is_waiting(keys(5), 3 * FIRST_WAIT_S + 2).any()
    settled = again.noting(keys(5), keys(), 4 * FIRST_WAIT_S)
    assert settled.failed.size == 0
    assert settled.moved.tolist() == [5], "the bounce of page 1 is long over"


def pressed(free: int, *rows: tuple[int, int, int, int, float], reserve: int = 10) -> Situation:
    """Two nodes; of the fast one 5 pages are its high watermark, and ``reserve`` more its headroom."""
    nodes = [room(0, free, headroom_pages=5 + reserve, watermark_bytes=5 * PAGE), room(1, 1000)]
    return Situation(candidates(rows), {0: facts()}, nodes)


def test_fit_swaps_where_others_have_used_the_headroom() -> None:
    """As long as the high watermark is kept, a swap needs no more room than it makes."""
    cold = [(0, vpn, 1, 0, 0.01) for vpn in range(8)]
    hot = [(0, vpn, 1, 1, 5.0 * vpn) for vpn in range(100, 120)]
    for free in (5, 9, 14, 15):
        plan = policy("fit")(pressed(free, *cold, *hot), Aim())
        assert moved(plan) == [(0, 1, list(range(8))), (1, 0, list(range(112, 120)))], free
    plan = policy("fit")(pressed(2, *cold, *hot), Aim())
    assert moved(plan) == [(0, 1, list(range(8))), (1, 0, list(range(115, 120)))], "the watermark comes first"


def test_others_cannot_drive_out_more_than_the_headroom_is_worth() -> None:
    hot = [(0, vpn, 1, 0, 500.0 + 9 * vpn) for vpn in range(8)]
    assert moved(policy("fit")(pressed(5, *hot), Aim())) == []
    more = [(0, vpn, 1, 0, 500.0 + 9 * vpn) for vpn in range(25)]
    assert moved(policy("fit")(pressed(11, *more), Aim())) == [(0, 1, [0, 1, 2, 3])], "all that is used"
    assert moved(policy("fit")(pressed(5, *more[:13]), Aim())) == [(0, 1, [0, 1, 2])]


def test_where_nothing_fits_that_is_the_reason() -> None:
    rows = [(0, 1, 1, 1, 500.0), (0, 2, 1, 1, 0.001)]
    plan = policy("fit")(pressed(15, *rows), Aim())
    assert plan.kept_bytes == {Fate.ROOM: PAGE, Fate.COLD_IN_PLACE: PAGE}
    assert moved(policy("fit")(pressed(16, *rows), Aim())) == [(1, 0, [1])]
