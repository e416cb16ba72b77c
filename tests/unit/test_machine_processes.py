# SPDX-License-Identifier: Apache-2.0
"""Process identity over pid reuse and exec, against a /proc of our own making."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakeproc import FakeProc

from hotpage.errors import TargetError, UnsupportedError
from hotpage.machine.cgroups import cgroup_directory, cgroup_mount
from hotpage.machine.proc import parse_stat
from hotpage.machine.processes import ProcessTable, cgroup_of, children_of, list_pids, pids_by_comm
from hotpage.recording.selection import thread_group_of


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


@pytest.fixture
def table(proc: FakeProc) -> ProcessTable:
    return ProcessTable(proc.root)


def test_stat_of_a_nasty_name() -> None:
    text = b"7 (a) S 1 (x) Z 3 1 1 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 5 0 777 1 1 1 11 12 13 0\n"
    stat = parse_stat(text)
    assert (stat.comm, stat.state, stat.parent_pid, stat.threads) == ("a) S 1 (x", "Z", 3, 5)
    assert (stat.start_time_ticks, stat.image) == (777, (11, 13))
    assert not stat.has_ended  # its threads still run
    assert stat.cpu_s == (30 + 12) / os.sysconf("SC_CLK_TCK")


def test_description(proc: FakeProc, table: ProcessTable) -> None:
    proc.put(50, start=7, comm="redis server", parent=3, threads=4)
    process = table.add(50)
    assert process is not None
    assert (process.index, process.pid, process.start_time_ticks, process.parent_pid) == (0, 50, 7, 3)
    assert (process.comm, process.exe, process.threads) == ("redis server", "/bin/redis server", 4)
    assert process.cmdline == "/bin/redis server --fast a b"
    assert process.cgroup == "/system.slice/x.service"
    assert table.add(50) is process


def test_a_reused_pid_is_another_process(proc: FakeProc, table: ProcessTable) -> None:
    proc.put(50, start=7)
    first = table.add(50)
    proc.put(50, start=8)
    second = table.add(50)
    assert first is not None and second is not None
    assert first.index != second.index
    assert table.by_pid(50) is second
    assert table.all() == (first, second)
    assert table.live() == [second]
    assert table.by_index(first.index) is first


def test_exec_gives_a_new_index(proc: FakeProc, table: ProcessTable) -> None:
    proc.put(50, comm="sh")
    first = table.add(50)
    proc.put(50, comm="postgres")
    old, new = table.exec(50)
    assert old is first
    assert new is not None and new.comm == "postgres" and new.index == 1


def test_exit_forgets_the_pid_only(proc: FakeProc, table: ProcessTable) -> None:
    proc.put(50)
    process = table.add(50)
    assert table.exit(50) is process
    assert table.by_pid(50) is None
    assert table.exit(50) is None
    assert table.all() == (process,)


def test_exec_of_what_has_gone(proc: FakeProc, table: ProcessTable) -> None:
    proc.put(50)
    process = table.add(50)
    proc.remove(50)
    assert table.exec(50) == (process, None)


@pytest.mark.parametrize("kind", [{"state": "Z"}, {"flags": 0x00200000}])
def test_what_has_no_memory_is_no_process(proc: FakeProc, table: ProcessTable, kind: dict[str, int]) -> None:
    proc.put(50, **kind)
    assert table.add(50) is None
    assert table.add(51) is None


def test_refresh_keeps_the_index(proc: FakeProc, table: ProcessTable) -> None:
    proc.put(50, comm="python", threads=1)
    table.add(50)
    proc.put(50, comm="worker", threads=9)
    process = table.refresh(50)
    assert process is not None
    assert (process.index, process.comm, process.threads) == (0, "worker", 9)
    assert table.by_pid(50) is process
    proc.put(50, start=999)
    assert table.refresh(50) is None
    assert table.refresh(51) is None


def test_indices_of_many_pids(proc: FakeProc, table: ProcessTable) -> None:
    for pid in (50, 4_194_303, 7):
        proc.put(pid)
        table.add(pid)
    table.exit(7)
    tgid = np.array([[50, 7, 0], [4_194_303, 4_294_967_295, 50]], np.uint32)
    indices = table.indices_of(tgid)
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(indices, [[0, -1, -1], [1, -1, 0]])


def test_finding_processes(proc: FakeProc) -> None:
    proc.put(1, comm="init", parent=0)
    proc.put(20, comm="a-very-long-command-name"[:15])
    proc.put(21, comm="sh", parent=20)
    proc.put(22, comm="sh", parent=21)
    proc.put(23, comm="sh", state="Z", parent=20)
    proc.put(30, comm="sh")
    (proc.root / "meminfo").write_text("")
    assert list_pids(proc.root) == [1, 20, 21, 22, 23, 30]
    assert pids_by_comm("sh", proc.root) == [21, 22, 30]
    assert pids_by_comm("a-very-long-command-name", proc.root) == [20]
    assert children_of(20, proc.root) == [21, 22]
    assert children_of(99, proc.root) == []


def test_own_child_is_found() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in children_of(os.getpid())
        process = ProcessTable().add(child.pid)
        assert process is not None and process.parent_pid == os.getpid()
    finally:
        child.communicate()
    assert ProcessTable().add(child.pid) is None


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_bytes(b"4:memory:/old\r0::/no\n0::/a\x0b\x1c\xc2\x85\xff\r.scope\n")
    assert os.fsencode(cgroup_of(tmp_path)) == b"/a\x0b\x1c\xc2\x85\xff\r.scope"
    rename = "open('/proc/self/comm', 'w').write('a\\rTgid:\\t1'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert thread_group_of(child.pid) == child.pid
        child.kill()


def test_cgroup_mount_is_found_and_unescaped(tmp_path: Path) -> None:
    mount = tmp_path / "cgroup two"
    (mount / "a/b").mkdir(parents=True)
    (mount / "a/b/cgroup.procs").write_text("")
    escaped = str(mount).replace(" ", "\\040")
    (tmp_path / "mounts").write_text(f"tmpfs /sys/fs/cgroup tmpfs rw 0 0\nnone {escaped} cgroup2 rw 0 0\n")
    assert cgroup_mount(tmp_path) == mount
    for name in ("/a/b", "a/b", mount / "a/b"):
        assert cgroup_directory(name, tmp_path) == mount / "a/b"
    for name in ("/a", "/nowhere", "/../.."):
        with pytest.raises(TargetError, match="no cgroup v2"):
            cgroup_directory(name, tmp_path)


def test_a_relative_cgroup_is_one_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = tmp_path / "cgroup"
    for name in ("", "a/b", "b", "c"):
        (mount / name).mkdir(parents=True, exist_ok=True)
        (mount / name / "cgroup.procs").write_text("")
    (mount / "a/cgroup.procs").write_text("")
    (tmp_path / "mounts").write_text(f"none {mount} cgroup2 rw 0 0\n")

    def found(name: str) -> str:
        return str(cgroup_directory(name, tmp_path).relative_to(mount))

    monkeypatch.chdir(mount / "a")
    assert [found(name) for name in (".", "b", "..", "../c", "./b", "c", "/b", "/")] == [
        *("a", "a/b", ".", "c", "a/b", "c", "b", ".")
    ]
    for name in ("", "../.."):
        with pytest.raises(TargetError, match="no cgroup v2"):
            found(name)
    monkeypatch.chdir(tmp_path)
    assert [found(name) for name in ("a/b", "b", "/")] == ["a/b", "b", "."]
    for name in ("", ".", "..", "cgroup/a", "a/.."):
        with pytest.raises(TargetError, match="no cgroup v2"):
            found(name)


def test_no_cgroup_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n")
    with pytest.raises(UnsupportedError, match="no cgroup v2 hierarchy is mounted"):
        cgroup_mount(tmp_path)
