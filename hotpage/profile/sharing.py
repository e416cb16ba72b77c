# SPDX-License-Identifier: Apache-2.0
"""Memory that several processes map: each shows it as its own, sums have it once.

Of one piece of memory it is not known which pages two processes both see. The one that sees most stands for
all: what is hot is what most is hot for anybody, what is hot or warm likewise, and so on, and so is what lies
on a node. Where all map the same that is exact, else it is too little, but never more than there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Bools, Float64s, Int64s, first_of_runs
from hotpage.machine.vmas import Vma

_T = TypeVar("_T", np.int64, np.float64)
_POSITIVE = (1 << 63) - 1


def memory_of(vma: Vma) -> int:
    """A number for the memory behind a mapping, the same for all that map it; 0: it is one process's own.

    Private mappings that may be written are: what was written is a copy. Mappings are told apart by file and
    offset, not by length.
    """
    is_own = vma.kind not in ("shared", "file") or (vma.permissions[1] == "w" and vma.permissions[3] == "p")
    return 0 if is_own else hash((vma.path, vma.inode, vma.offset)) & _POSITIVE or 1


@dataclass(frozen=True)
class Repeated:
    """The mappings whose memory others map as well."""

    rows: Int64s  # the mappings by number, those of one memory side by side
    first: Int64s  # of each memory: where it begins in ``rows``

    def surplus(self, sizes: Float64s) -> Float64s:
        """What the sums of these sizes (mappings of ``rows`` x any) have too much."""
        surplus: Float64s = sizes.sum(axis=0) - np.maximum.reduceat(sizes, self.first, axis=0).sum(axis=0)
        return surplus

    def surplus_by_class(self, sizes: Float64s) -> Float64s:
        """The same of sizes by class, the coldest first."""
        surplus = np.zeros(sizes.shape[1])
        used = np.flatnonzero(sizes.any(axis=0))[::-1]
        some: Float64s = sizes[:, used]
        surplus[used] = some.sum(axis=0) - seen_by_class(some, self.first).sum(axis=0)
        return surplus


def seen_by_class(sizes: npt.NDArray[_T], first: Int64s | list[int]) -> npt.NDArray[_T]:
    """What there is of each memory, by class as the sizes of its mappings are, the hottest class first.

    ``first``: of each memory, where its mappings begin.
    """
    upto: npt.NDArray[_T] = np.maximum.reduceat(np.cumsum(sizes, axis=1), first, axis=0)
    return np.diff(upto, axis=1, prepend=0)


def repeated(memory: Int64s, is_counted: Bools) -> Repeated:
    """Find them by their numbers (``memory_of``); only mappings that are counted matter."""
    some = np.flatnonzero((memory != 0) & is_counted)
    some = some[np.argsort(memory[some])]
    starts = first_of_runs(memory[some])
    lengths = np.diff(starts, append=len(some))
    has_others = lengths > 1
    rows = some[np.repeat(has_others, lengths)]
    return Repeated(rows, first_of_runs(memory[rows]))
