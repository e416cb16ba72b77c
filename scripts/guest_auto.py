# SPDX-License-Identifier: Apache-2.0
"""The part of scripts/bench_auto.py that runs in a guest with two tiers: one JSON object on standard output.

Fast memory is filled, by a process that holds it locked, until CAPACITY_MIB above hotpage's headroom are
left.
Each workload starts with everything on the slow node. What counts is known to the workload, not to whoever
places its pages: the share of its accesses that go to pages on the fast node, by the shares that they were
dealt, and where the kernel says that they are. The oracle has the most accessed CAPACITY_MIB there. Moved:
/proc/vmstat's pgmigrate_success.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from hotpage.exerciser import Exerciser, zipf_shares
from hotpage.machine.knobs import NUMA_BALANCING
from hotpage.machine.numa import MovePages, read_watermarks
from hotpage.placement.budget import headroom_bytes

FAST, SLOW = 0, 1
PAGE, MIB = 4096, 1 << 20
WORKLOAD_MIB, CAPACITY_MIB = 96, 24
SETTLE_S = {"zipf": 50.0, "shift": 50.0, "sweep": 20.0}
WINDOW_S, LOOK_S = 10.0, 2.0
DEMOTION = Path("/sys/kernel/mm/numa/demotion_enabled")
_SET_MEMPOLICY, MPOL_PREFERRED, MPOL_BIND = 238, 1, 2  # x86-64; linux/mempolicy.h
METHODS = ("none", "kernel", "random", "auto")
MOVE = MovePages()


def vmstat(name: str) -> int:
    words = Path("/proc/vmstat").read_text().split()
    return int(words[words.index(name) + 1])


@contextmanager
def filled() -> Iterator[int]:
    """Leave so much fast memory free, and no more; how many bytes that is."""
    total = sum(
        int(line.split()[3]) * 1024
        for line in Path(f"/sys/devices/system/node/node{FAST}/meminfo").read_text().splitlines()
        if "MemTotal" in line
    )
    marks = read_watermarks()[FAST]
    size = marks.available - headroom_bytes(total, marks.high) - CAPACITY_MIB * MIB
    code = (
        "import ctypes, mmap, sys\n"
        "held = mmap.mmap(-1, int(sys.argv[1]))\n"
        "assert ctypes.CDLL(None).mlockall(1) == 0\n"
        "print('full', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: set_policy(MPOL_BIND, FAST),
    ) as filler:
        assert filler.stdout is not None and filler.stdout.readline().strip() == "full"
        try:
            yield read_watermarks()[FAST].available
        finally:
            filler.kill()


def set_policy(mode: int, node: int) -> None:
    """set_mempolicy(2) of this process."""
    mask = ctypes.c_ulong(1 << node)
    if ctypes.CDLL(None).syscall(_SET_MEMPOLICY, mode, ctypes.byref(mask), 64):
        raise OSError("set_mempolicy failed")


@contextmanager
def placed_by(method: str, pid: int, directory: Path) -> Iterator[None]:
    """Have the workload's pages placed by this method meanwhile; the workload is halted until it begins."""
    if method == "none":
        yield
        return
    if method == "kernel":
        before = NUMA_BALANCING.read_text(), DEMOTION.read_text()
        DEMOTION.write_text("1")
        NUMA_BALANCING.write_text("2")
        try:
            yield
        finally:
            NUMA_BALANCING.write_text(before[0])
            DEMOTION.write_text(before[1])
        return
    config = directory / f"{method}.toml"
    config.write_text(
        f'state_dir = "{directory / method}-{pid}"\n'
        # An emulated CPU does a tenth of a real one's work.
        "[budget]\ncpu_percent = 25.0\nplan_percent = 10.0\n"
        f'[placement]\npolicy = "{"fit" if method == "auto" else method}"\n[metrics]\naddress = ""\n'
    )
    command = [sys.executable, "-m", "hotpage", "auto", "--config", str(config), "-p", str(pid)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        preexec_fn=lambda: set_policy(MPOL_PREFERRED, SLOW),  # it is not to fill what it manages
    ) as service:
        assert service.stdout is not None
        line = service.stdout.readline()
        assert " moves pages of " in line, line
        log = subprocess.Popen(["sed", f"s/^/{method}: /"], stdin=service.stdout, stdout=sys.stderr)
        try:
            yield
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait()
            log.wait()


