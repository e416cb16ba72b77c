# SPDX-License-Identifier: Apache-2.0
"""A workload in a guest: armed fast, halted, moved between nodes, and looked at past hotpage."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from toucher import stop, wait_for

from hotpage.exerciser import Exerciser
from hotpage.machine.hold import MmHolder
from hotpage.machine.processes import ProcessTable

BALANCING = Path("/proc/sys/kernel/numa_balancing")
SCAN_KNOBS = Path("/sys/kernel/debug/sched/numa_balancing")
_MOVE_PAGES = 279  # x86-64
_libc = ctypes.CDLL(None, use_errno=True)


def set_scan_period(milliseconds: int, slowest_ms: int | None = None) -> None:
    """So much of the target's CPU time lies between two arming scans, or more, up to ``slowest_ms``.

    Each covers 256 MiB, or a GiB if they are half a second apart.
    """
    (SCAN_KNOBS / "scan_delay_ms").write_text(str(milliseconds))
    (SCAN_KNOBS / "scan_size_mb").write_text("1024" if milliseconds >= 500 else "256")
    # Of two limits the kernel refuses to let the lower one pass the upper one.
    (SCAN_KNOBS / "scan_period_min_ms").write_text("100")
    (SCAN_KNOBS / "scan_period_max_ms").write_text(str(slowest_ms or milliseconds))
    (SCAN_KNOBS / "scan_period_min_ms").write_text(str(milliseconds))


@contextlib.contextmanager
def halted(pids: Sequence[int]) -> Iterator[None]:
    """They do nothing meanwhile, and give way to everybody else afterwards: beside a workload that keeps the
    emulated CPU busy, to compile BPF programs takes minutes.
    """
    for pid in pids:
        stop(pid)
        give_way(pid)
    yield
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def give_way(pid: int) -> None:
    """To everybody else, with every thread that it has now."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(thread.name), 10)


@contextlib.contextmanager
def running(pids: Sequence[int]) -> Iterator[None]:
    """They were halted, run meanwhile, and are halted again."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    try:
        yield
    finally:
        for pid in pids:
            stop(pid)


@contextlib.contextmanager
def balancing(mode: int = 1) -> Iterator[None]:
    """Hint faults for everybody."""
    BALANCING.write_text(str(mode))
    try:
        yield
    finally:
        BALANCING.write_text("0")


@contextlib.contextmanager
def held(workload: Exerciser) -> Iterator[None]:
    """Have a single-threaded workload armed as well."""
    with MmHolder() as holder:
        process = ProcessTable().add(workload.pid)
        assert process is not None and holder.hold(process)
        wait_for(lambda: holder.poll() is not None and workload.pid in holder.held, "it is held")
        yield


def scans(pid: int) -> int:
    """How many arming passes over its memory a process has had, by the kernel's own count."""
    lines = Path(f"/proc/{pid}/sched").read_text().splitlines()
    return next(int(line.rpartition(":")[2]) for line in lines if line.startswith("mm->numa_scan_seq"))


def await_passes(pids: Sequence[int], passes: int) -> None:
    """So many whole arming passes over all memory of each process, begun and ended from now on."""
    least = {pid: scans(pid) + passes for pid in pids}
    wait_for(lambda: all(scans(pid) > least[pid] for pid in least), f"{passes} arming passes", 0.3)


@contextlib.contextmanager
def scattered_on(node: int, mib: int) -> Iterator[Exerciser]:
    """A program with all of its memory on one node, and a scattered tenth of it accessed; none is armed."""
    with Exerciser.start(mib=mib, hot_share=1.0, layout="scattered", threads=2, work=200) as exerciser:
        BALANCING.write_text("0")
        move(exerciser.pid, exerciser.base, exerciser.pages, node)
        yield exerciser


def nodes_of(pid: int, base: int, pages: int) -> NDArray[np.int32]:
    """By move_pages(2): the node of each page, or a negative errno."""
    return _move_pages(pid, base + 4096 * np.arange(pages, dtype=np.uint64), None)


def move(pid: int, base: int, pages: int, node: int) -> None:
    """By move_pages(2), all of them."""
    status = _move_pages(pid, base + 4096 * np.arange(pages, dtype=np.uint64), node)
    assert (status == node).all(), np.unique(status, return_counts=True)


def _move_pages(pid: int, addresses: NDArray[np.uint64], node: int | None) -> NDArray[np.int32]:
    status = np.full(len(addresses), -1000, np.int32)
    nodes = None if node is None else np.full(len(addresses), node, np.int32)
    result = _libc.syscall(
        _MOVE_PAGES,
        pid,
        ctypes.c_ulong(len(addresses)),
        ctypes.c_void_p(addresses.ctypes.data),
        None if nodes is None else ctypes.c_void_p(nodes.ctypes.data),
        ctypes.c_void_p(status.ctypes.data),
        2 if node is not None else 0,  # MPOL_MF_MOVE
    )
    assert result >= 0, os.strerror(ctypes.get_errno())
    return status


def present_pages(pid: int, start_vpn: int, pages: int) -> int:
    """How many pages of a range are in memory, by /proc/PID/pagemap."""
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(start_vpn * 8)
        entries = np.frombuffer(pagemap.read(pages * 8), np.uint64)
    return int((entries >> np.uint64(63)).sum())
