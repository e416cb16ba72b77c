# SPDX-License-Identifier: Apache-2.0
"""Where the pages of a plan are, asked of that very process."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from hotpage.arrays import Bools, Int64s, Uint8s
from hotpage.machine.folios import present_pages
from hotpage.machine.identity import ProcessHandle
from hotpage.machine.numa import Addresses, MovePages, Statuses, hides_armed_pages
from hotpage.placement.outcome import RESULT_OF_ERRNO, Result
from hotpage.placement.plan import Move, ProcessFacts


class Kernel(Protocol):
    """What is asked of the kernel; machine.numa.MovePages, or a fake one in tests."""

    def __call__(
        self, pid: int, addresses: Addresses, nodes: Statuses | None, status: Statuses, flags: int
    ) -> int:
        """move_pages(2)."""

    def query(self, pid: int, vpn: Int64s) -> Statuses:
        """Node of each page or negative errno."""


@dataclass(frozen=True)
class Whereabouts:
    """``hides_armed``: this kernel does not tell where armed pages are; then ``is_present`` knows them from
    missing ones.
    """

    kernel: Kernel
    hides_armed: bool = False
    is_present: Callable[[int, Int64s], Bools] = present_pages
    identify: Callable[[int, int, tuple[int, int]], ProcessHandle | None] = ProcessHandle.open

    @classmethod
    def here(cls) -> Self:
        """Of this machine's kernel. Raises UnsupportedError where there is no move_pages(2)."""
        kernel = MovePages()
        return cls(kernel, hides_armed_pages(kernel))

    def open(self, facts: ProcessFacts) -> ProcessHandle | None:
        """The process, if it is still that one."""
        return self.identify(facts.pid, facts.start_time_ticks, facts.image)

    def results(self, move: Move, facts: ProcessFacts, vpn: Int64s) -> Uint8s:
        """What is to be said of pages of a move as they are: those on its source are UNTRIED."""
        handle = self.open(facts)
        if handle is None:
            return np.full(vpn.size, Result.GONE, np.uint8)
        with handle:
            status = self.kernel.query(handle.pid, vpn)
            if not handle.is_same():  # what the query said may be about another process
                return np.full(vpn.size, Result.GONE, np.uint8)
        results = np.full(vpn.size, Result.ELSEWHERE, np.uint8)
        results[status == move.source] = Result.UNTRIED
        results[status == move.target] = Result.ALREADY
        for code in np.unique(status[status < 0]).tolist():
            results[status == code] = RESULT_OF_ERRNO.get(-code, Result.REFUSED)
        if self.hides_armed:
            hidden = np.flatnonzero(status == -errno.ENOENT)
            results[hidden[self.is_present(facts.pid, vpn[hidden])]] = Result.ARMED
        return results
