# SPDX-License-Identifier: Apache-2.0
"""What the session may cost: the account of arming, the sampling of faults, time spent in faults."""

import errno
import math
import mmap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import process

from hotpage.errors import HotpageError
from hotpage.machine.hold import HoldEvent
from hotpage.machine.processes import Process
from hotpage.recording import arming, budget
from hotpage.recording.budget import ArmingAccount, SamplingControl, hint_fault_cost_s, measure_fault_cost_s
from hotpage.recording.stalls import RUNNING_FLOOR, StallClock


def test_the_first_scan_is_always_affordable() -> None:
    assert ArmingAccount(2.0, 1e-6).affordable


def test_the_next_scan_waits_until_it_is_earned() -> None:
    account = ArmingAccount(2.0, 1e-6)
    account.begin_scan()
    account.update(10_000, 0.2)
    scan_s = 10_000 * hint_fault_cost_s(1e-6)
    assert account.spent_s == pytest.approx(scan_s)
    assert account.cost_percent == pytest.approx(100 * scan_s / 0.2)
    assert not account.affordable
    account.update(10_000, 0.99 * 2 * scan_s / 0.02)
    assert not account.affordable, "one scan is paid, the next is not"
    account.update(10_000, 1.01 * 2 * scan_s / 0.02)
    assert account.affordable


def test_a_scan_costs_what_the_last_one_did() -> None:
    account = ArmingAccount(2.0, 1e-6)
    account.begin_scan()
    account.update(100_000, 100.0)
    account.begin_scan()
    account.update(101_000, 100.0)  # a small one
    assert account.affordable
    cheap_s = 1000 * hint_fault_cost_s(1e-6)
    account.update(101_000, (account.spent_s + 1.01 * cheap_s) / 0.02)
    assert account.affordable
    account.update(101_000, (account.spent_s + 0.99 * cheap_s) / 0.02)
    assert not account.affordable


def test_what_hotpage_takes_of_the_machine_is_charged() -> None:
    account = ArmingAccount(2.0, 1e-6)
    account.begin_scan()
    account.update(10_000, 100.0, own_share=0.0199)
    assert account.cost_percent == pytest.approx(1.99 + 100 * hint_fault_cost_s(1e-6) * 10_000 / 100)
    assert not account.affordable
    account.update(10_000, 100.0, own_share=0.001)
    assert account.affordable


@given(budget=st.floats(0.1, 50), faults_a_scan=st.integers(100, 100_000), cores=st.floats(0.1, 8))
def test_the_budget_holds_in_the_long_run(budget: float, faults_a_scan: int, cores: float) -> None:
    """A target that runs steadily, and scans that happen whenever the account allows one."""
    account, faults, cpu_s = ArmingAccount(budget, 1e-6), 0, 0.0
    for _ in range(2000):
        cpu_s += 0.5 * cores
        if account.affordable:
            account.begin_scan()
            faults += faults_a_scan
        account.update(faults, cpu_s)
    one_scan_s = faults_a_scan * hint_fault_cost_s(1e-6)
    assert account.spent_s <= max(budget / 100 * cpu_s, one_scan_s) * (1 + 1e-9)


def sampled(control: SamplingControl, cost: Callable[[int], float], updates: int = 60) -> int:
    """N after so many half seconds in which hotpage takes ``cost(N)`` seconds each."""
    for _ in range(updates):
        control.update(cost(control.one_in), 0.5)
    return control.one_in


def test_sampling_follows_the_load_both_ways() -> None:
    control = SamplingControl(2.0)
    assert control.one_in == 1
    assert sampled(control, lambda n: 0.08 / n) == 16, "the first step within 2 % of half a second"
    assert sampled(control, lambda n: 0.004) == 16, "within the budget: it stays"
    assert sampled(control, lambda n: 0.8 / n) == 256, "it was coarse when the load grew"
    assert sampled(control, lambda n: 0.0) == 1
    assert sampled(control, lambda n: 1000 / n) == SamplingControl.COARSEST


