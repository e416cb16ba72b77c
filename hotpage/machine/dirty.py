# SPDX-License-Identifier: Apache-2.0
"""Pages of files that were written and are not on disk yet: the kernel's NUMA scan leaves them out.

Pages of tmpfs and other shared memory, which have no disk to go to, it does arm.
"""

from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Bools, Int64s
from hotpage.machine.pagemap import FRAME, PRESENT, entries, opened
from hotpage.machine.proc import PROC
from hotpage.machine.sharing import Range, joined, runs

# Of Documentation/admin-guide/mm/pagemap.rst.
_DIRTY, _SWAP_BACKED, _HEAD, _TAIL = (np.uint64(1 << bit) for bit in (4, 14, 15, 16))
_AT_ONCE: Final = 1 << 17
_WORTH_READING: Final = 64
"""So many flags between two that are wanted cost less than another call."""
_LARGEST_ORDER: Final = 9


def dirty_ranges(pid: int, spans: Iterable[Range], proc_root: Path = PROC) -> list[Range]:
    """Page ranges [start, end) within ``spans`` (page numbers, ascending, of mappings of files) that are in
    memory and dirty.

    Whole spans where the kernel does not tell (no CAP_SYS_ADMIN). Empty when the process has gone.
    """
    spans = list(spans)
    if not spans:
        return []
    try:
        with opened(pid, proc_root) as pagemap:
            try:
                flags = (proc_root / "kpageflags").open("rb", buffering=0)
            except OSError:
                return joined(spans)
            with flags:
                return joined([part for one in spans for part in _dirty_within(pagemap, flags, one)])
    except OSError:  # it has gone
        return []


def _dirty_within(pagemap: FileIO, flags: FileIO, span: Range) -> list[Range]:
    found: list[Range] = []
    start, end = span
    for low in range(start, end, _AT_ONCE):
        some = entries(pagemap, low, min(_AT_ONCE, end - low))
        is_present = some & PRESENT != 0
        frames = (some[is_present] & FRAME).astype(np.int64)
        if not frames.all():  # they are hidden
            return [span]
        is_dirty = np.zeros(some.size, np.bool_)
        is_dirty[is_present] = _are_dirty(flags, frames)
        found += runs(is_dirty, low)
    return found


def _are_dirty(flags: FileIO, frames: Int64s) -> Bools:
    """Whether each frame holds a dirty page of a file; some kernels tell of a folio's first page only."""
    found = _flags_of(flags, frames)
    tails = np.flatnonzero((found & _TAIL != 0) & (found & (_DIRTY | _SWAP_BACKED) == 0))
    for order in range(1, _LARGEST_ORDER + 1):
        if not tails.size:
            break
        of_head = _flags_of(flags, frames[tails] >> order << order)
        is_head = of_head & _HEAD != 0
        found[tails[is_head]] = of_head[is_head]
        tails = tails[~is_head]
    dirty: Bools = found & (_DIRTY | _SWAP_BACKED) == _DIRTY
    return dirty


def _flags_of(file: FileIO, frames: Int64s) -> npt.NDArray[np.uint64]:
    """One call for many frames that are near each other: there may be millions."""
    wanted, place = np.unique(frames, return_inverse=True)
    if not wanted.size:
        return np.empty(0, np.uint64)
    cut = np.diff(wanted) > _WORTH_READING
    first, last = wanted[np.append(True, cut)], wanted[np.append(cut, True)]
    parts = [entries(file, *one) for one in zip(first.tolist(), (last - first + 1).tolist(), strict=True)]
    parts.append(np.zeros(1 + int(last[-1] - first[-1]), np.uint64))  # of frames past the last
    sizes = [part.size for part in parts[:-1]]
    shift = np.cumsum([0, *sizes[:-1]]) - first
    found: npt.NDArray[np.uint64] = np.concatenate(parts)[
        (wanted + shift[np.cumsum(np.append(False, cut))])[place]
    ]
    return found
