# SPDX-License-Identifier: Apache-2.0
"""Real forks, execs, exits and uevents."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toucher import DEADLINE_S, wait_for

from hotpage.machine import procevents
from hotpage.machine.hotplug import MemoryChange, MemoryHotplug
from hotpage.machine.processes import ProcessTable
from hotpage.machine.procevents import (
    ConnectorProcessEvents,
    Exec,
    Exit,
    Fork,
    Lost,
    PollingProcessEvents,
    ProcessEvent,
    ProcessEvents,
    open_process_events,
)

# Forks a child that, a line at a time, becomes cat and ends; runs a thread meanwhile.
SCRIPT = """
import os, sys, threading
print("ready", flush=True)
sys.stdin.readline()
ours, theirs = os.pipe()
child = os.fork()
if child == 0:
    os.read(ours, 1)
    os.close(theirs)
    os.dup2(ours, 0)
    os.execv("/bin/cat", ["cat"])
print(child, flush=True)
thread = threading.Thread(target=print)
thread.start()
thread.join()
sys.stdin.readline()
os.write(theirs, b"x")
sys.stdin.readline()
os.close(theirs)
os.waitpid(child, 0)
print("waited", flush=True)
sys.stdin.readline()
"""


def drain_until(source: ProcessEvents, wanted: Callable[[list[ProcessEvent]], object]) -> list[ProcessEvent]:
    events: list[ProcessEvent] = []
    end = time.monotonic() + DEADLINE_S
    while not wanted(events):
        assert time.monotonic() < end, events
        events += source.drain()
        time.sleep(0.01)
    return events


def exit_of(pid: int) -> Callable[[list[ProcessEvent]], bool]:
    return lambda events: any(isinstance(event, Exit) and event.pid == pid for event in events)


@pytest.fixture
def connector() -> Iterator[ConnectorProcessEvents]:
    source = ConnectorProcessEvents()
    yield source
    source.close()


@pytest.mark.parametrize("make", [ConnectorProcessEvents, lambda: PollingProcessEvents(interval_s=0)])
def test_both_rungs_see_the_same(make: Callable[[], ProcessEvents]) -> None:
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert script.stdin is not None and script.stdout is not None
    stdin, stdout = script.stdin, script.stdout

    def go_on() -> None:
        stdin.write("\n")
        stdin.flush()

    assert stdout.readline() == "ready\n"  # its own exec is over
    source = make()
    try:
        before_ns = time.monotonic_ns()
        go_on()
        child = int(stdout.readline())

        def about_child(kind: type) -> Callable[[list[ProcessEvent]], bool]:
            return lambda events: any(isinstance(e, kind) and getattr(e, "pid", 0) == child for e in events)

        events = drain_until(source, about_child(Fork))
        go_on()
        events += drain_until(source, about_child(Exec))
        go_on()
        events += drain_until(source, about_child(Exit))
        assert stdout.readline() == "\n"  # the thread's
        own = [e for e in events if not isinstance(e, Lost) and e.pid in (child, script.pid)]
        assert [(type(e), e.pid) for e in own] == [(Fork, child), (Exec, child), (Exit, child)]
        assert isinstance(own[0], Fork) and own[0].parent == script.pid
        times = [before_ns, *(e.time_ns for e in own), time.monotonic_ns()]
        assert times == sorted(times)
    finally:
        source.close()
        script.kill()
        script.communicate()


def test_a_storm_of_forks_is_complete(connector: ConnectorProcessEvents) -> None:
    count = 3000
    shell = subprocess.Popen(["sh", "-c", f"for i in $(seq {count}); do (:); done"])
    shell.wait()
    events = drain_until(connector, exit_of(shell.pid))
    forked = [e.pid for e in events if isinstance(e, Fork) and e.parent == shell.pid]
    exited = {e.pid for e in events if isinstance(e, Exit)}
    assert len(forked) >= count
    assert exited.issuperset(forked)
    assert not any(isinstance(e, Lost) for e in events)


def test_overflow_is_reported_and_the_source_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procevents, "enlarge_buffer", lambda sock: sock.setsockopt(1, 8, 4096))  # SO_RCVBUF
    source = ConnectorProcessEvents()
    try:
        subprocess.run(["sh", "-c", "for i in $(seq 300); do (:); done"], check=True)
        drain_until(source, lambda events: any(isinstance(e, Lost) for e in events))

        def hears_of_a_child() -> bool:
            # Others' events may fill so small a buffer again.
            with subprocess.Popen(["true"]) as child:
                pass
            return any(getattr(event, "pid", 0) == child.pid for event in source.drain())

        wait_for(hears_of_a_child, "it goes on")
    finally:
        source.close()


def test_threads_are_no_processes(connector: ConnectorProcessEvents) -> None:
    for _ in range(20):
        thread = threading.Thread(target=os.getpid)
        thread.start()
        thread.join()
    child = subprocess.Popen(["true"])
    child.wait()
    events = drain_until(connector, exit_of(child.pid))
    assert [e.pid for e in events if isinstance(e, Fork) and e.parent == os.getpid()] == [child.pid]
    assert not any(isinstance(e, Exit) and e.pid == os.getpid() for e in events)


def test_a_leader_that_leaves_its_threads_has_not_exited(connector: ConnectorProcessEvents) -> None:
    script = (
        "import ctypes, sys, threading\n"
        "def stay():\n    print('on my own', flush=True)\n    sys.stdin.readline()\n"
        "thread = threading.Thread(target=stay); thread.start()\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"  # exit(2) of the main thread only, x86-64
    )
    if os.uname().machine != "x86_64":
        script = script.replace("60", "93")
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        state = Path(f"/proc/{child.pid}/stat")
        events = drain_until(connector, lambda _: state.read_text().rpartition(") ")[2][0] == "Z")
        assert not exit_of(child.pid)(events + connector.drain())
    finally:
        child.kill()
    drain_until(connector, exit_of(child.pid))
    child.communicate()


def test_the_table_follows_exec(connector: ConnectorProcessEvents) -> None:
    table = ProcessTable()
    child = subprocess.Popen(["sh", "-c", "read line; exec cat"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    drain_until(connector, lambda events: any(e == Exec(child.pid, e.time_ns) for e in events))
    assert table.add(child.pid) is not None
    child.stdin.write(b"\n")
    child.stdin.flush()
    drain_until(connector, lambda events: any(e == Exec(child.pid, e.time_ns) for e in events))
    old, new = table.exec(child.pid)
    assert old is not None and new is not None
    assert (old.comm, new.comm, new.index) == ("sh", "cat", old.index + 1)
    child.communicate()


def test_polling_steps_in_where_the_connector_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(procevents, "attach_filter", refuse)
    source = open_process_events()
    assert (source.rung, source.fileno()) == ("polling", None)
    assert source.reason == "the proc connector is refused: run hotpage as root"


def test_memory_blocks_coming_online_are_heard() -> None:
    uevent = next(Path("/sys/devices/system/memory").glob("memory[0-9]*")) / "uevent"
    hotplug = MemoryHotplug()
    try:
        uevent.write_text("online")  # the kernel sends a synthetic event; nothing else happens
        changes: list[MemoryChange] = []
        end = time.monotonic() + DEADLINE_S
        while ("online", uevent.parent.name) not in [(c.action, c.device) for c in changes]:
            assert time.monotonic() < end
            changes += hotplug.drain()
            time.sleep(0.01)
    finally:
        hotplug.close()
