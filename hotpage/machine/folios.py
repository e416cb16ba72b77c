# SPDX-License-Identifier: Apache-2.0
"""Which pages of a process are parts of one huge page: they move together, so they count once."""

import os
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Int64s
from hotpage.machine.proc import PROC

PAGE_BYTES: Final = 4096
"""The unit of page numbers (vpn), not the size of every page."""
HUGE_PAGES: Final = 512
"""Base pages of a huge page, aligned in both address spaces."""

# Of Documentation/admin-guide/mm/pagemap.rst.
_PRESENT: Final = np.uint64(1 << 63)
_FRAME: Final = np.uint64((1 << 55) - 1)
_KPF_HUGE: Final = 1 << 17
_KPF_THP: Final = 1 << 22
_ENTRY_BYTES: Final = 8


def huge_blocks(pid: int, block: Int64s, proc_root: Path = PROC) -> npt.NDArray[np.bool_]:
    """Whether each block of 512 pages (number: vpn / 512) is mapped by one huge page.

    All False where the kernel does not tell (no CAP_SYS_ADMIN), or the process has gone: such pages are then
    moved one by one, which is slower and as right.
    """
    result = np.zeros(block.size, np.bool_)
    try:
        pagemap = os.open(proc_root / str(pid) / "pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return result
    try:
        flags = os.open(proc_root / "kpageflags", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        os.close(pagemap)
        return result
    try:
        for place, number in enumerate(block.tolist()):
            result[place] = _is_huge(pagemap, flags, number)
    except OSError:  # it has gone
        pass
    finally:
        os.close(pagemap)
        os.close(flags)
    return result


def _is_huge(pagemap: int, flags: int, block: int) -> bool:
    size = HUGE_PAGES * _ENTRY_BYTES
    # The first entry rules most blocks out.
    first = os.pread(pagemap, _ENTRY_BYTES, block * size)
    if len(first) < _ENTRY_BYTES:
        return False
    entry = int.from_bytes(first, "little")
    frame = entry & int(_FRAME)
    if not entry & int(_PRESENT) or not frame or frame % HUGE_PAGES:
        return False
    entries = np.frombuffer(os.pread(pagemap, size, block * size), np.uint64)
    if entries.size < HUGE_PAGES or not (entries & _PRESENT).all():
        return False
    if not (np.diff((entries & _FRAME).astype(np.int64)) == 1).all():
        return False
    flag = int.from_bytes(os.pread(flags, _ENTRY_BYTES, frame * _ENTRY_BYTES), "little")
    return bool(flag & (_KPF_THP | _KPF_HUGE))


def present_pages(pid: int, vpn: Int64s, proc_root: Path = PROC) -> npt.NDArray[np.bool_]:
    """Whether each page is in memory, armed ones included; all False when the process has gone."""
    result = np.zeros(vpn.size, np.bool_)
    try:
        pagemap = os.open(proc_root / str(pid) / "pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return result
    blocks, block_of = np.unique(vpn // HUGE_PAGES, return_inverse=True)
    entries = np.zeros((blocks.size, HUGE_PAGES), np.uint64)
    try:
        for place, number in enumerate(blocks.tolist()):
            os.preadv(pagemap, [entries[place].data], number * HUGE_PAGES * _ENTRY_BYTES)
    except OSError:
        pass
    finally:
        os.close(pagemap)
    result[:] = entries[block_of, vpn % HUGE_PAGES] & _PRESENT != 0
    return result
