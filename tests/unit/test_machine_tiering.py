# SPDX-License-Identifier: Apache-2.0
"""The kernel's promotion and demotion on files made by hand: what is written, restored and refused."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hotpage.errors import HotpageError, KnobError, UnsupportedError
from hotpage.machine.knobs import KnobSession
from hotpage.machine.tiering import (
    ArmingTimes,
    KernelTiering,
    TieringCounters,
    arm_with,
    balancing_change,
    hold_promotion,
    slow_nodes,
    tier_changes,
    was_slow_only,
)
from hotpage.machine.topology import Topology

TWO_TIERS = Topology((), {"memory_tier4": (0,), "memory_tier90": (1,)}, True, 0, 65536, 0)
FILES = {
    "proc/sys/kernel/numa_balancing": "0",
    "proc/sys/kernel/numa_balancing_promote_rate_limit_MBps": "65536",
    "proc/vmstat": "pgpromote_success 3\npgpromote_candidate 4\npgdemote_kswapd 10\npgdemote_direct 2",
    "proc/swaps": "Filename Type Size Used Priority",
    "sys/kernel/mm/numa/demotion_enabled": "false",
    "sys/kernel/debug/sched/numa_balancing/hot_threshold_ms": "1000",
    "sys/devices/system/node/node0/reclaim": "",
    "cgroup/web/cgroup.procs": "",
    "cgroup/web/memory.reclaim": "",
}
BALANCING, RATE, _, _, DEMOTION, THRESHOLD, RECLAIM, _, GROUP_RECLAIM = FILES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n" if text else "")
    (tmp_path / "proc/mounts").write_text(f"none {tmp_path}/cgroup cgroup2 rw 0 0\n")
    return tmp_path


def tiering(root: Path, knobs: KnobSession, topology: Topology = TWO_TIERS) -> KernelTiering:
    return KernelTiering(knobs, topology, root / "sys", root / "proc")


def knobs_of(root: Path) -> list[str]:
    return [(root / name).read_text().strip() for name in (BALANCING, RATE, DEMOTION, THRESHOLD)]


def test_promotion_is_set_up_and_everything_put_back(root: Path) -> None:
    with KnobSession(root / "state") as knobs:
        mine = tiering(root, knobs)
        mine.require_promotion()
        assert mine.allow_promotion(50.0) == ()
        assert knobs_of(root) == ["2", "0", "1", "60"]
        mine.limit_promotion(12)
        assert knobs_of(root) == ["2", "12", "1", "60"]
    assert knobs_of(root) == ["0", "65536", "false", "1000"]


def test_promotion_needs_balancing_that_can_be_put_back(root: Path) -> None:
    (root / BALANCING).write_text("1\n")
    with KnobSession(root / "state") as knobs, pytest.raises(UnsupportedError, match="numa_balancing is 1"):
        tiering(root, knobs).require_promotion()
    assert knobs_of(root)[0] == "1"


@pytest.fixture
def own_knobs(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's settings are those below."""
    monkeypatch.setattr("hotpage.machine.tiering.NUMA_BALANCING", root / BALANCING)
    monkeypatch.setattr("hotpage.machine.tiering.PROMOTE_RATE_LIMIT", root / RATE)
    monkeypatch.setenv("HOTPAGE_STATE_DIR", str(root / "state"))
    return root


def test_pages_change_tiers_while_the_kernel_knows_of_tiers(own_knobs: Path) -> None:
    with tier_changes():
        assert knobs_of(own_knobs)[:2] == ["2", "0"]
        with balancing_change() as may:
            assert not may
    assert knobs_of(own_knobs)[:2] == ["0", "65536"]
    with balancing_change() as may:
        assert may


def test_when_only_slow_memory_was_armed_is_known(own_knobs: Path) -> None:
    before_ns = time.monotonic_ns()
    with tier_changes():
        assert was_slow_only(during_ns := time.monotonic_ns())
    after_ns = time.monotonic_ns()
    assert [was_slow_only(at_ns) for at_ns in (before_ns - 1, during_ns, after_ns + 1)] == [
        False,
        True,
        False,
    ]
    (own_knobs / BALANCING).write_text("3")
    with tier_changes():
        assert not was_slow_only(time.monotonic_ns())


