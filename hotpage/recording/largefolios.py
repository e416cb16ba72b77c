# SPDX-License-Identifier: Apache-2.0
"""Which pages of a process fault together: a huge page's, and from Linux 6.10 on those of any large folio."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hotpage.capture.events import EventFlag
from hotpage.machine.folios import HUGE_PAGES, PAGE_BYTES

_SETTINGS: Final = Path("/sys/kernel/mm/transparent_hugepage")


def enabled_folio_kb(root: Path = _SETTINGS) -> list[int]:
    """Sizes below a huge page's that anonymous memory may come in, ascending."""

    def read(path: Path) -> str:
        chosen = re.search(r"\[(\w+)\]", path.read_text())
        return chosen[1] if chosen else "never"

    sizes = []
    with contextlib.suppress(OSError):
        for directory in root.glob("hugepages-*kB"):
            size_kb = int(directory.name[len("hugepages-") : -len("kB")])
            chosen = read(directory / "enabled")
            if (
                size_kb << 10 < HUGE_PAGES * PAGE_BYTES
                and (read(root / "enabled") if chosen == "inherit" else chosen) != "never"
            ):
                sizes.append(size_kb)
    return sorted(sizes)


def fault_as_a_whole(kernel_release: str) -> bool:
    """Whether that kernel disarms all of a large folio where one of its pages faults."""
    version = re.match(r"(\d+)\.(\d+)", kernel_release)
    return version is not None and (int(version[1]), int(version[2])) >= (6, 10)


def folio_pages(count: NDArray[np.uint32], flags: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The size of each hint fault's folio in base pages, a power of two; 1 where nobody tells.

    ``count`` and ``flags``: its fields ``pages`` and ``flags``.
    """
    pages = np.clip(count.astype(np.int64), 1, HUGE_PAGES)
    pages[pages & (pages - 1) != 0] = 1
    pages[(flags & EventFlag.HUGE) != 0] = HUGE_PAGES
    return pages


def heads_of(vpn: NDArray[np.int64], pages: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """The first page of the folio of that size that each page would be part of: as good as always they are
    mapped where their size is aligned.
    """
    return vpn & -np.asarray(pages, np.int64)


class LargeFolios:
    """One process's large folios, as its hint faults have shown them."""

    def __init__(self) -> None:
        self._heads: dict[int, set[int]] = {}  # by size; the first page of each

    def note(self, heads: NDArray[np.int64], pages: NDArray[np.int64]) -> None:
        """Folios of these sizes have faulted, base pages among them: no other is there any more."""
        sizes = np.unique(pages).tolist()
        for size in {*self._heads, *sizes} - {1}:
            is_it = pages == size
            known = self._heads.setdefault(size, set())
            known.difference_update(heads_of(heads[~is_it], size).tolist())  # split since, or merged
            known.update(heads[is_it].tolist())

    def pages_at(self, vpn: NDArray[np.int64]) -> NDArray[np.int64]:
        """The size of the folio that each page is part of; 1: none known."""
        pages = np.ones(vpn.size, np.int64)
        for size, heads in sorted(self._heads.items()):
            if heads:
                pages[np.isin(heads_of(vpn, size), np.fromiter(heads, np.int64, len(heads)))] = size
        return pages

    def clear(self, start_vpn: int, end_vpn: int) -> None:
        """These pages were unmapped, and the kernel splits what that leaves a part of."""
        for size, heads in self._heads.items():
            heads.difference_update([head for head in heads if start_vpn - size < head < end_vpn])
