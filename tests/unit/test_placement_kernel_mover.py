# SPDX-License-Identifier: Apache-2.0
"""The kernel mover against a kernel that moves pages of its own choice: what it did is read back."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from fakekernel import ABSENT, FakeKernel
from situations import facts
from test_placement_mover import PAGE, on, pages_by_result, whereabouts

from hotpage.errors import UnsupportedError
from hotpage.machine.tiering import TieringCounters
from hotpage.placement.movers import MoveProgress
from hotpage.placement.movers.kernel import KernelMover, steered
from hotpage.placement.outcome import Outcome, Result
from hotpage.placement.plan import Costs, Move, Plan

MIB_PAGES = 256


class FakeTiering:
    """Promotes ``hot`` in order, as many MiB a second as it may, and demotes ``old`` in order."""

    def __init__(self, kernel: FakeKernel, hot: list[int], old: list[int]) -> None:
        self.kernel, self.hot, self.old = kernel, hot, old
        self.count = TieringCounters(7, 9)
        self.said: list[object] = []
        self.rates: list[int] = []
        self.lacks = ""
        self.on_second: Callable[[], None] = lambda: None

    def require_promotion(self) -> None:
        if self.lacks == "promotion":
            raise UnsupportedError("no promotion")

    def require_demotion(self, node: int, cgroup: str) -> None:
        if self.lacks == "demotion":
            raise UnsupportedError("no demotion")

    def allow_promotion(self, hot_hz: float) -> tuple[str, ...]:
        self.said.append(("promote", hot_hz))
        return ()

    def limit_promotion(self, mib_per_s: int) -> None:
        self.rates.append(mib_per_s)

    def allow_demotion(self) -> None:
        self.said.append("demote")

    def demote(self, node: int, cgroup: str, size_bytes: int) -> bool:
        self.said.append((node, cgroup, size_bytes // PAGE))
        chosen = self.old[: min(size_bytes // PAGE, 100)]
        self.old = self.old[len(chosen) :]
        self.kernel.node.update(dict.fromkeys(chosen, 1))
        self.count = self.count._replace(demoted=self.count.demoted + len(chosen))
        return len(chosen) == size_bytes // PAGE

    def counters(self) -> TieringCounters:
        return self.count

    def sleep(self, seconds: float) -> None:
        self.kernel.sleep(seconds)
        self.on_second()
        chosen = self.hot[: int(seconds * MIB_PAGES * self.rates[-1])]
        self.hot = self.hot[len(chosen) :]
        self.kernel.node.update(dict.fromkeys(chosen, 0))
        self.count = self.count._replace(promoted=self.count.promoted + len(chosen))


def move_of(vpns: range, is_promotion: bool, gain_s: float = 1.0) -> Move:
    import numpy as np

    vpn = np.arange(vpns.start, vpns.stop, dtype=np.int64)
    source, target = (1, 0) if is_promotion else (0, 1)
    pages = np.ones(vpn.size, np.int32)
    return Move(0, source, target, is_promotion, "", vpn, pages, gain_s, 1e-3, 1.0)


def run(
    tiering: FakeTiering,
    *moves: Move,
    promotion_s: float = 20.0,
    should_stop: Callable[[], object] = lambda: None,
    on_progress: Callable[[MoveProgress], None] = lambda progress: None,
) -> Outcome:
    kernel = tiering.kernel
    mover = KernelMover(
        tiering,
        promotion_s,
        whereabouts(kernel),
        clock=kernel.clock,
        sleep=tiering.sleep,
    )
    return mover.run(Plan("test", moves, {}, hot_hz=50.0), {0: facts()}, should_stop, on_progress)


def test_it_demotes_first_and_stops_when_everything_is_there() -> None:
    kernel = FakeKernel({**on(1, *range(2000)), **on(0, *range(5000, 5300))})
    tiering = FakeTiering(kernel, list(range(2000)), list(range(5000, 5300)))
    seen: list[MoveProgress] = []
    up, down = move_of(range(2000), True), move_of(range(5000, 5300), False)
    outcome = run(tiering, down, up, on_progress=seen.append)
    assert pages_by_result(outcome) == {Result.MOVED: 2300}
    assert tiering.said == ["demote", (0, "/", 300), (0, "/", 200), (0, "/", 100), ("promote", 50.0)]
    assert kernel.now_s < 20, "it does not wait for nothing"
    assert tiering.rates[-1] == 0, "nothing is promoted beyond the plan"
    assert seen[-1] == MoveProgress(2300 * PAGE, 2300 * PAGE, 2300 * PAGE)
    assert "promoted 7.8 MiB and demoted 1.2 MiB meanwhile, of all processes" in outcome.notes[-1]


def test_pages_that_the_kernel_did_not_choose_are_left() -> None:
    node = {**on(1, *range(90)), **on(0, 90, 91), 92: ABSENT, 93: 2, **on(1, *range(900, 950))}
    tiering = FakeTiering(FakeKernel(node), [*range(60), *range(900, 950)], [])
    outcome = run(tiering, move_of(range(94), True))
    assert pages_by_result(outcome) == {
        Result.MOVED: 60,
        Result.LEFT: 30,
        Result.ALREADY: 2,
        Result.NOT_PRESENT: 1,
        Result.ELSEWHERE: 1,
    }
    assert tiering.kernel.now_s == 20, "it waits for the others while its time lasts"


def test_pages_that_the_kernel_puts_back_did_not_stay() -> None:
    """What it demotes for the plan, it may promote again while it promotes for the plan."""
    kernel = FakeKernel({**on(0, *range(50)), **on(1, *range(500, 600))})
    tiering = FakeTiering(kernel, [*range(500, 600), *range(20)], list(range(50)))
    outcome = run(tiering, move_of(range(50), False), move_of(range(500, 600), True))
    assert pages_by_result(outcome) == {Result.MOVED: 30 + 100, Result.LEFT: 20}


def test_no_more_is_demoted_than_the_plan_takes() -> None:
    """The kernel's oldest pages are others: those count, too."""
    tiering = FakeTiering(FakeKernel(on(0, *range(400))), [], list(range(100, 400)))
    outcome = run(tiering, move_of(range(150), False))
    assert pages_by_result(outcome) == {Result.MOVED: 50, Result.LEFT: 100}
    assert tiering.count.demoted == 9 + 150


