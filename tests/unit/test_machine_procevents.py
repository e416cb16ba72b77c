# SPDX-License-Identifier: Apache-2.0
"""What polling makes of changes in /proc, and what uevents say about memory."""

from pathlib import Path

import pytest
from fakeproc import FakeProc

from hotpage.machine.hotplug import MemoryHotplug
from hotpage.machine.procevents import Exec, Exit, Fork, PollingProcessEvents, ProcessEvent


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    fake = FakeProc(tmp_path)
    fake.put(1, parent=0)
    return fake


def untimed(events: list[ProcessEvent]) -> list[tuple[object, ...]]:
    return [
        (Fork, event.pid, event.parent)
        if isinstance(event, Fork)
        else (type(event), getattr(event, "pid", 0))
        for event in events
    ]


def polling(proc: FakeProc) -> PollingProcessEvents:
    return PollingProcessEvents(interval_s=0, proc_root=proc.root)


def test_fork_exec_exit(proc: FakeProc) -> None:
    source = polling(proc)
    assert source.drain() == []
    proc.put(20)
    assert untimed(source.drain()) == [(Fork, 20, 1)]
    proc.put(20, image=8192)
    assert untimed(source.drain()) == [(Exec, 20)]
    proc.put(20, state="Z")
    assert untimed(source.drain()) == [(Exit, 20)]
    proc.remove(20)
    assert source.drain() == []


def test_fork_and_exec_between_two_scans(proc: FakeProc) -> None:
    source = polling(proc)
    proc.put(20, image=8192)
    assert untimed(source.drain()) == [(Fork, 20, 1), (Exec, 20)]


def test_a_reused_pid_exits_before_it_forks(proc: FakeProc) -> None:
    proc.put(20, start=5)
    source = polling(proc)
    proc.put(20, start=6)
    assert untimed(source.drain()) == [(Exit, 20), (Fork, 20, 1)]


def test_a_leader_that_left_its_threads_behind_has_not_ended(proc: FakeProc) -> None:
    proc.put(20, threads=3)
    source = polling(proc)
    proc.put(20, threads=3, state="Z")
    assert source.drain() == []


def test_no_scan_before_the_interval(proc: FakeProc) -> None:
    source = PollingProcessEvents(interval_s=3600, proc_root=proc.root)
    proc.put(20)
    assert source.drain() == []


def test_uevents_about_memory() -> None:
    hotplug = MemoryHotplug()
    try:
        for message, expected in (
            (b"online@/devices/system/memory/memory32\0ACTION=online\0DEVPATH=/devices/system/memory/memory32\0"
             b"SUBSYSTEM=memory\0SEQNUM=7\0", [("online", "memory32")]),
            (b"remove@/devices/system/node/node1\0ACTION=remove\0DEVPATH=/devices/system/node/node1\0"
             b"SUBSYSTEM=node\0", [("offline", "node1")]),
            (b"add@/devices/virtual/block/loop0\0ACTION=add\0DEVPATH=/devices/virtual/block/loop0\0"
             b"SUBSYSTEM=block\0", []),
            (b"change@/devices/system/memory/memory32\0ACTION=change\0DEVPATH=/devices/system/memory/memory32\0"
             b"SUBSYSTEM=memory\0", []),
        ):  # fmt: skip
            assert [(c.action, c.device) for c in hotplug.parse(message)] == expected
    finally:
        hotplug.close()
