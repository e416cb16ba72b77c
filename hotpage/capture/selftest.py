# SPDX-License-Identifier: Apache-2.0
"""Make a few known accesses and see them: a source that attaches but sees nothing is refused.

The accesses are made by hotpage itself to a mapping of its own. A hint fault cannot be had without turning
NUMA balancing on, but the page table walk can be shown its like: on a PROT_NONE mapping the entries look
exactly as if armed, and a read(2) into it faults inside the kernel and fails with EFAULT, harmlessly.

Memory samples: a hardware breakpoint on a byte of our own runs the very program that samples run, an exact
number of times. A PMU in addition has to sample at least once while memory larger than the caches is read at
random. Where the processor lends no breakpoint, that alone is the test.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hotpage.capture import perf
from hotpage.capture.events import EVENT_DTYPE, Events, EventSource, join
from hotpage.capture.sources import Rung, RungFailed

if TYPE_CHECKING:
    from hotpage.capture.capture import Capture

TOUCHED_PAGES = 23
"""A prime, so that no other loop produces the number by chance."""
_PROT_NONE, _PROT_READ_WRITE = 0, 3
_READ_AT_RANDOM_BYTES = 128 << 20
_READS = 1 << 20
_LONGEST_READING_S = 3.0


def run(capture: Capture) -> None:
    """Test every source of a capture that has no target yet; raises RungFailed for the first that fails."""
    length = TOUCHED_PAGES * mmap.PAGESIZE
    sampling = capture.rungs.get("sample")
    before: Events = np.empty(0, EVENT_DTYPE)
    with mmap.mmap(-1, length) as pages:
        start = _address(pages)
        with suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_NOHUGEPAGE)
        capture.set_self_test(True)
        try:
            for offset in range(0, length, mmap.PAGESIZE):
                pages[offset] = 1
            if sampling is not None:
                before = _test_samples(capture, sampling, pages, start)
            if any(rung.walks_page_tables for rung in capture.rungs.values()):
                _fault_on_protected_pages(pages, start, length)
        finally:
            capture.set_self_test(False)
    events = join([before, capture.read()])
    mine = events[(events["address"] >= start) & (events["address"] < start + length)]
    for name, rung in capture.rungs.items():
        if name == "sample":
            continue
        if name == "hint" and not rung.walks_page_tables:
            continue  # these hooks run in hint faults only, which nothing but arming causes
        source = EventSource.HINT_FAULT if name == "hint" else EventSource.PAGE_FAULT
        seen = len(np.unique(mine["address"][mine["source"] == source] // mmap.PAGESIZE))
        if seen != TOUCHED_PAGES:
            raise RungFailed([name], f"attached, but saw {seen} of {TOUCHED_PAGES} test accesses")


def _fault_on_protected_pages(pages: mmap.mmap, start: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    protect = libc.mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    libc.pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)
    protect(start, length, _PROT_NONE)
    try:
        with Path("/dev/zero").open("rb", buffering=0) as zero:
            for offset in range(0, length, mmap.PAGESIZE):
                libc.pread(zero.fileno(), start + offset, 1, 0)
    finally:
        protect(start, length, _PROT_READ_WRITE)


def _address(memory: mmap.mmap) -> int:
    anchor = ctypes.c_char.from_buffer(memory)
    return ctypes.addressof(anchor)


def _test_samples(capture: Capture, rung: Rung, pages: mmap.mmap, start: int) -> Events:
    """Everything that was captured meanwhile; ``pages`` have just been touched. Raises RungFailed."""
    batches = [capture.read()]
    if rung.samples_page_faults:
        _demand(TOUCHED_PAGES, len(np.unique(_samples_within(batches[0], pages, start) // mmap.PAGESIZE)))
    try:
        with _breakpoint(start + 8, capture.program(rung.attachments[0])):
            for number in range(TOUCHED_PAGES):
                pages[8] = number
    except OSError as error:
        # No debug register is free. What samples page faults has been tested, and a PMU will be.
        if rung.only_by_name and not rung.samples_page_faults:
            problem = f"no debug register is free for the self-test ({error.strerror})"
            raise RungFailed(["sample"], problem) from error
    else:
        batches.append(capture.read())
        _demand(TOUCHED_PAGES, np.count_nonzero(_samples_within(batches[-1], pages, start) == start + 8))
    if not rung.only_by_name:
        batches.append(_read_at_random(capture))
    return join(batches)


def _samples_within(events: Events, memory: mmap.mmap, start: int) -> NDArray[np.uint64]:
    """The addresses of the memory samples that lie in a mapping."""
    address = events["address"][events["source"] == EventSource.MEMORY_SAMPLE]
    found: NDArray[np.uint64] = address[(address >= start) & (address < start + len(memory))]
    return found


def _demand(expected: int, seen: int | np.integer) -> None:
    if seen != expected:
        raise RungFailed(["sample"], f"attached, but saw {seen} of {expected} test accesses")


def _read_at_random(capture: Capture) -> Events:
    """Miss the caches until the PMU has sampled that."""
    batches = []
    with mmap.mmap(-1, _READ_AT_RANDOM_BYTES) as memory:
        start, cells = _address(memory), np.frombuffer(memory, np.uint8)
        cells[:: mmap.PAGESIZE] = 1
        places = np.random.default_rng(0).integers(0, len(cells), _READS)
        end = time.monotonic() + _LONGEST_READING_S
        while True:
            cells.take(places)
            batches.append(capture.read())
            if len(_samples_within(batches[-1], memory, start)):
                break
            if time.monotonic() > end:
                del cells
                raise RungFailed(
                    ["sample"], "attached, but sampled none of many reads that missed the caches"
                )
        del cells
    return join(batches)


@contextmanager
def _breakpoint(address: int, program: int) -> Iterator[None]:
    """Run the program for this thread's accesses to 8 bytes."""
    opened = perf.attach(perf.breakpoint_at(address, read=False), -1, program, pid=0)
    try:
        yield
    finally:
        for fd in reversed(opened):
            os.close(fd)