def test_sampling_stops_where_it_does_not_help() -> None:
    """Programs run for faults that are left out, too: that part of the cost stays."""
    control = SamplingControl(2.0)
    n = sampled(control, lambda n: 0.015 + 0.01 / n)
    assert 1 < n <= SamplingControl.STEP**3
    assert sampled(control, lambda n: 0.15 + 0.1 / n) > n, "the load grew"
    assert sampled(control, lambda n: 0.0001) == 1


def test_a_page_fault_costs_something_here() -> None:
    assert 1e-8 < measure_fault_cost_s() < 1e-3


def storm(start_s: float, faults: int, each_s: float) -> np.ndarray:
    return start_s + each_s * np.arange(1, faults + 1)


def test_the_thick_of_faults_is_spent_in_them() -> None:
    clock = StallClock(1e-6)
    times = storm(10.0, 50_000, 1e-6)
    clock.advance(times)
    served = clock.between(np.array([10.0]), times[-1:])[0]
    assert served == pytest.approx((1 - RUNNING_FLOOR) * 0.05, rel=0.02)


def test_rare_faults_leave_the_time_to_the_program() -> None:
    clock = StallClock(1e-6)
    times = storm(10.0, 1000, 5e-3)
    clock.advance(times)
    assert clock.between(np.array([10.0]), times[-1:])[0] < 0.01 * 5.0


@given(
    gaps=st.lists(st.floats(1e-7, 0.01), min_size=1, max_size=2000),
    cuts=st.lists(st.integers(1, 600), min_size=1, max_size=5),
    cost_s=st.floats(1e-7, 1e-4),
)
def test_the_clock_never_runs_backwards_nor_faster_than_time(
    gaps: list[float], cuts: list[int], cost_s: float
) -> None:
    clock, times, at, turn = StallClock(cost_s), 5 + np.cumsum(gaps), 0, 0
    while at < len(times):
        step = cuts[turn % len(cuts)]
        clock.advance(times[at : at + step])
        at, turn = at + step, turn + 1
    served = clock.between(np.full(len(times), times[0]), times)
    spent = np.diff(served)
    assert (spent >= -1e-12).all()
    assert (served <= (1 - RUNNING_FLOOR) * (times - times[0]) * (1 + 1e-9) + 1e-3 + 1e-9).all()


def test_a_long_session_is_remembered_in_bounded_memory() -> None:
    clock = StallClock(1e-6)
    for second in range(2000):
        clock.advance(storm(second, 3000, 1e-5))
    assert clock._time_s.nbytes + clock._served_s.nbytes < 1 << 20
    assert clock.between(np.array([1999.0]), np.array([1999.03]))[0] > 0


def test_a_kernel_without_huge_pages_has_page_faults_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pages(mmap.mmap):
        def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(budget.mmap, "mmap", Pages)
    assert measure_fault_cost_s() > 0


