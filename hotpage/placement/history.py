# SPDX-License-Identifier: Apache-2.0
"""What was moved and what failed to: pages do not bounce, and failures are not repeated at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Bools, Float64s, Int32s, Int64s, find

_VPN_BITS = 45  # 57-bit addresses in 4 KiB pages
MOST_PROCESSES = 1 << (63 - _VPN_BITS)
"""Process indices from here on have no keys."""
BOUNCE_S = 60.0
"""A move that would be undone within this was in vain: docs/placement.md, "fit". 3 half-lives of 20 s."""
FIRST_WAIT_S = 60.0
LONGEST_WAIT_S = 3600.0


def page_keys(process: Int32s, vpn: Int64s) -> Int64s:
    """One number for each page of each process below ``MOST_PROCESSES``; ascends with (process, vpn)."""
    keys: Int64s = (process.astype(np.int64) << _VPN_BITS) | vpn
    return keys


def pages_of(keys: Int64s) -> tuple[Int64s, Int64s]:
    """The process and the vpn of each of ``page_keys``."""
    return keys >> _VPN_BITS, keys & ((1 << _VPN_BITS) - 1)


def _no_keys() -> Int64s:
    return np.empty(0, np.int64)


def _no_times() -> Float64s:
    return np.empty(0, np.float64)


@dataclass(frozen=True)
class History:
    """Immutable; ``noting`` gives the next one. Keys are ``page_keys``, ascending; times in seconds."""

    moved: Int64s = field(default_factory=_no_keys)
    moved_s: Float64s = field(default_factory=_no_times)
    failed: Int64s = field(default_factory=_no_keys)
    failed_until_s: Float64s = field(default_factory=_no_times)
    wait_s: Float64s = field(default_factory=_no_times)

    def moved_lately(self, keys: Int64s, now_s: float, within_s: Float64s | float = BOUNCE_S) -> Bools:
        """Whether each page was moved less than ``within_s`` ago, of one or of each; at most ``BOUNCE_S``."""
        place, found = find(self.moved, keys)
        since_s = now_s - np.minimum(within_s, BOUNCE_S)
        found[found] = self.moved_s[place[found]] > np.broadcast_to(since_s, found.shape)[found]
        return found

    def is_waiting(self, keys: Int64s, now_s: float) -> Bools:
        """Whether each page failed to move and is to be left alone for a while longer."""
        place, found = find(self.failed, keys)
        found[found] = self.failed_until_s[place[found]] > now_s
        return found

    def waiting(self, now_s: float) -> Int64s:
        """The keys of all pages that are to be left alone for a while longer."""
        keys: Int64s = self.failed[self.failed_until_s > now_s]
        return keys

    def noting(self, moved: Int64s, failed: Int64s, now_s: float) -> History:
        """With these pages moved and those failed now, and what no longer matters forgotten.

        A page that fails again waits twice as long, from ``FIRST_WAIT_S`` up to ``LONGEST_WAIT_S``.
        """
        place, again = find(self.failed, failed)
        wait_s = np.full(failed.size, FIRST_WAIT_S)
        wait_s[again] = np.minimum(2 * self.wait_s[place[again]], LONGEST_WAIT_S)
        settled = np.concatenate((moved, failed))
        fresh = (self.moved_s > now_s - BOUNCE_S) & ~np.isin(self.moved, moved)
        # A wait that is over is remembered as long again: a page that fails soon after waits longer.
        waits = (self.failed_until_s + self.wait_s > now_s) & ~np.isin(self.failed, settled)
        moved_key, moved_s = _merged(
            (self.moved[fresh], self.moved_s[fresh]), (moved, np.full(moved.size, now_s))
        )
        failed_key, until_s, wait_s = _merged(
            (self.failed[waits], self.failed_until_s[waits], self.wait_s[waits]),
            (failed, now_s + wait_s, wait_s),
        )
        return History(moved_key, moved_s, failed_key, until_s, wait_s)


def _merged(*parts: tuple[npt.NDArray[Any], ...]) -> tuple[npt.NDArray[Any], ...]:
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return tuple(column[order] for column in columns)
