# SPDX-License-Identifier: Apache-2.0
"""What became of a plan: every requested page is moved, was there already, or failed in a named way."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from hotpage.arrays import Int64s, Uint8s, offsets
from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.plan import Move


class Result(IntEnum):
    """Of one base page of a plan."""

    UNTRIED = 0
    MOVED = 1
    ALREADY = 2
    NOT_PRESENT = 3
    ARMED = 4
    SHARED = 5
    PINNED = 6
    BUSY = 7
    NO_ROOM = 8
    FORBIDDEN = 9
    NO_NODE = 10
    GONE = 11
    NOT_PERMITTED = 12
    ELSEWHERE = 13
    REFUSED = 14
    PLANNED = 15
    LEFT = 16


RESULT_WORDS = {
    Result.UNTRIED: "not tried: stopped before",
    Result.MOVED: "moved",
    Result.ALREADY: "there already",
    Result.NOT_PRESENT: "no longer in memory",
    Result.ARMED: "armed for a hint fault, which this kernel cannot move; try again when they were accessed",
    Result.SHARED: "shared with another process",
    Result.PINNED: "pinned",
    Result.BUSY: "busy: off the lists for a moment",
    Result.NO_ROOM: "no room on the target node",
    Result.FORBIDDEN: "the process's cpuset does not allow the target node",
    Result.NO_NODE: "there is no memory on the target node",
    Result.GONE: "the process has ended, or is another program now",
    Result.NOT_PERMITTED: "the process may not be touched (ptrace access)",
    Result.ELSEWHERE: "on another node than planned for",
    Result.REFUSED: "refused by the kernel",
    Result.PLANNED: "would move",
    Result.LEFT: "where it was: the kernel chose other pages, or put it back",
}

RESULT_OF_ERRNO = {
    errno.ENOENT: Result.NOT_PRESENT,
    errno.EFAULT: Result.NOT_PRESENT,
    errno.EACCES: Result.SHARED,
    errno.EBUSY: Result.BUSY,
    errno.ESRCH: Result.GONE,
    errno.EPERM: Result.NOT_PERMITTED,
    errno.ENOMEM: Result.NO_ROOM,
}
"""What move_pages(2) says of a page, its status; everything else is REFUSED."""

FAILURES = frozenset(Result) - {Result.MOVED, Result.ALREADY, Result.PLANNED}
_RETRIED_LATER = frozenset({Result.ARMED, Result.SHARED, Result.PINNED, Result.BUSY, Result.REFUSED})
"""Failures of pages, rather than of processes, nodes or settings."""


@dataclass(frozen=True)
class MoveOutcome:
    """What became of one move; ``results``: of each of its base pages, in order."""

    move: Move
    results: Uint8s

    def bytes_by_result(self) -> dict[Result, int]:
        """They add up to the move's size."""
        sums = np.bincount(self.results, minlength=len(Result)) * PAGE_BYTES
        return {kind: int(sums[kind]) for kind in Result if sums[kind]}

    def vpns(self, kinds: frozenset[Result]) -> Int64s:
        """First pages of the folios whose first page has one of these results."""
        return self.move.vpn[np.isin(self.results[offsets(self.move.pages)], list(kinds))]

    def to_wait(self) -> Int64s:
        """First pages of the folios that are to be left alone for a while (history.py).

        That a node was full says nothing about a page: the next plan knows the room that there is then. But
        a huge page needs room in one piece, which may be missing for long.
        """
        missed = self.vpns(frozenset({Result.NO_ROOM}))
        is_huge = self.move.pages[np.searchsorted(self.move.vpn, missed)] > 1
        return np.union1d(self.vpns(_RETRIED_LATER), missed[is_huge])

    def pages(self, kinds: frozenset[Result]) -> Int64s:
        """All base pages with one of these results."""
        return self.move.base_vpn()[np.isin(self.results, list(kinds))]


@dataclass(frozen=True)
class Outcome:
    """What became of a plan, and how long it took."""

    moves: Sequence[MoveOutcome] = ()
    elapsed_s: float = 0.0
    calls: int = 0
    call_s: float = 0.0
    longest_call_s: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def requested_bytes(self) -> int:
        """Of the whole plan."""
        return sum(outcome.move.size_bytes for outcome in self.moves)

    def bytes_by_result(self) -> dict[Result, int]:
        """They add up to what was requested."""
        total: dict[Result, int] = {}
        for outcome in self.moves:
            for kind, count in outcome.bytes_by_result().items():
                total[kind] = total.get(kind, 0) + count
        return total

    @property
    def moved_bytes(self) -> int:
        """Verifiably on their targets now, and not before."""
        return self.bytes_by_result().get(Result.MOVED, 0)
