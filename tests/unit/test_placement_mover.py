# SPDX-License-Identifier: Apache-2.0
"""The move_pages mover against a kernel with all the traps: every requested page is accounted for."""

import errno
from collections import Counter
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from fakekernel import ABSENT, FakeKernel
from hypothesis import given
from hypothesis import strategies as st
from situations import facts

from hotpage.machine.numa import Watermarks
from hotpage.placement.budget import (
    BatchSize,
    BounceControl,
    TokenBucket,
    free_wanted,
    headroom_bytes,
    room_bytes,
)
from hotpage.placement.movers import MoveProgress
from hotpage.placement.movers.dry_run import DryRunMover
from hotpage.placement.movers.move_pages import MovePagesMover
from hotpage.placement.movers.whereabouts import Whereabouts
from hotpage.placement.outcome import FAILURES, Outcome, Result
from hotpage.placement.plan import Move, Plan

PAGE = 4096


class SameProcess:
    """A handle whose process lives until the fake kernel says that it is gone."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.pid = 100
        self._kernel = kernel

    def is_same(self) -> bool:
        return not self._kernel.gone

    def __enter__(self) -> "SameProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def whereabouts(kernel: FakeKernel) -> Whereabouts:
    return Whereabouts(
        kernel,
        kernel.hides_armed,
        kernel.is_present,
        lambda *_: None if kernel.gone else SameProcess(kernel),  # type: ignore[arg-type, return-value]
    )


def plan_of(vpns: list[int], pages: list[int] | None = None, source: int = 1, target: int = 0) -> Plan:
    sizes = np.array(pages or [1] * len(vpns), np.int32)
    move = Move(0, source, target, target < source, "", np.array(vpns, np.int64), sizes, 1.0, 1.0, 1.0)
    return Plan("test", (move,), {})


def run(kernel: FakeKernel, plan: Plan, **options: Any) -> Outcome:
    stop = options.pop("should_stop", lambda: None)
    progress = options.pop("on_progress", lambda progress: None)
    mover = MovePagesMover(
        whereabouts(kernel),
        around=nullcontext,
        clock=kernel.clock,
        sleep=kernel.sleep,
        **options,
    )
    return mover.run(plan, {0: facts()}, stop, progress)


def pages_by_result(outcome: Outcome) -> dict[Result, int]:
    return {kind: count // PAGE for kind, count in outcome.bytes_by_result().items()}


def on(node: int, *vpns: int) -> dict[int, int]:
    return dict.fromkeys(vpns, node)


def test_all_pages_move_in_one_call_after_one_question() -> None:
    kernel = FakeKernel(on(1, *range(100)))
    outcome = run(kernel, plan_of(list(range(100))))
    assert pages_by_result(outcome) == {Result.MOVED: 100}
    assert kernel.calls == [list(range(100))]
    assert outcome.moved_bytes == outcome.requested_bytes == 100 * PAGE


def test_pages_in_place_or_elsewhere_are_not_asked_for() -> None:
    kernel = FakeKernel({**on(1, *range(10)), **on(0, 10, 11), **on(2, 12), 13: ABSENT})
    outcome = run(kernel, plan_of(list(range(14))))
    assert pages_by_result(outcome) == {
        Result.MOVED: 10,
        Result.ALREADY: 2,
        Result.ELSEWHERE: 1,
        Result.NOT_PRESENT: 1,
    }
    assert kernel.calls == [list(range(10))]


def test_a_pinned_page_costs_only_itself() -> None:
    kernel = FakeKernel(on(1, *range(300)), pinned={7, 150})
    outcome = run(kernel, plan_of(list(range(300))))
    assert pages_by_result(outcome) == {Result.MOVED: 298, Result.PINNED: 2}
    assert [len(call) for call in kernel.calls] == [300, 2, 2], "what stays is tried alone, and not for ever"


def test_shared_pages_are_named() -> None:
    kernel = FakeKernel(on(1, *range(20)), shared={3, 4})
    assert pages_by_result(run(kernel, plan_of(list(range(20))))) == {Result.MOVED: 18, Result.SHARED: 2}


def test_a_full_node_is_said_so() -> None:
    kernel = FakeKernel(on(1, *range(20)), free_pages={0: 6, 1: 100})
    assert pages_by_result(run(kernel, plan_of(list(range(20))))) == {Result.MOVED: 6, Result.NO_ROOM: 14}


def test_a_node_is_not_filled_beyond_its_room() -> None:
    kernel = FakeKernel(on(1, *range(20)))
    outcome = run(
        kernel,
        plan_of(list(range(20))),
        room_bytes=lambda node, freed: (12 - sum(map(len, kernel.calls))) * PAGE,
    )
    assert pages_by_result(outcome) == {Result.MOVED: 12, Result.NO_ROOM: 8}


def test_what_a_plan_frees_is_room_for_the_same_plan() -> None:
    kernel = FakeKernel(on(0, *range(10)) | on(1, *range(20, 40)))
    down, up = plan_of(list(range(10)), source=0, target=1), plan_of(list(range(20, 40)))
    outcome = run(
        kernel, Plan("swaps", down.moves + up.moves, {}), room_bytes=lambda node, freed: freed or 1e6
    )
    assert pages_by_result(outcome) == {Result.MOVED: 20, Result.NO_ROOM: 10}


def test_a_forbidden_node_is_asked_for_once() -> None:
    kernel = FakeKernel(on(1, *range(5000)), allowed=frozenset({1}))
    assert pages_by_result(run(kernel, plan_of(list(range(5000))))) == {Result.FORBIDDEN: 5000}
    assert len(kernel.calls) == 1


def test_a_node_without_memory() -> None:
    kernel = FakeKernel(on(1, *range(5)), free_pages={1: 9})
    assert pages_by_result(run(kernel, plan_of(list(range(5))))) == {Result.NO_NODE: 5}


def test_a_process_that_has_gone_before() -> None:
    kernel = FakeKernel(on(1, *range(5)), gone=True)
    assert pages_by_result(run(kernel, plan_of(list(range(5))))) == {Result.GONE: 5}
    assert kernel.calls == [], "another process may have its pid"


@pytest.mark.parametrize("number", [errno.ESRCH, errno.EINVAL])
def test_a_process_that_ends_in_mid_call(number: int) -> None:
    kernel = FakeKernel(on(1, *range(3000)), errno_when_gone=number)

    def end(number: int) -> None:
        kernel.gone = number == 2

    kernel.on_call = end
    result = pages_by_result(run(kernel, plan_of(list(range(3000)))))
    assert result == {Result.MOVED: 1024, Result.GONE: 1976}


def test_a_busy_page_is_tried_again_later() -> None:
    kernel = FakeKernel(on(1, *range(10)), busy_for={4: 1, 5: 99})
    assert pages_by_result(run(kernel, plan_of(list(range(10))))) == {Result.MOVED: 9, Result.BUSY: 1}


def test_armed_pages_that_the_kernel_hides_are_no_missing_pages() -> None:
    kernel = FakeKernel({**on(1, *range(10)), 10: ABSENT}, armed={2, 3}, hides_armed=True)
    outcome = run(kernel, plan_of(list(range(11))))
    assert pages_by_result(outcome) == {Result.MOVED: 8, Result.ARMED: 2, Result.NOT_PRESENT: 1}


def test_a_dry_run_names_what_will_not_move() -> None:
    node = {**on(1, *range(10)), **on(0, 10), **on(2, 11), 12: ABSENT}
    kernel = FakeKernel(node, armed={2, 3}, hides_armed=True)
    dry = DryRunMover(whereabouts(kernel)).run(plan_of(list(range(13))), {0: facts()})
    assert pages_by_result(dry) == {
        Result.PLANNED: 8,
        Result.ARMED: 2,
        Result.ALREADY: 1,
        Result.ELSEWHERE: 1,
        Result.NOT_PRESENT: 1,
    }
    assert not kernel.calls


def test_a_page_that_is_accessed_meanwhile_can_move() -> None:
    kernel = FakeKernel(on(1, *range(10)), armed={2, 3}, hides_armed=True)
    sleep = kernel.sleep

    def access_meanwhile(seconds: float) -> None:
        sleep(seconds)
        kernel.armed.discard(2)

    kernel.sleep = access_meanwhile  # type: ignore[method-assign]
    assert pages_by_result(run(kernel, plan_of(list(range(10))))) == {Result.MOVED: 9, Result.ARMED: 1}


def test_a_huge_page_is_one_entry_and_512_results() -> None:
    kernel = FakeKernel(on(1, *range(512, 1536), 5), huge={512, 1024})
    outcome = run(kernel, plan_of([5, 512, 1024], [1, 512, 512]))
    assert pages_by_result(outcome) == {Result.MOVED: 1025}
    assert kernel.calls == [[5], [512, 1024]]


def test_a_huge_page_that_was_split_is_counted_by_its_pages() -> None:
    kernel = FakeKernel({**on(1, *range(512, 1024)), **on(0, *range(512, 600))})
    outcome = run(kernel, plan_of([512], [512]))
    assert pages_by_result(outcome) == {Result.ALREADY: 88, Result.ELSEWHERE: 424}


def test_what_is_stopped_is_said_to_be_untried() -> None:
    kernel = FakeKernel(on(1, *range(5000)))
    result = pages_by_result(
        run(kernel, plan_of(list(range(5000))), should_stop=lambda: len(kernel.calls) >= 2)
    )
    assert result[Result.MOVED] + result[Result.UNTRIED] == 5000
    assert 0 < result[Result.MOVED] < 5000


def test_calls_stay_short() -> None:
    kernel = FakeKernel(on(1, *range(20000)), seconds_per_page=1e-4)
    outcome = run(kernel, plan_of(list(range(20000))))
    assert outcome.moved_bytes == 20000 * PAGE
    assert max(len(call) for call in kernel.calls[1:]) <= 200, "20 ms at 100 us a page"


def test_rates_hold_over_the_time_of_calls_too() -> None:
    kernel = FakeKernel(on(1, *range(4000)), seconds_per_page=2e-5)
    bucket = TokenBucket(1000.0 * PAGE, kernel.clock)
    outcome = run(kernel, plan_of(list(range(4000))), rates={0: bucket})
    assert outcome.moved_bytes == 4000 * PAGE
    assert outcome.elapsed_s == pytest.approx(4.0, rel=0.1)


def test_the_slower_of_two_buckets_decides() -> None:
    kernel = FakeKernel(on(1, *range(400)))
    rates: dict[int | str, TokenBucket] = {
        0: TokenBucket(1e9, kernel.clock),
        "/": TokenBucket(100.0 * PAGE, kernel.clock),
    }
    outcome = run(kernel, plan_of(list(range(400))), rates=rates)
    assert outcome.elapsed_s == pytest.approx(4.0, rel=0.1)


def test_nothing_moves_at_a_rate_of_nothing() -> None:
    kernel = FakeKernel(on(1, *range(10)))
    outcome = run(
        kernel,
        plan_of(list(range(10))),
        rates={0: TokenBucket(0.0, kernel.clock)},
        should_stop=lambda: kernel.now_s > 5,
    )
    assert pages_by_result(outcome) == {Result.UNTRIED: 10}


def test_progress_ends_with_everything_settled() -> None:
    seen: list[MoveProgress] = []
    kernel = FakeKernel(on(1, *range(5000)), pinned={17})
    run(kernel, plan_of(list(range(5000))), on_progress=seen.append)
    assert [progress.settled_bytes for progress in seen] == sorted(p.settled_bytes for p in seen)
    assert seen[-1] == MoveProgress(5000 * PAGE, 5000 * PAGE, 4999 * PAGE)


@given(st.data())
def test_every_requested_page_is_accounted_for(data: st.DataObject) -> None:
    """Against the fake kernel's own page table, whatever is wrong with however many pages."""
    kinds = st.sampled_from(["plain"] * 6 + ["pinned", "shared", "armed", "busy", "absent", "there", "other"])
    wanted = data.draw(st.lists(kinds, min_size=1, max_size=60))
    huge_count = data.draw(st.integers(0, 2))
    node: dict[int, int] = {}
    kernel = FakeKernel(node)
    kernel.hides_armed = data.draw(st.booleans())
    kernel.free_pages = {0: data.draw(st.sampled_from([1e9, 600.0, 5.0])), 1: 1e9, 2: 1e9}
    kernel.allowed = data.draw(st.sampled_from([frozenset({0, 1, 2}), frozenset({1})]))
    for vpn, kind in enumerate(wanted):
        node[vpn] = {"absent": ABSENT, "there": 0, "other": 2}.get(kind, 1)
        if kind in ("pinned", "shared", "armed"):
            getattr(kernel, kind).add(vpn)
        if kind == "busy":
            kernel.busy_for[vpn] = data.draw(st.integers(1, 9))
    vpns, pages = list(range(len(wanted))), [1] * len(wanted)
    for number in range(huge_count):
        head = 1024 + 512 * number
        kernel.huge.add(head)
        node.update(on(1, *range(head, head + 512)))
        vpns.append(head)
        pages.append(512)
    ending = data.draw(st.integers(1, 6))

    def maybe_end(number: int) -> None:
        kernel.gone = number == ending

    if data.draw(st.booleans()):
        kernel.on_call = maybe_end
    before = dict(node)
    outcome = run(kernel, plan_of(vpns, pages))
    results = outcome.moves[0].results
    assert len(results) == sum(pages)
    counted = Counter(results.tolist())
    assert sum(counted.values()) == sum(pages)
    assert counted[Result.UNTRIED] == 0, "nobody asked to stop"
    every = [vpn + step for vpn, size in zip(vpns, pages, strict=True) for step in range(size)]
    for vpn, result in zip(every, results.tolist(), strict=True):
        if result == Result.MOVED:
            assert before[vpn] == 1 and node[vpn] == 0
        elif result == Result.ALREADY:
            assert before[vpn] == 0
        elif result != Result.GONE:
            assert result in FAILURES and node[vpn] == before[vpn]
        else:
            assert kernel.gone