class Workload:
    """An exerciser on the slow node, and the share of its accesses that fast memory serves."""

    def __init__(self, kind: str, seed: int) -> None:
        pages = WORKLOAD_MIB * MIB // PAGE
        self.kind = kind
        more: dict[str, Any] = {"pattern": "sweep"} if kind == "sweep" else {}
        if kind == "zipf":
            more["page_shares"] = zipf_shares(pages, seed=seed)
        if kind == "shift":  # a hot set as large as what fits
            more |= {"hot_fraction": CAPACITY_MIB / WORKLOAD_MIB, "shift_pages": pages // 2, "seed": seed}
        self.exerciser = Exerciser.start(mib=WORKLOAD_MIB, threads=2, work=100, **more)
        os.kill(self.exerciser.pid, signal.SIGSTOP)
        self.vpn = self.exerciser.base // PAGE + np.arange(pages, dtype=np.int64)
        addresses = self.vpn.astype(np.uint64) * np.uint64(PAGE)
        status = np.empty(pages, np.int32)
        MOVE(self.exerciser.pid, addresses, np.full(pages, SLOW, np.int32), status)
        assert (MOVE.query(self.exerciser.pid, self.vpn) == SLOW).all()

    def go_on(self) -> None:
        os.kill(self.exerciser.pid, signal.SIGCONT)

    def fast_share(self) -> float:
        return float(self.exerciser.page_shares[MOVE.query(self.exerciser.pid, self.vpn) == FAST].sum())

    @property
    def oracle_share(self) -> float:
        best = np.sort(self.exerciser.page_shares)[::-1][: CAPACITY_MIB * MIB // PAGE]
        return float(best.sum())


def watch(workload: Workload, seconds: float) -> list[tuple[float, float]]:
    """(seconds since now, fast share), every ``LOOK_S``."""
    begun_s, seen = time.monotonic(), []
    while (now_s := time.monotonic() - begun_s) < seconds:
        seen.append((now_s, workload.fast_share()))
        time.sleep(LOOK_S)
    return seen


def reached_s(seen: list[tuple[float, float]], share: float) -> float:
    """When the fast share came to so much for the first time; the whole time if it never did."""
    return next((now_s for now_s, fast in seen if fast >= share), seen[-1][0])


def measure(kind: str, method: str, seed: int, directory: Path) -> dict[str, float]:
    workload = Workload(kind, seed)
    try:
        with placed_by(method, workload.exerciser.pid, directory):
            moved = vmstat("pgmigrate_success")
            workload.go_on()
            seen = watch(workload, SETTLE_S[kind])
            figures = {"first_s": reached_s(seen, 0.95 * workload.oracle_share)}
            if kind == "shift":
                workload.exerciser.shift()
                seen = watch(workload, SETTLE_S[kind])
            workload.exerciser.throughput()
            time.sleep(WINDOW_S)
            figures["accesses_per_s"] = workload.exerciser.throughput()
            figures["moved_mib"] = (vmstat("pgmigrate_success") - moved) * PAGE / MIB
            figures["fast_share"] = workload.fast_share()
            figures["oracle_share"] = workload.oracle_share
            figures["on_fast_mib"] = (
                float((MOVE.query(workload.exerciser.pid, workload.vpn) == FAST).sum()) * PAGE / MIB
            )
            if kind == "shift":
                figures["back_s"] = reached_s(seen, 0.95 * figures["fast_share"])
        return {name: round(value, 4) for name, value in figures.items()}
    finally:
        with suppress(ProcessLookupError):
            workload.go_on()
        workload.exerciser.stop()


def main() -> None:
    seed = int(sys.argv[1])
    kinds = sys.argv[2].split(",") if len(sys.argv) > 2 else list(SETTLE_S)
    numbers: dict[str, Any] = {"kernel": os.uname().release}
    NUMA_BALANCING.write_text("0")
    with tempfile.TemporaryDirectory() as directory, filled() as free_bytes:
        numbers["free_mib"] = free_bytes / MIB
        for kind in kinds:
            for method in METHODS:
                numbers[f"{kind}_{method}"] = measure(kind, method, seed, Path(directory))
                print(kind, method, numbers[f"{kind}_{method}"], file=sys.stderr, flush=True)
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
