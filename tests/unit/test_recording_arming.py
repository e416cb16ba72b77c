# SPDX-License-Identifier: Apache-2.0
"""What ``--arm`` sets while it runs, beside other sessions and other people, and what it leaves behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hotpage.machine import tiering
from hotpage.machine.knobs import KnobSession
from hotpage.recording import arming
from hotpage.recording.arming import Arming
from hotpage.recording.budget import ArmingAccount, hint_fault_cost_s


class Kernel:
    """Three settings of a machine with tiers."""

    def __init__(self, directory: Path) -> None:
        self.balancing = directory / "numa_balancing"
        self.limit = directory / "promote_rate_limit"
        self.pace = directory / "debug/sched/numa_balancing/scan_period_max_ms"
        self.pace.parent.mkdir(parents=True)
        self.set("0")

    def set(self, mode: str) -> None:
        self.balancing.write_text(mode + "\n")
        self.limit.write_text("65536\n")
        self.pace.write_text("60000\n")

    @property
    def now(self) -> tuple[str, str, str]:
        return tuple(file.read_text().strip() for file in (self.balancing, self.limit, self.pace))  # type: ignore[return-value]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    found = Kernel(tmp_path)
    monkeypatch.setenv("HOTPAGE_STATE_DIR", str(tmp_path / "state"))
    for module in (arming, tiering):
        monkeypatch.setattr(module, "NUMA_BALANCING", found.balancing)
    monkeypatch.setattr(tiering, "PROMOTE_RATE_LIMIT", found.limit)
    monkeypatch.setattr(arming, "SCAN_PERIOD_MAX_MS", found.pace)
    monkeypatch.setattr(arming.ArmingTimes, "misread_for_s", lambda *_: 0.0)
    monkeypatch.setattr(arming, "MmHolder", lambda: SimpleNamespace(close=lambda: None))
    return found


@contextmanager
def session(tiers: int = 2) -> Iterator[tuple[Arming, Any]]:
    """One that arms, with an account that says what it is told to."""
    account: Any = SimpleNamespace(affordable=True, begin_scan=lambda: None, end_scan=lambda: None)
    topology: Any = SimpleNamespace(tiers=[()] * tiers)
    with KnobSession() as knobs:
        one = Arming(knobs, topology, account)
        one.start()
        try:
            yield one, account
        finally:
            one.close()


def test_the_switch_is_the_brake_where_balancing_is_off(kernel: Kernel) -> None:
    with session() as (one, account):
        assert kernel.now == ("3", "0", "2000") and one.is_arming
        account.affordable = False
        one.steer()
        assert kernel.now == ("0", "0", "2000") and not one.is_arming
    assert kernel.now == ("0", "65536", "60000")


def test_nothing_is_armed_between_tiers_while_arming_times_pass_for_cpus(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arming.ArmingTimes, "misread_for_s", lambda *_: 4.2)
    with session() as (one, _):
        assert kernel.now[0] == "0" and not one.is_arming
        paused = "arming pauses for 5 s: the kernel would take its times for CPUs, and migrate pages"
        assert one.pauses and one.notes == [paused]
        monkeypatch.setattr(arming.ArmingTimes, "misread_for_s", lambda *_: 1.0)
        one.steer()
        assert one.notes == [paused], "the same as long as it lasts"
        monkeypatch.setattr(arming.ArmingTimes, "misread_for_s", lambda *_: 0.0)
        one.steer()
        assert kernel.now[0] == "3" and not one.pauses and not one.notes
        monkeypatch.setattr(arming.ArmingTimes, "misread_for_s", lambda *_: 4.2)
        one.steer()
        assert kernel.now[0] == "0"
    with session(tiers=1):
        assert kernel.now[0] == "1", "nothing of the kind there"


def test_who_takes_the_switch_over_brakes_with_it(kernel: Kernel) -> None:
    first, second = session(), session()
    first.__enter__()
    one, account = second.__enter__()
    account.affordable = False
    one.steer()
    assert kernel.now[0] == "3" and one.is_arming, "by the other session"
    first.__exit__(None, None, None)
    assert kernel.now[0] == "3"
    one.steer()
    assert kernel.now[0] == "0" and not one.is_arming
    account.affordable = True
    one.steer()
    assert kernel.now[0] == "3" and one.is_arming
    second.__exit__(None, None, None)
    assert kernel.now == ("0", "65536", "60000")


@pytest.mark.parametrize("mode", ["1", "3"])
def test_the_pace_is_the_brake_where_the_kernel_arms_by_itself(kernel: Kernel, mode: str) -> None:
    kernel.set(mode)
    with session() as (one, account):
        assert kernel.now == (mode, "65536", "2000") and one.is_arming
        account.affordable = False
        one.steer()
        assert kernel.now == (mode, "65536", "60000") and one.is_arming
        account.affordable = True
        one.steer()
        assert kernel.now[2] == "2000"
    assert kernel.now == (mode, "65536", "60000")


def test_a_pace_that_another_session_has_set_is_taken_over(kernel: Kernel) -> None:
    kernel.set("1")
    first, second = session(), session()
    first.__enter__()
    one, account = second.__enter__()
    first.__exit__(None, None, None)
    assert kernel.now[2] == "2000"
    account.affordable = False
    one.steer()
    assert kernel.now[2] == "60000"
    second.__exit__(None, None, None)
    assert kernel.now == ("1", "65536", "60000")


@pytest.mark.parametrize("tiers", [1, 2])
def test_mode_2_becomes_one_that_arms_fast_memory_and_promotes_none(kernel: Kernel, tiers: int) -> None:
    kernel.set("2")
    with session(tiers) as (one, account):
        assert kernel.now == ("3", "0", "2000") and not one.notes
        account.affordable = False
        one.steer()
        assert kernel.now == ("3", "0", "60000")
        with session(tiers) as (other, _):
            assert kernel.now == ("3", "0", "60000") and not other.notes
    assert kernel.now == ("2", "65536", "60000")


def test_mode_3_stays_while_another_session_relies_on_it(kernel: Kernel) -> None:
    kernel.set("2")
    first, second = session(), session()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert kernel.now[:2] == ("3", "0")
    second.__exit__(None, None, None)
    assert kernel.now == ("2", "65536", "60000")


def test_mode_2_that_cannot_be_changed_is_told(kernel: Kernel) -> None:
    kernel.set("2")
    kernel.limit.unlink()
    with session() as (one, _):
        assert kernel.balancing.read_text() == "2\n"
        assert one.notes == [
            "kernel.numa_balancing stays 2, and arms slow memory only: fast memory is unknown"
        ]


def test_debugfs_that_is_not_mounted_is_told_as_doctor_does(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(arming, "SCAN_PERIOD_MAX_MS", tmp_path / "empty/sched/numa_balancing/pace")
    with session() as (one, _):
        assert f"(debugfs is not mounted: sudo mount -t debugfs none {tmp_path}/empty)" in one.notes[0]
        assert "budget" not in one.notes[0]
    monkeypatch.setattr(arming, "SCAN_PERIOD_MAX_MS", tmp_path / "debug/sched/numa_balancing/other")
    kernel.set("1")
    with session() as (one, _):
        assert "debugfs sched/numa_balancing is closed" in one.notes[0]
        assert one.notes[0].endswith("the budget does not bound what they cost")


def test_an_account_begins_a_scan_whenever_arming_begins(kernel: Kernel) -> None:
    account = ArmingAccount(2.0, 1e-6)
    begun: list[str] = []
    account.begin_scan = lambda: begun.append(kernel.now[0])  # type: ignore[method-assign]
    with KnobSession() as knobs:
        one = Arming(knobs, SimpleNamespace(tiers=((), ())), account)  # type: ignore[arg-type]
        one.start()
        one.steer()
        one.close()
    assert begun == ["0", "3"], "first the pace, which was not the kernel's from then on"


@pytest.mark.parametrize(("own_share", "is_released"), [(0.3, True), (0.7, True), (1.2, False)])
def test_a_braked_pace_is_released_once_the_budget_has_room_beside_the_kernels_own(
    kernel: Kernel, own_share: float, is_released: bool
) -> None:
    """The kernel's own pace costs ``own_share`` of the budget, and the set one four times the budget."""
    kernel.set("1")
    account, cost_s, cpu_s = ArmingAccount(2.0, 1e-6), 0.0, 0.0
    paces: list[str] = []
    with KnobSession() as knobs:
        one = Arming(knobs, SimpleNamespace(tiers=((),)), account)  # type: ignore[arg-type]
        one.start()
        for _ in range(200):
            cpu_s += 0.5
            cost_s += 0.02 * 0.5 * (4 if kernel.now[2] == "2000" else own_share)
            account.update(round(cost_s / hint_fault_cost_s(1e-6)), cpu_s)
            one.steer()
            paces.append(kernel.now[2])
        one.close()
    assert paces[0] == "60000" and ("2000" in paces) == is_released
    if is_released:
        assert account.cost_percent == pytest.approx(2.0, rel=0.2)
