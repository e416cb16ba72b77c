# SPDX-License-Identifier: Apache-2.0
"""What doctor says of privileges, settings and helpers, shown machines that are not this one."""

import os
from pathlib import Path
from typing import Any

import pytest

from hotpage.errors import KnobError, PrivilegeError, UnsupportedError
from hotpage.machine.capabilities import Capability
from hotpage.machine.knobs import Pending
from hotpage.machine.topology import Node, Topology
from hotpage.recording import checks
from hotpage.recording.checks import Check


def refuse(error: Exception) -> Any:
    def start() -> Any:
        raise error

    return start


class Closable:
    """Anything that starts."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)
        self.closed = False

    def close(self) -> None:
        self.closed = True


def judged(check: Check) -> tuple[str, str | None]:
    return check.state, check.next_step


@pytest.fixture
def status(tmp_path: Path) -> Path:
    return tmp_path / "status"


def write_capabilities(status: Path, mask: int) -> None:
    status.write_text(f"Name:\tpython\nCapPrm:\t{mask:016x}\nCapEff:\t{mask:016x}\n")


def test_a_user_is_told_the_whole_command(status: Path) -> None:
    check = checks.check_privileges("./scripts/hotpage", user_id=1000, status=status)
    assert judged(check) == ("no", "sudo ./scripts/hotpage doctor")
    assert check.essential
    assert "1000" in check.finding


@pytest.mark.parametrize("missing", list(Capability))
def test_root_without_a_capability_is_told_which(status: Path, missing: Capability) -> None:
    write_capabilities(status, (1 << 41) - 1 & ~(1 << missing))
    check = checks.check_privileges("hotpage", user_id=0, status=status)
    assert judged(check) == ("no", checks.ON_THE_HOST)
    assert check.finding == f"root without CAP_{missing.name}"


def test_root_with_these_capabilities_needs_no_other(status: Path) -> None:
    write_capabilities(status, sum(1 << capability for capability in Capability))
    assert judged(checks.check_privileges("hotpage", user_id=0, status=status)) == ("ok", None)


def test_a_container_s_pid_namespace_cannot_do(tmp_path: Path) -> None:
    check = checks.check_pid_namespace(tmp_path)  # a directory of another inode
    assert judged(check) == ("no", checks.ON_THE_HOST)
    assert check.essential


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("[none] integrity confidentiality\n", "ok"),
        ("none [integrity] confidentiality\n", "ok"),
        ("none integrity [confidentiality]\n", "limited"),
        (None, "ok"),
    ],
)
def test_only_confidentiality_hides_kernel_memory(tmp_path: Path, text: str | None, state: str) -> None:
    file = tmp_path / "lockdown"
    if text is not None:
        file.write_text(text)
    assert checks.check_lockdown(file).state == state


@pytest.mark.parametrize(
    ("mode", "tiers", "state", "next_step"),
    [
        ("0", 1, "ok", None),
        ("1", 1, "ok", None),
        ("3", 2, "ok", None),
        ("2", 2, "ok", None),
        ("2", 1, "ok", None),
        (None, 1, "no", "boot a kernel that has it"),
        ("?", 1, "no", "boot a kernel that has it"),
    ],
)
def test_balancing(tmp_path: Path, mode: str | None, tiers: int, state: str, next_step: str | None) -> None:
    file = tmp_path / "kernel/numa_balancing"
    file.parent.mkdir()
    if mode is not None:
        file.write_text(mode + "\n")
    check = checks.check_balancing(tiers, file)
    assert judged(check) == (state, next_step)
    assert check.essential
    assert not mode or file.read_text() == mode + "\n"


def test_balancing_that_is_off_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "numa_balancing"
    file.write_text("0\n")
    really_open = os.open

    def read_only(path: Path, flags: int, *rest: int) -> int:
        if path == file and flags & os.O_RDWR:
            raise OSError(30, os.strerror(30))
        return really_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    check = checks.check_balancing(1, file)
    assert judged(check) == ("no", checks.ON_THE_HOST)
    assert "Read-only" in check.finding


def test_the_arming_pace_is_read_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "debug/sched/numa_balancing/scan_period_max_ms"
    file.parent.mkdir(parents=True)
    file.write_text("60000\n")
    check = checks.check_arming_pace(file)
    assert judged(check) == ("ok", None)
    assert "60000" in check.finding
    assert file.read_text() == "60000\n"


def test_an_empty_debugfs_is_not_mounted(tmp_path: Path) -> None:
    (tmp_path / "debug").mkdir()
    check = checks.check_arming_pace(tmp_path / "debug/sched/numa_balancing/scan_period_max_ms")
    assert judged(check) == ("limited", f"sudo mount -t debugfs none {tmp_path / 'debug'}")


def test_a_closed_debugfs_costs_the_pace(tmp_path: Path) -> None:
    (tmp_path / "debug/sched").mkdir(parents=True)
    check = checks.check_arming_pace(tmp_path / "debug/sched/numa_balancing/scan_period_max_ms")
    assert check.state == "limited"
    assert "a minute" in check.finding
    assert "mount" not in str(check.next_step)


def test_the_holder_is_tried_and_let_go() -> None:
    holder = Closable(helper_pid=os.getpid())
    assert judged(checks.check_holding(lambda: holder)) == ("ok", None)  # type: ignore[arg-type, return-value]
    assert holder.closed


@pytest.mark.parametrize(
    "error",
    [
        UnsupportedError("this kernel has no userfaultfd", "profile multi-threaded processes"),
        PrivilegeError("userfaultfd is refused", "run hotpage as root"),
        PermissionError(13, "Permission denied", "/root/python"),
    ],
)
def test_single_threaded_processes_are_not_the_main_job(error: Exception) -> None:
    check = checks.check_holding(refuse(error))
    assert check.state == "limited"
    assert not check.essential
    assert check.next_step == getattr(error, "remedy", None)


def test_closed_memory_of_others_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PROC", tmp_path)
    holder = Closable(helper_pid=7)
    check = checks.check_holding(lambda: holder)  # type: ignore[arg-type, return-value]
    assert check.state == "limited"
    assert holder.closed


@pytest.mark.parametrize(
    ("reason", "state", "next_step"),
    [
        ("", "ok", None),
        ("the proc connector is refused: run hotpage as root", "limited", "run hotpage as root"),
        (
            "the kernel has none",
            "limited",
            "boot a kernel with CONFIG_PROC_EVENTS, and do not run in a container",
        ),
    ],
)
def test_process_events(reason: str, state: str, next_step: str | None) -> None:
    events = Closable(rung="polling" if reason else "proc connector", reason=reason)
    check = checks.check_process_events(lambda: events)  # type: ignore[arg-type, return-value]
    assert judged(check) == (state, next_step)
    assert events.closed
    assert reason.partition(":")[0] in check.finding


def test_cgroups_and_hotplug_say_what_is_lost() -> None:
    assert checks.check_cgroups(lambda: 0).state == "ok"
    hidden = UnsupportedError("a container hides the upper cgroups", "run hotpage on the host")
    check = checks.check_cgroups(refuse(hidden))
    assert judged(check) == ("limited", "run hotpage on the host")
    assert "--cgroup" in check.finding
    heard = Closable()
    assert checks.check_hotplug(lambda: heard).state == "ok"  # type: ignore[arg-type, return-value]
    assert heard.closed
    assert checks.check_hotplug(refuse(UnsupportedError("uevents cannot be heard"))).state == "limited"


def test_what_a_killed_session_left_is_named() -> None:
    def pending() -> list[Pending]:
        return [Pending("/proc/sys/kernel/a", "0", ()), Pending("/proc/sys/kernel/b", "0", (7,))]

    check = checks.check_pending_settings("hotpage", pending)
    assert judged(check) == ("limited", "sudo hotpage restore")
    assert "/proc/sys/kernel/a" in check.finding
    assert "/proc/sys/kernel/b" not in check.finding


def test_what_a_running_session_changed_is_no_trouble() -> None:
    check = checks.check_pending_settings("hotpage", lambda: [Pending("/proc/a", "0", (7, 9))])
    assert judged(check) == ("ok", None)
    assert "7, 9" in check.finding


def test_a_damaged_state_file_is_told() -> None:
    error = KnobError("knobs.json is damaged", "check the settings yourself, then remove it")
    assert judged(checks.check_pending_settings("hotpage", refuse(error))) == ("limited", error.remedy)


def test_the_topology_is_one_line() -> None:
    nodes = (
        Node(0, (0, 1), 3 << 30, None, {0: 10}, tier=0),
        Node(1, (), 5 << 30, None, {0: 20}, tier=1),
    )
    check = checks.check_topology(Topology(nodes, {}, None, 0, None, None))
    assert check.finding == "2 nodes, 2 tiers, 2 CPUs, 8.0 GiB"


def memory(root: Path, available_mib: int, limits: dict[str, tuple[str, int]]) -> Check:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {available_mib * 1024} kB\n")
    (root / "proc/self/cgroup").write_text("4:memory:/other\n0::/a/b\n")
    for name, (limit, current_bytes) in limits.items():
        directory = root / "cgroup" / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "memory.max").write_text(f"{limit}\n")
        (directory / "memory.current").write_text(f"{current_bytes}\n")
    return checks.check_memory(root / "proc", lambda: root / "cgroup")


def test_memory_is_what_the_tightest_cgroup_leaves(tmp_path: Path) -> None:
    check = memory(tmp_path, 9000, {"a": (str(1000 << 20), 800 << 20), "a/b": ("max", 1)})
    assert check.state == "limited"
    assert check.finding == "200 MiB can be had in cgroup a"


def test_memory_of_the_machine_where_nothing_limits(tmp_path: Path) -> None:
    check = memory(tmp_path, 9000, {"a/b": ("max", 1)})
    assert judged(check) == ("ok", None)
    assert check.finding == "9,000 MiB can be had in the machine"
