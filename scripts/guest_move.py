# SPDX-License-Identifier: Apache-2.0
"""The part of scripts/bench_move.py that runs in a guest with two tiers: one JSON object on standard output.

One-shot: a zipf workload with all pages on the slow node is profiled for a few arming passes, then ``hotpage
move --promote`` promotes at most LIMIT. Then the workload's own counters, which hotpage never sees, say which
share of its accesses goes to the fast node; an oracle that knows those counters would have moved the most
accessed pages, as many.
``random`` does the same from the same profile and the same start.

All on one CPU, which the workload has only while nothing else wants it: an emulated machine's CPUs take
turns, and beside a busy one everything else takes several times as long.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hotpage.machine.numa import MovePages
from hotpage.machine.proc import read_stat
from hotpage.placement.budget import CALL_S
from hotpage.placement.movers.move_pages import MovePagesMover
from hotpage.placement.outcome import Outcome
from hotpage.placement.plan import Move, Plan, ProcessFacts

MIB = 192
LIMIT_MIB = 48
LOOK_PASSES = 4
LONGEST_LOOK_S = 240.0
WINDOW_S = 10.0
FAST, SLOW = 0, 1
PAGE = 4096
LOOP_PAGES = 40960
LOOP_ROUNDS = 5
LOOP_BATCH = 1024
SLOWER = 10
"""How many times as long as elsewhere an emulated processor takes to move a page, at least."""
NUMA_BALANCING = Path("/proc/sys/kernel/numa_balancing")
BEGUN_S = time.monotonic()


class Zipf:
    """The workload: where its memory is, and how often it has accessed each page."""

    def __init__(self, peer: str, directory: Path, seed: int) -> None:
        counters = directory / f"counters-{seed}"
        command = [peer, "zipf", str(MIB), str(SLOW), str(seed), str(counters)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        address, pages = map(int, self.process.stdout.readline().split())
        self.pid = self.process.pid
        self.vpn = address // PAGE + np.arange(pages, dtype=np.int64)
        self._counters = np.memmap(counters, np.uint32, "r")

    def accesses(self, seconds: float) -> npt.NDArray[np.int64]:
        """Accesses to each page in a window that begins now."""
        before = self._counters.astype(np.int64)
        time.sleep(seconds)
        return self._counters.astype(np.int64) - before


@contextmanager
def zipf(peer: str, directory: Path, seed: int) -> Iterator[Zipf]:
    workload = Zipf(peer, directory, seed)
    try:
        yield workload
    finally:
        workload.process.kill()
        workload.process.communicate()


def say(text: str) -> None:
    """What has been reached, on standard error."""
    print(f"{time.monotonic() - BEGUN_S:6.1f} s: {text}", file=sys.stderr, flush=True)


def hotpage(*words: object) -> str:
    """Run a verb; its standard output."""
    command = [sys.executable, "-P", "-m", "hotpage", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.stdout)
    say(f"hotpage {words[0]} has ended")
    return done.stdout


def passes(pid: int) -> int:
    """How many arming passes over its memory a process has had, by the kernel's own count."""
    lines = Path(f"/proc/{pid}/sched").read_text().splitlines()
    return next(int(line.rpartition(":")[2]) for line in lines if line.startswith("mm->numa_scan_seq"))


def record(workload: Zipf, profile: Path) -> None:
    """Profile the workload for ``LOOK_PASSES``: how many seconds they take depends on who else is busy."""
    command = [sys.executable, "-P", "-m", "hotpage", "record", "-p", str(workload.pid)]
    command += ["--arm", "--budget", "100"]
    wanted = passes(workload.pid) + LOOK_PASSES
    recorder = subprocess.Popen([*command, "-o", str(profile)])
    deadline_s = time.monotonic() + LONGEST_LOOK_S
    while passes(workload.pid) < wanted:
        if recorder.poll() is not None or time.monotonic() > deadline_s:
            recorder.kill()
            raise SystemExit(f"there were no {LOOK_PASSES} arming passes")
        time.sleep(0.5)
    recorder.send_signal(signal.SIGINT)
    recorder.wait()
    say("hotpage record has ended")