@pytest.mark.parametrize(
    ("cpus", "tiers", "slow"),
    [
        ([(0,), (1,), ()], {}, {2}),
        ([(0,), (1,), ()], {"memory_tier4": (0, 1), "memory_tier90": (2,)}, {2}),
        ([(0,), (1,), ()], {"memory_tier4": (0,), "memory_tier5": (1,), "memory_tier90": (2,)}, {2}),
        ([(0,), (), ()], {"memory_tier2": (1,), "memory_tier4": (0, 2)}, set()),
        ([(), (), ()], {"memory_tier4": (0,), "memory_tier90": (1, 2)}, set()),
    ],
)
def test_slow_nodes_are_those_below_the_ones_with_cpus(
    cpus: list[tuple[int, ...]], tiers: dict[str, tuple[int, ...]], slow: set[int]
) -> None:
    nodes: Any = tuple(SimpleNamespace(id=node, cpus=some) for node, some in enumerate(cpus))
    assert slow_nodes(replace(TWO_TIERS, nodes=nodes, kernel_tiers=tiers)) == slow


@pytest.mark.parametrize("mode", ["1", "2", "3"])
def test_balancing_is_left_on_while_pages_change_tiers(own_knobs: Path, mode: str) -> None:
    (own_knobs / BALANCING).write_text(mode)
    with tier_changes():
        assert knobs_of(own_knobs)[0] == mode
    assert knobs_of(own_knobs)[:2] == [mode, "65536"]


def test_a_session_that_ends_meanwhile_leaves_balancing_to_the_moves(own_knobs: Path) -> None:
    session = KnobSession()
    session.write(own_knobs / BALANCING, 3)
    with tier_changes():
        session.close()
        assert knobs_of(own_knobs)[0] == "3"
    assert knobs_of(own_knobs)[0] == "0"


def test_the_switch_of_a_session_that_arms_is_used(own_knobs: Path) -> None:
    with KnobSession() as session:
        switch = session.knob(own_knobs / BALANCING)
        switch.set(3)
        switch.set(0)
        with pytest.raises(KnobError), tier_changes():
            pass
        arm_with(switch)
        try:
            with tier_changes():
                assert knobs_of(own_knobs)[0] == "2"
            assert knobs_of(own_knobs)[0] == "0"
        finally:
            arm_with(None)


def test_mode_1_cannot_be_held(own_knobs: Path) -> None:
    """The bit could not be taken back without harm."""
    (own_knobs / BALANCING).write_text("1")
    with KnobSession() as knobs:
        assert not hold_promotion(knobs)
        assert knobs_of(own_knobs)[:2] == ["1", "65536"]


def test_balancing_that_is_on_stays_on(root: Path) -> None:
    (root / BALANCING).write_text("1\n")
    with KnobSession(root / "state") as knobs:
        tiering(root, knobs).allow_promotion(float("nan"))
        assert knobs_of(root) == ["3", "0", "1", "1000"]


def test_a_threshold_out_of_reach_is_a_note(root: Path) -> None:
    (root / THRESHOLD).unlink()
    with KnobSession(root / "state") as knobs:
        (note,) = tiering(root, knobs).allow_promotion(50.0)
    assert note.startswith("hot_threshold_ms stays as it is: this kernel has no ")


def test_another_session_that_steers_is_left_alone(root: Path) -> None:
    with KnobSession(root / "state") as first, KnobSession(root / "state") as second:
        first.write(root / RATE, 5)
        with pytest.raises(HotpageError, match="another hotpage has set"):
            tiering(root, second).limit_promotion(7)
        assert (root / RATE).read_text() == "5\n"


def test_a_node_is_told_to_reclaim(root: Path) -> None:
    with KnobSession(root / "state") as knobs:
        mine = tiering(root, knobs)
        mine.require_demotion(0, "/web")
        assert mine.demote(0, "/web", 12345)
    assert (root / RECLAIM).read_text() == "12345"
    assert (root / GROUP_RECLAIM).read_text() == ""