def test_a_kernel_that_demotes_nothing_is_asked_three_times() -> None:
    tiering = FakeTiering(FakeKernel(on(0, *range(10))), [], [])
    assert pages_by_result(run(tiering, move_of(range(10), False))) == {Result.LEFT: 10}
    assert tiering.said == ["demote"] + 3 * [(0, "/", 10)]


def test_promotion_is_given_up_when_it_is_worth_nothing() -> None:
    """All that the kernel finds hot are pages that nobody asked for."""
    kernel = FakeKernel(on(1, *range(100000)))
    tiering = FakeTiering(kernel, list(range(50000, 100000)), [])
    outcome = run(tiering, move_of(range(20000), True))
    assert pages_by_result(outcome) == {Result.LEFT: 20000}
    assert tiering.rates == [8, 4, 2, 1, 0]
    assert tiering.count.promoted - 7 <= 2 * 8 * MIB_PAGES + 2 * MIB_PAGES
    assert outcome.notes[0] == "promotion was given up: the kernel promoted other pages than these"


def test_the_rate_follows_what_promotions_gain() -> None:
    costs = Costs(promotion_s=1e-5, margin=1.5)
    assert steered(4.0, 16.0, 0, 0.0, costs) == 4.0
    assert steered(4.0, 16.0, 100, 1.4e-3, costs) == 2.0
    assert steered(4.0, 16.0, 100, 1.6e-3, costs) == 8.0
    assert steered(12.0, 16.0, 100, 1.6e-3, costs) == 16.0


@pytest.mark.parametrize(("lacks", "is_promotion"), [("promotion", True), ("demotion", False)])
def test_what_the_kernel_lacks_is_said_before_anything_is_changed(lacks: str, is_promotion: bool) -> None:
    tiering = FakeTiering(FakeKernel(on(1, *range(10))), list(range(10)), [])
    tiering.lacks = lacks
    with pytest.raises(UnsupportedError, match=f"no {lacks}"):
        run(tiering, move_of(range(10), is_promotion))
    assert tiering.said == [] and tiering.rates == []


def test_what_is_stopped_before_it_began_is_untried() -> None:
    tiering = FakeTiering(FakeKernel(on(1, *range(10))), list(range(10)), [])
    outcome = run(tiering, move_of(range(10), True), should_stop=lambda: "interrupted")
    assert pages_by_result(outcome) == {Result.UNTRIED: 10}
    assert tiering.said == []


def test_a_process_that_ends_meanwhile() -> None:
    kernel = FakeKernel(on(1, *range(5000)))
    tiering = FakeTiering(kernel, list(range(5000)), [])

    def end_soon() -> None:
        kernel.gone = kernel.now_s >= 3

    tiering.on_second = end_soon
    result = pages_by_result(run(tiering, move_of(range(5000), True)))
    assert set(result) == {Result.MOVED, Result.GONE} and sum(result.values()) == 5000
    assert kernel.now_s == 3


def test_armed_pages_that_the_kernel_hides_are_not_lost() -> None:
    kernel = FakeKernel(on(1, *range(10)), armed=set(range(10)), hides_armed=True)
    tiering = FakeTiering(kernel, list(range(4)), [])
    tiering.on_second = lambda: kernel.armed.difference_update(range(6))
    outcome = run(tiering, replace(move_of(range(10), True)))
    assert pages_by_result(outcome) == {Result.MOVED: 4, Result.LEFT: 2, Result.ARMED: 4}
