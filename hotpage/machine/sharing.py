# SPDX-License-Identifier: Apache-2.0
"""Pages that several processes map copy-on-write, as after a fork: the kernel's NUMA scan leaves them out."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from hotpage.arrays import Bools
from hotpage.machine.folios import HUGE_PAGES, huge_blocks
from hotpage.machine.pagemap import EXCLUSIVE, PRESENT, entries, opened
from hotpage.machine.proc import PROC

_AT_ONCE: Final = 1 << 15
MOST_RANGES: Final = 1024
"""Of a process; beyond, those with the least between them are joined."""

Range = tuple[int, int]


def shared_ranges(pid: int, spans: Iterable[Range], proc_root: Path = PROC) -> list[Range]:
    """Page ranges [start, end) within ``spans`` (page numbers, ascending, of private mappings) whose base
    pages are in memory, and other page tables map them too.

    Parts of a huge page are not among them, for the kernel arms those. Empty when the process has gone.
    """
    found: list[Range] = []
    try:
        with opened(pid, proc_root) as pagemap:
            for start, end in spans:
                for low in range(start, end, _AT_ONCE):
                    part = entries(pagemap, low, min(_AT_ONCE, end - low))
                    found += runs((part & PRESENT != 0) & (part & EXCLUSIVE == 0), low)
    except OSError:  # it has gone
        return []
    return joined([part for one in found for part in _without_huge(pid, one, proc_root)])


def without(start: int, end: int, left_out: list[Range]) -> Iterator[Range]:
    """[start, end) without the ranges ``left_out`` (ascending, disjoint)."""
    for low, high in left_out:
        if high <= start:
            continue
        if low >= end:
            break
        if start < low:
            yield start, low
        start = high
    if start < end:
        yield start, end


def union(ranges: Iterable[Range], most: int = MOST_RANGES) -> list[Range]:
    """Ranges in any order, which may overlap, as ``joined`` ones."""
    disjoint: list[Range] = []
    for start, end in sorted(ranges):
        if disjoint and start <= disjoint[-1][1]:
            disjoint[-1] = disjoint[-1][0], max(end, disjoint[-1][1])
        else:
            disjoint.append((start, end))
    return joined(disjoint, most)


def joined(ranges: list[Range], most: int = MOST_RANGES) -> list[Range]:
    """At most so many ranges: neighbours joined, those that touch and then those with the least between."""
    if not ranges:
        return []
    start, end = np.array(ranges, np.int64).T
    gap = start[1:] - end[:-1]
    least = 1
    if np.count_nonzero(gap) >= most:
        least = int(np.sort(gap)[-(most - 1)]) + 1 if most > 1 else int(gap.max()) + 1
    cut = gap >= least
    return list(zip(start[np.append(True, cut)].tolist(), end[np.append(cut, True)].tolist(), strict=True))


def runs(chosen: Bools, first: int) -> list[Range]:
    """The ranges of chosen pages, of those from ``first`` on."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False)) + first
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _without_huge(pid: int, one: Range, proc_root: Path) -> Iterator[Range]:
    blocks = np.arange(-(-one[0] // HUGE_PAGES), one[1] // HUGE_PAGES)
    huge = blocks[huge_blocks(pid, blocks, proc_root)] if blocks.size else blocks
    return without(*one, [(block * HUGE_PAGES, (block + 1) * HUGE_PAGES) for block in huge.tolist()])
