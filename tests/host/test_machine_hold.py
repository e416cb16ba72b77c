# SPDX-License-Identifier: Apache-2.0
"""Holding the memory of real processes: hint faults where there were none, and nothing kept after the end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from toucher import minor_faults, stop, stop_first_thread, vmstat, wait_for

from hotpage.errors import HotpageError
from hotpage.machine import hold as hold_module
from hotpage.machine.hold import HoldEvent, MmHolder
from hotpage.machine.knobs import NUMA_BALANCING, KnobSession
from hotpage.machine.proc import read_stat
from hotpage.machine.processes import Process, ProcessTable

MIB = 1 << 20

# Has so many MiB in 4 KiB pages and one thread; touches them for ever ("busy"), or waits for a line and
# then ends ("wait") or becomes cat ("exec"), or has a second thread ("threads").
TARGET = """
import mmap, os, sys, threading
size, way = int(sys.argv[1]) << 20, sys.argv[2]
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
ones = b"1" * (size // mmap.PAGESIZE)
memory[::mmap.PAGESIZE] = ones
if way == "threads":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
while way == "busy":
    memory[::mmap.PAGESIZE] = ones
sys.stdin.readline()
if way == "exec":
    os.execv("/bin/cat", ["cat"])
"""

# Holds another process and says who helps: the owner that is killed or stopped.
OWNER = """
import sys, time
from hotpage.machine.hold import MmHolder
from hotpage.machine.processes import ProcessTable
with MmHolder() as holder:
    assert holder.hold(ProcessTable().add(int(sys.argv[1])))
    while not holder.held:
        holder.poll()
        time.sleep(0.01)
    print(holder.helper_pid, flush=True)
    time.sleep(1000)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python code, which ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        return child

    yield run
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def holder() -> Iterator[MmHolder]:
    with MmHolder() as holder:
        yield holder


def first_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def process_of(pid: int) -> Process:
    process = ProcessTable().add(pid)
    assert process is not None
    return process


def target(start: Start, mib: int = 1, way: str = "wait") -> subprocess.Popen[str]:
    child = start(TARGET, mib, way)
    assert first_line(child) == "ready"
    return child


def next_event(holder: MmHolder) -> HoldEvent:
    events: list[HoldEvent] = []
    wait_for(lambda: events.extend(holder.poll()) or events, "an event of the helper")
    assert len(events) == 1, events
    return events[0]


def hold(holder: MmHolder, child: subprocess.Popen[str]) -> None:
    assert holder.hold(process_of(child.pid))
    assert next_event(holder) == HoldEvent("held", child.pid)
    assert child.pid in holder.held


class Memory:
    """Tells whether an address space still exists, whatever became of its process."""

    def __init__(self, pid: int) -> None:
        stat = read_stat(pid)
        assert stat is not None
        self._address = stat.start_stack
        # An open /proc/PID/mem refers to the mm without keeping its pages; it reads nothing once they are
        # freed.
        self._file = Path(f"/proc/{pid}/mem").open("rb", buffering=0)  # noqa: SIM115

    @property
    def exists(self) -> bool:
        return os.pread(self._file.fileno(), 8, self._address) != b""

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def memory_of() -> Iterator[Callable[[int], Memory]]:
    opened: list[Memory] = []

    def open_memory(pid: int) -> Memory:
        opened.append(Memory(pid))
        assert opened[-1].exists
        return opened[-1]

    yield open_memory
    for memory in opened:
        memory.close()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def test_a_held_process_gets_hint_faults_on_every_page(
    start: Start, holder: MmHolder, tmp_path: Path
) -> None:
    mib = 100
    pages = mib * MIB // os.sysconf("SC_PAGESIZE")
    child = target(start, mib, "busy")
    with KnobSession(tmp_path) as session:
        assert session.write(NUMA_BALANCING, 1)
        # Arming is driven by the target's CPU time, and is due after one second of it.
        alone, cpu_s = minor_faults(child.pid), cpu_seconds(child.pid)
        wait_for(lambda: cpu_seconds(child.pid) > cpu_s + 3, "three seconds of CPU time")
        assert minor_faults(child.pid) < alone + pages // 10, "it gets hint faults without being held"
        held, counted = minor_faults(child.pid), vmstat("numa_hint_faults")
        hold(holder, child)
        wait_for(lambda: minor_faults(child.pid) > held + pages * 0.95, "a fault on every page")
        wait_for(lambda: vmstat("numa_hint_faults") > counted + pages * 0.95, "they are hint faults")


def test_memory_is_freed_when_a_held_process_exits(
    start: Start, holder: MmHolder, memory_of: Callable[[int], Memory]
) -> None:
    child = target(start, 400)
    memory = memory_of(child.pid)
    hold(holder, child)
    child.kill()
    wait_for(lambda: not memory.exists, "the memory is freed")
    assert next_event(holder) == HoldEvent("released", child.pid, "exit")
    assert holder.held == frozenset()


def test_the_hold_is_what_keeps_the_memory(
    start: Start, holder: MmHolder, memory_of: Callable[[int], Memory]
) -> None:
    child = target(start)
    memory = memory_of(child.pid)
    hold(holder, child)
    stop_first_thread(holder.helper_pid)
    child.kill()
    child.wait()
    assert memory.exists
    os.kill(holder.helper_pid, signal.SIGCONT)
    wait_for(lambda: not memory.exists, "the memory is freed")


def test_exec_releases_the_old_memory(
    start: Start, holder: MmHolder, memory_of: Callable[[int], Memory]
) -> None:
    child = target(start, way="exec")
    memory = memory_of(child.pid)
    hold(holder, child)
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    assert next_event(holder) == HoldEvent("released", child.pid, "exec")
    wait_for(lambda: not memory.exists, "the old memory is freed")
    new = memory_of(child.pid)
    hold(holder, child)
    holder.release(child.pid)
    assert next_event(holder) == HoldEvent("released", child.pid, "asked")
    assert new.exists


def test_release_and_close_leave_the_target_as_it_was(
    start: Start, memory_of: Callable[[int], Memory]
) -> None:
    child = target(start)
    memory = memory_of(child.pid)
    faults = minor_faults(child.pid)
    with MmHolder() as holder:
        helper = holder.helper_pid
        hold(holder, child)
        assert holder.hold(process_of(child.pid))  # twice is once
        assert next_event(holder) == HoldEvent("held", child.pid)
        holder.release(child.pid)
        assert next_event(holder) == HoldEvent("released", child.pid, "asked")
        hold(holder, child)
    assert read_stat(helper) is None
    assert memory.exists
    assert minor_faults(child.pid) == faults
    assert child.communicate("\n") == ("", None)
    assert child.returncode == 0
    wait_for(lambda: not memory.exists, "the memory is freed")


def test_killing_the_owner_ends_the_helper(start: Start, memory_of: Callable[[int], Memory]) -> None:
    child = target(start)
    memory = memory_of(child.pid)
    owner = start(OWNER, child.pid)
    helper = int(first_line(owner))
    stop_first_thread(helper)  # so that it cannot see the exit by itself
    child.kill()
    child.wait()
    assert memory.exists
    owner.kill()
    wait_for(lambda: not memory.exists, "the memory is freed")
    wait_for(lambda: (stat := read_stat(helper)) is None or stat.has_ended, "the helper has ended")


def test_a_stopped_owner_does_not_keep_the_memory(start: Start, memory_of: Callable[[int], Memory]) -> None:
    child = target(start)
    memory = memory_of(child.pid)
    owner = start(OWNER, child.pid)
    first_line(owner)
    stop(owner.pid)
    child.kill()
    wait_for(lambda: not memory.exists, "the memory is freed")


def test_many_processes(start: Start, holder: MmHolder, memory_of: Callable[[int], Memory]) -> None:
    children = [start("input()") for _ in range(12)]
    wait_for(
        lambda: all(len((ProcessTable().add(c.pid) or process_of(1)).cmdline) for c in children), "started"
    )
    memories = [memory_of(child.pid) for child in children]
    assert all(holder.hold(process_of(child.pid)) for child in children)
    wait_for(lambda: holder.poll() is None or len(holder.held) == 12, "all are held")
    for child in children:
        child.kill()
    wait_for(lambda: holder.poll() is None or not holder.held, "all are released")
    wait_for(lambda: not any(memory.exists for memory in memories), "their memory is freed")


def test_who_is_not_held(start: Start, holder: MmHolder) -> None:
    threaded = target(start, way="threads")
    assert not holder.hold(process_of(threaded.pid))
    child = target(start)
    process = process_of(child.pid)
    assert not holder.hold(replace(process, start_time_ticks=process.start_time_ticks + 1))
    child.kill()
    child.wait()
    assert not holder.hold(process)
    holder.release(child.pid)
    assert holder.poll() == []


def test_a_helper_that_is_too_busy_is_asked_again(start: Start, holder: MmHolder) -> None:
    child = target(start)
    process = process_of(child.pid)
    stop_first_thread(holder.helper_pid)
    assert not all(holder.hold(process) for _ in range(100_000))
    os.kill(holder.helper_pid, signal.SIGCONT)
    wait_for(lambda: holder.poll() and child.pid in holder.held, "it is held")
    wait_for(lambda: holder.hold(process), "there is room for questions again")


def test_a_dead_helper_is_an_error_of_one_line(holder: MmHolder) -> None:
    os.kill(holder.helper_pid, signal.SIGKILL)

    def poll_fails() -> bool:
        try:
            holder.poll()
        except HotpageError as error:
            return str(error).startswith("the helper that holds memory has died")
        return False

    wait_for(poll_fails, "an error")


HELPER_WITHIN_LIMITS = """
import resource, runpy, threading
resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
begin, left = threading.Thread.start, [{threads}]
def start(thread):
    left[0] -= 1
    if left[0] < 0:
        raise RuntimeError("can't start new thread")
    begin(thread)
threading.Thread.start = start
runpy.run_path({helper!r}, run_name="__main__")
"""


@pytest.mark.parametrize(("files", "threads", "held"), [(64, 2, 2), (9, 9, 4)])
def test_a_helper_within_limits(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, threads: int, held: int
) -> None:
    """One that may start no more threads keeps what it has; open files are limited as little as may be."""
    script = tmp_path / "helper.py"
    helper = str(hold_module._HELPER)
    script.write_text(HELPER_WITHIN_LIMITS.format(files=files, threads=threads, helper=helper))
    monkeypatch.setattr(hold_module, "_HELPER", script)
    children = [target(start) for _ in range(4)]
    events: list[HoldEvent] = []
    with MmHolder() as holder:
        assert all(holder.hold(process_of(child.pid)) for child in children)
        wait_for(lambda: events.extend(holder.poll()) or len(events) == 4, "what became of each")
        assert len(holder.held) == held
    failed = [event.reason for event in events if event.kind == "failed"]
    assert failed == ["can't start new thread"] * (4 - held)