def promote(workload: Zipf, profile: Path, *options: object) -> dict[str, Any]:
    """Promote by the profile, and measure the share of accesses that go to fast memory since."""
    words = ("move", "-i", profile, "--promote", "--limit", f"{LIMIT_MIB}M", "--json", *options)
    document = json.loads(hotpage(*words))
    result = document["result"]
    say(f"bytes that were kept where they were, by reason: {document['kept_bytes']}")
    accesses = workload.accesses(WINDOW_S)
    is_fast = MovePages().query(workload.pid, workload.vpn) == FAST
    best = np.sort(accesses)[::-1][: int(is_fast.sum())]
    return {
        "fast_share": float(accesses[is_fast].sum() / accesses.sum()),
        "oracle_share": float(best.sum() / accesses.sum()),
        "moved_mib": result["moved_bytes"] / 2**20,
        "bytes": result["bytes"],
        "accesses_per_s": float(accesses.sum() / WINDOW_S),
    }


def order(
    mover: MovePagesMover, workload: Zipf, vpn: npt.NDArray[np.int64], source: int, target: int
) -> tuple[float, Outcome]:
    """Have a mover move pages: how many seconds it took, and what it says of them."""
    stat = read_stat(workload.pid)
    assert stat is not None
    facts = ProcessFacts(workload.pid, stat.start_time_ticks, stat.image, stat.comm, "/", frozenset({0, 1}))
    move = Move(0, source, target, True, "", vpn, np.ones(vpn.size, np.int32), 1.0, 1.0, 1.0)
    begun = time.perf_counter()
    outcome = mover.run(Plan("bench", (move,), {}), {0: facts})
    return time.perf_counter() - begun, outcome


def throughput(workload: Zipf, peer: str) -> dict[str, float]:
    """Pages per second of the mover and of the bare loop, on the same pages, in turn.

    The mover's calls are bounded by time. ``hasty``'s bound is the one that holds anywhere, which makes its
    calls small here, and each call has a cost of its own; ``patient``'s is longer, as the move of a page is.
    The loop takes calls of ``LOOP_BATCH``, and on one way calls as large as ``patient``'s were.
    """
    patient, hasty = MovePagesMover(call_s=SLOWER * CALL_S), MovePagesMover()
    workload.process.send_signal(signal.SIGSTOP)  # nothing but the moves
    vpn = workload.vpn[:LOOP_PAGES]

    def by_loop(target: int, batch: int = LOOP_BATCH) -> float:
        words = [workload.pid, workload.vpn[0] * PAGE, vpn.size, target, batch]
        done = subprocess.run([peer, "loop", *map(str, words)], capture_output=True, text=True, check=True)
        return float(done.stdout)

    by_loop(SLOW)
    ours, hasty_ours, theirs, alike, in_calls, calls = [], [], [], [], [], []
    for _ in range(LOOP_ROUNDS):
        for source, target in ((SLOW, FAST), (FAST, SLOW)):
            took_s, outcome = order(patient, workload, vpn, source, target)
            assert outcome.moved_bytes == vpn.size * PAGE
            ours.append(took_s)
            in_calls.append(outcome.call_s / took_s)
            calls.append(outcome.calls)
            alike.append(by_loop(source, vpn.size // outcome.calls))
            theirs.append(by_loop(target))
            by_loop(source)
            took_s, outcome = order(hasty, workload, vpn, source, target)
            assert outcome.moved_bytes == vpn.size * PAGE
            hasty_ours.append(took_s)
    workload.process.send_signal(signal.SIGCONT)
    ours_s, theirs_s = float(np.median(ours)), float(np.median(theirs))
    return {
        "mover_pages_per_s": vpn.size / ours_s,
        "loop_pages_per_s": vpn.size / theirs_s,
        "mover_to_loop": theirs_s / ours_s,
        "mover_within_20_ms_to_loop": theirs_s / float(np.median(hasty_ours)),
        "mover_to_loop_of_such_calls": float(np.median(alike)) / ours_s,
        "mover_pages_per_call": vpn.size / float(np.median(calls)),
        "mover_in_calls": float(np.median(in_calls)),
    }


def main() -> None:
    peer, seed = sys.argv[1], int(sys.argv[2])
    numbers: dict[str, Any] = {"kernel": os.uname().release}
    os.sched_setaffinity(0, {0})
    NUMA_BALANCING.write_text("0")  # else the kernel has moved the workload before anybody looks
    with tempfile.TemporaryDirectory() as directory, zipf(peer, Path(directory), seed) as workload:
        profile = Path(directory) / "profile"
        say("the workload runs")
        record(workload, profile)
        numbers["fit"] = promote(workload, profile)
        order(MovePagesMover(), workload, workload.vpn, FAST, SLOW)
        numbers["random"] = promote(workload, profile, "--policy", "random", "--seed", seed)
        numbers["throughput"] = throughput(workload, peer)
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
