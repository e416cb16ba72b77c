# SPDX-License-Identifier: Apache-2.0
"""A program that touches pages when told to, and BPF programs counted without bpftool."""

import ctypes
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest

from hotpage.capture import bpf
from hotpage.capture.capture import Capture
from hotpage.capture.events import EVENT_DTYPE, Events, EventSource

PAGE = 4096
TOUCHED = 23
"""A prime, so that no other loop produces the number by chance."""
DEADLINE_S = 300.0
"""Only what fails waits so long: in a guest, or beside others, everything takes longer."""

_PROG_GET_NEXT_ID, _PROG_GET_FD_BY_ID, _OBJ_INFO = 11, 13, 15

# Reads commands from stdin, answers on stdout. All memory is mapped before the first command, so that a
# command causes the faults it is asked for; those of the interpreter's own lie elsewhere.
_PROGRAM = r"""
import ctypes, mmap, os, sys, threading
PAGE, COUNT, STEP = 4096, 23, 1 << 16
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
regions = {}
def region(name, pages=COUNT, huge=False):
    memory = regions[name] = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if not huge:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
def address(name):
    return ctypes.addressof(ctypes.c_char.from_buffer(regions[name]))
def write(name):
    memory = regions[name]
    for offset in range(0, len(memory), PAGE):
        memory[offset + 5] = 7
def read(name):
    memory = regions[name]
    return sum(memory[offset + 9] for offset in range(0, len(memory), PAGE))
def code(name):
    # A return every 64 KiB: within those the kernel maps the pages around the one that faults, too.
    file = os.memfd_create(name)
    os.ftruncate(file, COUNT * STEP)
    for offset in range(0, COUNT * STEP, STEP):
        os.pwrite(file, b"\xc3", offset)
    flags = mmap.MAP_PRIVATE
    regions[name] = mmap.mmap(file, COUNT * STEP, flags, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
def execute(name):
    for offset in range(0, COUNT * STEP, STEP):
        ctypes.CFUNCTYPE(None)(address(name) + offset)()
def forks(count, name):
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            write(name)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return " ".join(map(str, pids))
def fork_and_fork(name):
    pid = os.fork()
    if pid == 0:
        child = os.fork()
        if child == 0:
            write(name)
            os._exit(0)
        os.waitpid(child, 0)
        os._exit(0)
    os.waitpid(pid, 0)
def in_a_thread(comm, name):
    def body():
        libc.prctl(15, comm.encode(), 0, 0, 0)
        write(name)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
def rename(comm):
    libc.prctl(15, comm.encode(), 0, 0, 0)
def protect(name, way):
    libc.mprotect(address(name), len(regions[name]), way)
def drop(name):
    regions[name].madvise(mmap.MADV_DONTNEED)
for line in sys.stdin:
    try:
        answer = eval(line)
        answer = None if isinstance(answer, mmap.mmap) else answer
    except BaseException as error:
        answer = "error: %r" % error
    print(answer, flush=True)
"""


class Toucher:
    """The program, running. ``run`` gives it one Python expression; ``region`` makes untouched memory."""

    def __init__(self, *prefix: str) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.run("1")

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, expression: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer and not answer.startswith("error:"), f"{expression}: {answer}"
        return answer

    def region(self, name: str, pages: int = TOUCHED) -> int:
        """Map memory; its address."""
        self.run(f"region({name!r}, {pages})")
        return int(self.run(f"address({name!r})"))

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def within(events: Events, start: int, pages: int = TOUCHED) -> Events:
    """The accesses to a region; control records left out."""
    is_access = np.isin(events["source"], (EventSource.HINT_FAULT, EventSource.PAGE_FAULT))
    inside = (events["address"] >= start) & (events["address"] < start + pages * PAGE)
    return events[is_access & inside]


def pages_seen(events: Events, start: int, pages: int = TOUCHED) -> list[int]:
    """Which pages of a region, in the order they were accessed."""
    return ((within(events, start, pages)["address"] - np.uint64(start)) // PAGE).tolist()


def read_until(capture: Capture, enough: Callable[[Events], object]) -> Events:
    """Everything captured until it is enough."""
    parts: list[Events] = []
    end = time.monotonic() + DEADLINE_S
    while True:
        parts.append(capture.read())
        events: Events = np.concatenate([part.view("V32") for part in parts]).view(EVENT_DTYPE)
        if enough(events):
            return events
        assert time.monotonic() < end, f"not seen; so far: {events[:20]}"
        time.sleep(0.05)


def joined(parts: list[Events]) -> Events:
    events: Events = np.concatenate([part.view("V32") for part in parts]).view(EVENT_DTYPE)
    return events


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(attributes, 120)
    return bpf.syscall(bpf.BPF, command, buffer, len(buffer)), buffer.raw


def loaded_programs() -> set[str]:
    """The names of all BPF programs in the kernel but systemd's own, which come and go with units."""
    names, program = set(), 0
    while True:
        try:
            _, answer = _bpf(_PROG_GET_NEXT_ID, struct.pack("<I", program))
        except FileNotFoundError:
            return names
        (program,) = struct.unpack_from("<I", answer, 4)
        try:
            fd, _ = _bpf(_PROG_GET_FD_BY_ID, struct.pack("<I", program))
        except FileNotFoundError:
            continue
        info = ctypes.create_string_buffer(232)
        try:
            _bpf(_OBJ_INFO, struct.pack("<IIQ", fd, len(info), ctypes.addressof(info)))
        finally:
            os.close(fd)
        name = info.raw[64:80].rstrip(bytes(1)).decode()
        if not name.startswith("sd_"):
            names.add(f"{program} {name}")


def vmstat(name: str) -> int:
    """One of the machine's counters."""
    with open("/proc/vmstat") as lines:  # noqa: PTH123
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def minor_faults(pid: int) -> int:
    """A process's page faults that took no I/O, hint faults among them."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def wait_for(condition: Callable[[], Any], what: str, pause_s: float = 0.02) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (result := condition()):
        assert time.monotonic() < end, f"never came true: {what}"
        time.sleep(pause_s)
    return result


def stop(pid: int) -> None:
    """Halt the process, every thread of it."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    wait_for(lambda: all(map(_is_stopped, threads.iterdir())), "all its threads stop")


def stop_first_thread(pid: int) -> None:
    """Halt the process, but for threads that the kernel has blocked: they stop where they come out."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: _is_stopped(Path(f"/proc/{pid}/task/{pid}")), "its first thread stops")


def _is_stopped(thread: Path) -> bool:
    return "T (stopped)" in (thread / "status").read_text()


# Fixtures; tests of guests import them


@pytest.fixture
def nothing_stays_loaded() -> Iterator[None]:
    """All BPF programs are gone again, soon."""
    before = loaded_programs()
    yield
    wait_for(lambda: not loaded_programs() - before, "all programs are gone")


@pytest.fixture
def toucher() -> Iterator[Toucher]:
    with Toucher() as toucher:
        yield toucher