class Holder:
    """As MmHolder; ``told`` are the events of the next poll."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.told: list[HoldEvent] = []
        self.held: frozenset[int] = frozenset()
        self.is_dead = False

    def hold(self, process: Process) -> bool:
        if self.is_dead:
            raise HotpageError("the helper has died")
        if process.comm == "threads":
            return False
        self.asked.append(process.index)
        return True

    def poll(self) -> list[HoldEvent]:
        told, self.told = self.told, []
        return told

    def close(self) -> None:
        pass


@pytest.fixture
def holder(monkeypatch: pytest.MonkeyPatch) -> Holder:
    found = Holder()
    monkeypatch.setattr(arming, "balancing_mode", lambda: 1)
    monkeypatch.setattr(arming, "pending", list)
    monkeypatch.setattr(arming, "read_knob", lambda path: "1000")
    monkeypatch.setattr(arming, "MmHolder", lambda: found)
    monkeypatch.setattr(arming, "needs_hold", lambda process: process.comm != "threads")
    return found


def armed() -> arming.Arming:
    topology = SimpleNamespace(tiers=((0,),))
    return arming.Arming(SimpleNamespace(), topology, ArmingAccount(2.0, 1e-6))  # type: ignore[arg-type]


def test_processes_are_asked_for_once_and_forgotten_when_they_have_gone(holder: Holder) -> None:
    with closing(armed()) as session:
        for number in range(100):
            session.hold([process(0, "stays").process, process(1 + number, "short").process])
        assert holder.asked == [0, *range(1, 101)]
        assert session._asked_s.keys() == {0, 100}


def test_a_process_that_could_not_be_held_is_asked_for_again(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = process(3, "a").process
    monkeypatch.setattr(arming, "_ASK_AGAIN_S", math.inf)
    with closing(armed()) as session:
        session.hold([one])
        holder.told = [HoldEvent("failed", one.pid, "Too many open files")]
        session.hold([one])
        assert holder.asked == [3], "not at once"
        assert session.notes[-1].startswith("1 single-threaded")
        monkeypatch.setattr(arming, "_ASK_AGAIN_S", 0.0)
        holder.told = [HoldEvent("failed", one.pid, "Too many open files")]
        session.hold([one])
        assert holder.asked == [3, 3]
        assert session.notes[-1].startswith("1 single-threaded"), "it is one process all the same"
        holder.told = [HoldEvent("held", one.pid)]
        session.hold([one])
        assert holder.asked == [3, 3]
        assert not session.notes


def test_a_process_that_was_met_in_its_exec_is_asked_for_again(holder: Holder) -> None:
    one = process(3, "a").process
    with closing(armed()) as session:
        session.hold([one])
        holder.told = [HoldEvent("held", one.pid), HoldEvent("released", one.pid, "exec")]
        session.hold([one])
        assert holder.asked == [3, 3]


def test_beyond_the_limit_nobody_is_asked_for_and_that_is_said(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked and not answered counts, and what was answered meanwhile as well."""
    monkeypatch.setattr(arming, "MOST_HOLDS", 3)
    some = [process(number, "one").process for number in range(5)]
    threads = process(9, "threads").process
    with closing(armed()) as session:
        session.hold([*some[:2], threads])
        session.hold([threads, *some])
        assert holder.asked == [0, 1, 2]
        holder.told = [HoldEvent("held", one.pid) for one in some[:2]]
        holder.held = frozenset(one.pid for one in some[:2])
        session.hold([*some, threads])
        assert len(holder.asked) == 3
        assert "2 single-threaded processes could not be held" in session.notes[-1]
        monkeypatch.setattr(arming, "_ASK_AGAIN_S", 0.0)
        holder.told = [HoldEvent("released", some[0].pid, "exit")]
        holder.held = frozenset({some[1].pid})
        session.hold(some[1:])
        assert holder.asked == [0, 1, 2, 3], "one has made room"


def test_a_helper_that_died_is_started_again(holder: Holder) -> None:
    some = [process(number, "one").process for number in range(2)]
    with closing(armed()) as session:
        session.hold(some)
        holder.told = [HoldEvent("failed", some[0].pid, "Too many open files")]
        session.hold(some)
        holder.is_dead = True
        session.hold([*some, process(3, "one").process])
        assert session.notes == [
            "1 times single-threaded processes showed no hint faults for a while: the helper has died"
        ]
        holder.is_dead, holder.asked = False, []
        session.hold(some)
        assert holder.asked == [0, 1]
        holder.is_dead = True
        session.hold([*some, process(4, "one").process])
        holder.is_dead, holder.asked = False, []
        session.hold(some)
        assert holder.asked == [], "not again and again"


def test_the_kernel_does_not_promote_for_a_moment_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a session of knobs took last it puts back first."""
    taken: list[str] = []
    knobs = SimpleNamespace(
        knob=lambda path: taken.append(Path(path).name) or SimpleNamespace(set=lambda value: True),
        write=lambda path, value: True,
    )
    monkeypatch.setattr(arming, "balancing_mode", lambda: 0)
    monkeypatch.setattr(arming, "pending", list)
    monkeypatch.setattr(arming, "hold_promotion", lambda knobs: taken.append("promotion limit") or True)
    monkeypatch.setattr(arming, "read_knob", lambda path: "1000")
    monkeypatch.setattr(arming, "MmHolder", lambda: SimpleNamespace(close=lambda: None))
    account = ArmingAccount(2.0, 1e-6)
    with closing(arming.Arming(knobs, SimpleNamespace(tiers=((0,), (1,))), account)):  # type: ignore[arg-type]
        assert taken == ["promotion limit", "numa_balancing"]