def test_where_nodes_cannot_be_told_the_cgroup_is(root: Path) -> None:
    (root / RECLAIM).unlink()
    with KnobSession(root / "state") as knobs:
        mine = tiering(root, knobs)
        mine.require_demotion(0, "/web")
        assert mine.demote(0, "/web", 99)
        assert (root / GROUP_RECLAIM).read_text() == "99"
        (root / "proc/swaps").write_text("Filename Type Size Used Priority\n/dev/vdb partition 9 0 -2\n")
        with pytest.raises(UnsupportedError, match=r"memory\.reclaim would also swap"):
            mine.require_demotion(0, "/web")


def one_tier(root: Path) -> Topology:
    return replace(TWO_TIERS, kernel_tiers={"memory_tier4": (0, 1)})


def without(name: str) -> Callable[[Path], Topology]:
    def remove(root: Path) -> Topology:
        (root / name).unlink()
        return TWO_TIERS

    return remove


@pytest.mark.parametrize(
    ("lacking", "promotes", "demotes"),
    [
        (one_tier, "one memory tier, so it promotes nothing", "one memory tier, so it demotes nothing"),
        (without(RATE), "this kernel has no .*MBps", ""),
        (without(DEMOTION), "", "this kernel has no .*demotion_enabled"),
    ],
)
def test_what_is_missing_is_one_clear_line(
    root: Path, lacking: Callable[[Path], Topology], promotes: str, demotes: str
) -> None:
    topology = lacking(root)
    with KnobSession(root / "state") as knobs:
        mine = tiering(root, knobs, topology)
        for ask, problem in (
            (mine.require_promotion, promotes),
            (lambda: mine.require_demotion(0, "/web"), demotes),
        ):
            if problem:
                with pytest.raises(UnsupportedError, match=f"{problem}.*: use --mover move_pages"):
                    ask()
            else:
                ask()


def test_a_node_without_either_file(root: Path) -> None:
    (root / RECLAIM).unlink()
    (root / GROUP_RECLAIM).unlink()
    with KnobSession(root / "state") as knobs, pytest.raises(UnsupportedError, match=r"neither .*/a\\x1bc"):
        tiering(root, knobs).require_demotion(0, "/a\x1bc")


def test_a_kernel_that_reclaimed_less_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, data: bytes) -> int:
        raise BlockingIOError(11, os.strerror(11))

    with KnobSession(root / "state") as knobs:
        mine = tiering(root, knobs)
        monkeypatch.setattr(os, "write", refuse)
        assert not mine.demote(0, "/web", 4096)
        monkeypatch.undo()


def test_counters_are_those_of_vmstat(root: Path) -> None:
    with KnobSession(root / "state") as knobs:
        assert tiering(root, knobs).counters() == TieringCounters(3, 12)


def arming_times(root: Path, possible: str, kernel_max: str) -> ArmingTimes:
    directory = root / "devices/system/cpu"
    directory.mkdir(parents=True)
    (directory / "possible").write_text(possible + "\n")
    (directory / "kernel_max").write_text(kernel_max + "\n")
    return ArmingTimes(root)


def test_times_of_arming_pass_for_the_first_cpus(tmp_path: Path) -> None:
    """2 of 8,192: from 300 s on for 512 ms, and again 2^21 ms later, with 2 s before and after."""
    times = arming_times(tmp_path, "0-1", "8191")
    for begin_s in (300.0, 300.0 + 2097.152):
        left_s = [times.misread_for_s(begin_s + s) for s in (-2.1, -1.9, 0.3, 2.4, 2.6)]
        assert left_s == pytest.approx([0, 4.412, 2.212, 0.112, 0])
    assert not times.misread_for_s(5.0)
    assert sum(times.misread_for_s(float(s)) > 0 for s in range(2097)) in (4, 5)


@pytest.mark.parametrize(("possible", "kernel_max"), [("0-63", "63"), ("0-3", "15"), ("", "8191")])
def test_where_they_pass_for_cpus_most_of_the_time_nothing_is_left_out(
    tmp_path: Path, possible: str, kernel_max: str
) -> None:
    times = arming_times(tmp_path, possible, kernel_max)
    assert not any(times.misread_for_s(float(s)) for s in range(400))
