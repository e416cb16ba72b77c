# SPDX-License-Identifier: Apache-2.0
"""Which pages of a mapped file are dirty, as the kernel at hand tells."""

import ctypes
import mmap
import os
from pathlib import Path

from hotpage.machine.dirty import dirty_ranges
from hotpage.machine.vmas import read_residency

PAGES = 16


def test_written_pages_are_dirty_until_they_are_on_disk() -> None:
    path = Path(__file__).with_name(f"dirty-{os.getpid()}.tmp")  # /tmp may have no disk
    with path.open("w+b") as file:
        path.unlink()
        file.truncate(PAGES * mmap.PAGESIZE)
        memory = mmap.mmap(file.fileno(), PAGES * mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        first = start // mmap.PAGESIZE

        def dirty() -> list[int]:
            found = dirty_ranges(os.getpid(), [(first, first + PAGES)])
            return [page - first for low, high in found for page in range(low, high)]

        memory.flush()
        assert dirty() == []
        for page in (2, 3, 9):
            memory[page * mmap.PAGESIZE] = 1
        assert dirty() == [2, 3, 9]
        residency = read_residency(os.getpid()).get(start)
        assert residency is None or residency.dirty_file_pages == 3
        memory.flush()
        assert dirty() == []
