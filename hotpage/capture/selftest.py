# SPDX-License-Identifier: Apache-2.0
"""Make a few known accesses and see them: a source that attaches but sees nothing is refused.

The accesses are made by hotpage itself to a mapping of its own. A hint fault cannot be had without turning
NUMA balancing on, but the page table walk can be shown its like: on a PROT_NONE mapping the entries look
exactly as if armed, and a read(2) into it faults inside the kernel and fails with EFAULT, harmlessly.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hotpage.capture.events import EventSource
from hotpage.capture.sources import RungFailed

if TYPE_CHECKING:
    from hotpage.capture.capture import Capture

TOUCHED_PAGES = 23
"""A prime, so that no other loop produces the number by chance."""
_PROT_NONE, _PROT_READ_WRITE = 0, 3


def run(capture: Capture) -> None:
    """Test every source of a capture that has no target yet; raises RungFailed for the first that fails."""
    length = TOUCHED_PAGES * mmap.PAGESIZE
    with mmap.mmap(-1, length) as pages:
        anchor = ctypes.c_char.from_buffer(pages)
        start = ctypes.addressof(anchor)
        del anchor
        pages.madvise(mmap.MADV_NOHUGEPAGE)
        capture.set_self_test(True)
        try:
            for offset in range(0, length, mmap.PAGESIZE):
                pages[offset] = 1
            if any(rung.walks_page_tables for rung in capture.rungs.values()):
                _fault_on_protected_pages(pages, start, length)
        finally:
            capture.set_self_test(False)
    events = capture.read()
    mine = events[(events["address"] >= start) & (events["address"] < start + length)]
    for name, rung in capture.rungs.items():
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
