# SPDX-License-Identifier: Apache-2.0
"""exerciser.c in numpy, for machines without a compiler: the same options, output and accesses.

Run by path, with numpy's libraries told to start no threads (see hotpage.exerciser): needs nothing of
hotpage.
"""

import argparse
import contextlib
import ctypes
import json
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAGE = mmap.PAGESIZE
HUGE_PAGE = 2 << 20
MAX_THREADS = 64
BATCH = 4096
COUNTER_STRIDE = 8
PR_SET_PDEATHSIG = 1


class Workload:
    """What the threads share; see exerciser.c for the meaning of each option."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.pages: int = options.mib << 8
        self.stop = False
        self.end_s = time.monotonic() + options.seconds if options.seconds else float("inf")
        with Path(options.counters).open("w+b") as file:
            file.truncate(MAX_THREADS * COUNTER_STRIDE * 8)
            self._mapping = mmap.mmap(file.fileno(), 0)
        self.counters = np.frombuffer(self._mapping, np.uint64)[::COUNTER_STRIDE]
        hot = np.fromfile(options.hot_pages, np.uint32) if options.hot_pages else np.empty(0, np.uint32)
        self.hot = hot.astype(np.int64)
        self.cold = np.setdiff1d(np.arange(self.pages, dtype=np.int64), self.hot)
        self.hot_share = options.hot_share if self.hot.size else 0.0
        if not self.cold.size:
            self.hot_share = 1.0
        self.draws = np.fromfile(options.draws, np.uint32).astype(np.int64) if options.draws else None
        self.shift = 0

    def ticks(self, thread: int) -> Iterator[None]:
        """Yield until the end; the first thread keeps the time for all."""
        interval_s = self.options.interval
        next_s = time.monotonic() + interval_s
        while not self.stop:
            yield
            if thread:
                continue
            time_s = time.monotonic()
            if interval_s and time_s >= next_s:
                report({"time_s": round(time_s, 6), "accesses": int(self.counters.sum())})
                next_s += interval_s
            if time_s >= self.end_s:
                self.stop = True

    def access(self, thread: int, memory: NDArray[np.uint8]) -> None:
        """Write to random pages, another cache line of the page each time."""
        random = np.random.Generator(np.random.SFC64(thread))
        for _ in self.ticks(thread):
            if self.draws is not None:
                pages = self.draws[random.integers(0, self.draws.size, BATCH)]
            else:
                hot_count = random.binomial(BATCH, self.hot_share)
                pages = np.concatenate(
                    [
                        self.hot[random.integers(0, max(self.hot.size, 1), hot_count)],
                        self.cold[random.integers(0, max(self.cold.size, 1), BATCH - hot_count)],
                    ]
                )
            pages = (pages + self.shift) % self.pages
            self.compute(random, BATCH)
            memory[pages * PAGE + random.integers(0, 64, BATCH) * 64] += 1
            self.counters[thread] += np.uint64(BATCH)

    def compute(self, random: np.random.Generator, accesses: int) -> None:
        """Time in which the pages are left alone."""
        for _ in range(self.options.work):
            random.integers(0, 64, accesses)

    def sweep(self, thread: int, memory: NDArray[np.uint8]) -> None:
        """Write to every stride'th page in turn."""
        random = np.random.Generator(np.random.SFC64(thread))
        pages = np.arange(0, self.pages, self.options.stride, dtype=np.int64)
        ticks = self.ticks(thread)
        while not self.stop:
            for start in range(0, len(pages), BATCH):
                some = pages[start : start + BATCH]
                self.compute(random, len(some))
                memory[some * PAGE + (np.arange(len(some)) & 63) * 64] += 1
                self.counters[thread] += np.uint64(len(some))
                if next(ticks, self) is self:
                    break

    def storm(self, thread: int) -> None:
        """Map this thread's share, touch each page once, unmap, and again."""
        share = self.pages // self.options.threads
        ticks = self.ticks(thread)
        while not self.stop:
            memory = map_pages(share)
            for start in range(0, share, BATCH):
                memory[start * PAGE : (start + BATCH) * PAGE : PAGE] = 1
                self.counters[thread] += np.uint64(min(BATCH, share - start))
                if next(ticks, self) is self:
                    break
            del memory


def map_pages(count: int, huge: bool = False) -> NDArray[np.uint8]:
    """Return ``count`` fresh private pages of 4 KiB as bytes, or the same in huge pages."""
    memory = mmap.mmap(-1, count * PAGE + (HUGE_PAGE if huge else 0), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge:
        memory.madvise(mmap.MADV_HUGEPAGE)
        bytes_ = np.frombuffer(memory, np.uint8)
        return bytes_[-bytes_.ctypes.data % HUGE_PAGE :][: count * PAGE]
    with contextlib.suppress(OSError):  # a kernel without huge pages is as good
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def report(record: dict[str, float]) -> None:
    print(json.dumps(record), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="exerciser", description="exerciser.c in numpy.")
    parser.add_argument("mode", choices=["access", "sweep", "storm"])
    parser.add_argument("--mib", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, choices=range(1, MAX_THREADS + 1))
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--hot-pages", type=Path)
    parser.add_argument("--hot-share", type=float, default=0.9)
    parser.add_argument("--draws", type=Path)
    parser.add_argument("--shift", type=int, default=0)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--work", type=int, default=0)
    parser.add_argument("--huge", action="store_true")
    parser.add_argument("--interval", type=float, default=0)
    parser.add_argument("--counters", type=Path, required=True)
    parser.add_argument("--parent", type=int)
    options = parser.parse_args()

    if options.parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != options.parent:
            sys.exit(1)
    workload = Workload(options)

    def on_signal(_signal: int, _frame: object) -> None:
        workload.stop = True

    def on_shift(_signal: int, _frame: object) -> None:
        workload.shift = (workload.shift + options.shift) % workload.pages

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGUSR1, on_shift)

    run: Callable[[int], None] = workload.storm
    base = 0
    if options.mode != "storm":
        memory = map_pages(workload.pages, options.huge)
        memory[::PAGE] = 1
        base = memory.ctypes.data

        def run(thread: int) -> None:
            (workload.sweep if options.mode == "sweep" else workload.access)(thread, memory)

    report({"pid": os.getpid(), "base": base, "pages": workload.pages})
    others = [threading.Thread(target=run, args=(thread,)) for thread in range(1, options.threads)]
    for other in others:
        other.start()
    run(0)
    for other in others:
        other.join()


if __name__ == "__main__":
    main()