def test_headroom_is_above_the_high_watermark() -> None:
    assert headroom_bytes(64 << 30, 100 << 20) == (100 << 20) + (1 << 30)
    assert headroom_bytes(10 << 30, 0) == int(0.02 * (10 << 30))
    assert headroom_bytes(1 << 30, 5 << 20) == (5 << 20) + (50 << 20)
    assert headroom_bytes(64 << 20, 0) == 8 << 20, "a small node is not all headroom"
    assert headroom_bytes(64 << 30, 100 << 20, 0.0) == 100 << 20


def test_a_node_near_its_watermark_is_to_get_room() -> None:
    calm = Watermarks(free=500, min=50, low=100, high=200)
    pressed = Watermarks(free=150, min=50, low=100, high=200)
    assert free_wanted({0: calm, 1: pressed}) == {1: 400}
    assert free_wanted({0: Watermarks(0, 0, 0, 0)}) == {}, "a node without memory"
    cached = Watermarks(free=150, min=50, low=100, high=200, cache=50)
    assert free_wanted({0: cached}) == {}, "reclaim takes idle page cache first"


def test_a_node_has_room_down_to_its_high_watermark(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = {0: Watermarks(free=500, min=50, low=100, high=200, cache=40), 1: Watermarks(150, 50, 100, 200)}
    marks[3] = Watermarks(150, 50, 100, 200, at_hand=70)
    monkeypatch.setattr("hotpage.placement.budget.read_watermarks", lambda: marks)
    assert [room_bytes(node) for node in (0, 1)] == [340, -50]
    assert [room_bytes(3, freed) for freed in (0, 15, 90)] == [0, 15, 20], "what was demoted to make room"
    assert room_bytes(2) == float("inf"), "nothing is known of it"


def test_a_bucket_holds_a_quarter_of_a_second() -> None:
    now_s = 0.0
    bucket = TokenBucket(1000.0, lambda: now_s)
    now_s = 100.0
    assert bucket.available == 250
    bucket.take(300)
    assert bucket.available == -50 and bucket.wait_s(100) == pytest.approx(0.15)
    now_s = 100.2
    assert bucket.wait_s(100) == 0
    assert TokenBucket(float("inf")).wait_s(1e12) == 0
    assert TokenBucket(0.0).wait_s(1) == float("inf")


def test_batches_shrink_at_once_and_grow_by_doubling() -> None:
    size = BatchSize()
    size.learn(1024, 0.2)
    assert size.folios == 92
    for _ in range(4):
        size.learn(size.folios, 1e-4)
    assert size.folios == 92 * 16
    size.learn(3, 1e-4)
    assert size.folios == 92 * 16, "a small call says nothing about large ones"
    size.learn(size.folios, 1.0)
    assert size.folios == 92 * 32, "that one was interrupted"
    size.learn(size.folios, 1.0)
    assert size.folios < 92
    for _ in range(20):
        size.learn(size.folios, 1.0)
    assert size.folios == 1


@pytest.mark.parametrize(("fixed_s", "settled"), [(0.001, 1700), (0.008, 1000), (0.05, 5000)])
def test_a_call_is_worth_its_fixed_cost(fixed_s: float, settled: int) -> None:
    """At 10 us a folio; a fixed cost beyond the wanted length must not shrink batches to nothing."""
    size = BatchSize(fixed_s)
    for _ in range(20):
        size.learn(size.folios, fixed_s + size.folios * 1e-5)
    assert size.folios == pytest.approx(settled, rel=0.01)


@pytest.mark.parametrize(("options", "largest"), [({}, 2048), ({"call_s": 0.2}, 8192)])
def test_a_call_ends_within_what_it_may_take(options: dict[str, float], largest: int) -> None:
    kernel = FakeKernel(on(1, *range(30_000)))
    outcome = run(kernel, plan_of(list(range(30_000))), **options)
    assert outcome.longest_call_s <= options.get("call_s", 0.02)
    assert max(map(len, kernel.calls)) > largest / 2


def test_bounces_slow_a_cgroup_down_and_stop_it() -> None:
    control = BounceControl()
    assert control.factor("/a", 0) == 1
    control.note("/a", 100, 20, 0.0)
    assert control.factor("/a", 0) == 0.5
    control.note("/a", 100, 40, 1.0)
    assert (control.factor("/a", 2), control.factor("/a", 62)) == (0, 0.25)
    control.note("/a", 100, 40, 62.0)
    assert (control.factor("/a", 181), control.factor("/a", 183)) == (0, 0.25), "twice as long"
    control.note("/a", 100, 0, 200.0)
    control.note("/a", 100, 0, 201.0)
    assert control.factor("/a", 201) == 1
    assert control.factor("/b", 2) == 1
