# SPDX-License-Identifier: Apache-2.0
"""Which pages of a process are parts of one huge page: they move together, so they count once."""

import contextlib
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Int64s
from hotpage.machine.pagemap import FRAME, PRESENT, entries, opened
from hotpage.machine.proc import PROC

PAGE_BYTES: Final = 4096
"""The unit of page numbers (vpn), not the size of every page."""
HUGE_PAGES: Final = 512
"""Base pages of a huge page, aligned in both address spaces."""

# Of /proc/kpageflags: Documentation/admin-guide/mm/pagemap.rst.
_KPF_HUGE: Final = np.uint64(1 << 17)
_KPF_THP: Final = np.uint64(1 << 22)


def huge_blocks(pid: int, block: Int64s, proc_root: Path = PROC) -> npt.NDArray[np.bool_]:
    """Whether each block of 512 pages (number: vpn / 512) is mapped by one huge page.

    All False where the kernel does not tell (no CAP_SYS_ADMIN), or the process has gone: such pages are then
    moved one by one, which is slower and as right.
    """
    result = np.zeros(block.size, np.bool_)
    with (
        contextlib.suppress(OSError),
        opened(pid, proc_root) as pagemap,
        (proc_root / "kpageflags").open("rb", buffering=0) as flags,
    ):
        for place, number in enumerate(block.tolist()):
            result[place] = _is_huge(pagemap, flags, number)
    return result


def _is_huge(pagemap: FileIO, flags: FileIO, block: int) -> bool:
    # The first entry rules most blocks out.
    first = entries(pagemap, block * HUGE_PAGES, 1)
    entry = int(first[0]) if first.size else 0
    frame = entry & int(FRAME)
    if not entry & int(PRESENT) or not frame or frame % HUGE_PAGES:
        return False
    whole = entries(pagemap, block * HUGE_PAGES, HUGE_PAGES)
    if whole.size < HUGE_PAGES or not (whole & PRESENT).all():
        return False
    if not (np.diff((whole & FRAME).astype(np.int64)) == 1).all():
        return False
    return bool((entries(flags, frame, 1) & (_KPF_THP | _KPF_HUGE)).any())


def present_pages(pid: int, vpn: Int64s, proc_root: Path = PROC) -> npt.NDArray[np.bool_]:
    """Whether each page is in memory, armed ones included; all False when the process has gone."""
    blocks, block_of = np.unique(vpn // HUGE_PAGES, return_inverse=True)
    found = np.zeros((blocks.size, HUGE_PAGES), np.uint64)
    with contextlib.suppress(OSError), opened(pid, proc_root) as pagemap:
        for place, number in enumerate(blocks.tolist()):
            row = entries(pagemap, number * HUGE_PAGES, HUGE_PAGES)
            found[place, : row.size] = row
    return (found[block_of, vpn % HUGE_PAGES] & PRESENT).astype(np.bool_)
