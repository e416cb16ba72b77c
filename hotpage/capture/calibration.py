# SPDX-License-Identifier: Apache-2.0
"""Find where the kernel maps physical memory, for the programs that walk page tables.

With CONFIG_RANDOMIZE_MEMORY the direct map begins at a random multiple of 1 GiB. The page table of a process
lies in it, so the base is the table's own address rounded down to 1 GiB, less a whole number of GiB that is
smaller than the highest physical address. /proc/self/pagemap tells the true frame of one of our pages; the
``calibrate`` program tries base after base until the walk arrives at that frame.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from pathlib import Path

import numpy as np

from hotpage.capture import bpf
from hotpage.capture.events import CONFIG_DTYPE
from hotpage.errors import UnsupportedError
from hotpage.machine.pagemap import FRAME, PRESENT, entries, opened

_CANDIDATES_A_RUN = 32  # the loop bound in pagefault.bpf.c


def _own_frame(address: int) -> int | None:
    """The page frame behind one of this process's addresses, if pagemap tells (CAP_SYS_ADMIN)."""
    with opened("self") as pagemap:
        (entry,) = entries(pagemap, address // mmap.PAGESIZE, 1)
    return int(entry & FRAME) or None if entry & PRESENT else None


def _highest_physical_gib() -> int:
    """Upper bound of physical addresses, from the zones of all nodes."""
    highest = start = spanned = 0
    for line in Path("/proc/zoneinfo").read_text().splitlines():
        words = line.split()
        if words[:1] == ["spanned"]:
            spanned = int(words[1])
        elif words[:1] == ["start_pfn:"]:
            start = int(words[1])
            highest = max(highest, (start + spanned) * mmap.PAGESIZE)
    return (highest >> 30) + 1


def find_direct_map(program_fd: int, config_fd: int) -> int:
    """Where the direct map begins, as ``calibrate`` finds it. The config that it leaves is for nothing else.

    Raises UnsupportedError, which says why it cannot be found.
    """
    key = struct.pack("<I", 0)
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        page[0] = 1
        anchor = ctypes.c_char.from_buffer(page)
        address = ctypes.addressof(anchor)
        del anchor
        frame = _own_frame(address)
        if frame is None:
            raise UnsupportedError("/proc/self/pagemap does not tell page frames")
        config = np.zeros(1, CONFIG_DTYPE)
        config["calibrate_address"], config["calibrate_frame"] = address, frame
        for first in range(0, _highest_physical_gib() + 1, _CANDIDATES_A_RUN):
            config["calibrate_first"] = first
            bpf.map_update(config_fd, key, config.tobytes())
            try:
                bpf.run_once(program_fd)
            except OSError as error:
                raise UnsupportedError(f"BPF_PROG_TEST_RUN: {error.strerror}") from error
            found = np.frombuffer(bpf.map_lookup(config_fd, key, CONFIG_DTYPE.itemsize), CONFIG_DTYPE)
            if base := int(found["page_offset_base"][0]):
                return base
    raise UnsupportedError("the page tables are not where they were looked for (encrypted memory?)")
