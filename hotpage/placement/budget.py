# SPDX-License-Identifier: Apache-2.0
"""How fast and how far: headroom of nodes, token buckets, the size of calls, and what bounces cost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hotpage.heat.estimator import HEADROOM_MAX_BYTES, HEADROOM_MIN_BYTES, HEADROOM_SHARE
from hotpage.machine.numa import Watermarks, read_watermarks

CALL_S = 0.02
"""A call of move_pages holds up the target's faults, and an RCU grace period: it is to end within this."""
_FIRST_BATCH, _LARGEST_BATCH = 1024, 1 << 14
_LEAST_FOLIO_S = 1e-7
_BURST_S = 0.25
HALVE_SHARE, STOP_SHARE = 0.10, 0.30
"""Shares of bounces among moves from which on a cgroup's rate is halved, and stopped."""
_FIRST_STOP_S, _LONGEST_STOP_S = 60.0, 3600.0


def headroom_bytes(total_bytes: int, high_watermark_bytes: int, share_of_node: float = HEADROOM_SHARE) -> int:
    """What stays free of a node above its high watermark: 2 % of it (``share_of_node``), 50 MiB to 1 GiB, but
    at most an eighth; nothing at a share of 0.

    The kernel reclaims up to the high watermark: a node filled beyond it would be emptied again at once.
    """
    if not share_of_node:
        return high_watermark_bytes
    share = min(max(share_of_node * total_bytes, HEADROOM_MIN_BYTES), HEADROOM_MAX_BYTES, total_bytes / 8)
    return high_watermark_bytes + int(share)


def room_bytes(node: int, freed_bytes: float = 0.0) -> float:
    """What a node can take before it falls below its high watermark, once its idle page cache has gone.

    ``freed_bytes`` were demoted from it a moment ago: that is room, even if it is still at hand for a CPU.
    """
    marks = read_watermarks().get(node)
    if marks is None:
        return float("inf")
    room = marks.available - marks.high
    return max(room, min(room + marks.at_hand, freed_bytes))


def free_wanted(watermarks: Mapping[int, Watermarks]) -> dict[int, float]:
    """Bytes that nodes near their low watermark should have available, by node; empty while none is.

    The kernel begins to reclaim at ``low`` and stops at ``high``; it swaps when that takes more than idle
    page cache. From a margin as wide as that above ``low`` on, that is at ``high``, a node is to get twice
    the margin above it.
    """
    return {
        node: float(marks.high + 2 * (marks.high - marks.low))
        for node, marks in watermarks.items()
        if marks.low and marks.available < marks.high
    }


class TokenBucket:
    """Bytes per second, refilled by the clock: so the time that moving takes counts as well.

    A quarter of a second's worth may be spent at once. ``take`` may overdraw: what was moved was moved.
    """

    def __init__(self, bytes_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes_per_s = bytes_per_s
        self._clock = clock
        self._then_s = clock()
        self._tokens = bytes_per_s * _BURST_S

    @property
    def available(self) -> float:
        """Bytes that may be moved now; negative while overdrawn."""
        now_s = self._clock()
        if self.bytes_per_s == float("inf"):
            return float("inf")
        earned = self.bytes_per_s * (now_s - self._then_s)
        self._tokens = min(self._tokens + earned, self.bytes_per_s * _BURST_S)
        self._then_s = now_s
        return self._tokens

    def take(self, count_bytes: float) -> None:
        """Bytes were moved."""
        if self.available != float("inf"):
            self._tokens -= count_bytes

    def wait_s(self, count_bytes: float) -> float:
        """Seconds until so many bytes, or a full bucket if that is less, are there; inf at a rate of 0."""
        missing = min(count_bytes, self.bytes_per_s * _BURST_S) - self.available
        if self.bytes_per_s == float("inf") or missing <= 0 < self.bytes_per_s:
            return 0.0
        return missing / self.bytes_per_s if self.bytes_per_s > 0 else float("inf")


class BatchSize:
    """Folios per call, so that a call ends within ``CALL_S`` and is yet worth its fixed cost.

    Every call waits for an RCU grace period and for every CPU to drain its page lists, whatever it moves:
    ``fixed_s``. With b seconds a folio above that, n = (0.9 CALL_S - fixed)/b; but at least n = fixed/b, for
    calls that spend more than half of their time on nothing would only be more calls. n at most doubles. b is
    the median of the last three calls: a single slow one was most likely interrupted.
    """

    def __init__(self, fixed_s: float = 0.0, call_s: float = CALL_S, first: int = _FIRST_BATCH) -> None:
        self._fixed_s = fixed_s
        self._call_s = call_s
        self._each_s: deque[float] = deque(maxlen=3)
        self.folios = first

    def learn(self, folios: int, took_s: float) -> None:
        """A call of so many folios took so long."""
        if folios < self.folios // 2 and took_s <= self._call_s:
            return  # a smaller call than planned says little about larger ones
        self._each_s.append(max(took_s - self._fixed_s, _LEAST_FOLIO_S * folios) / folios)
        each_s = sorted(self._each_s)[(len(self._each_s) - 1) // 2]
        wanted = int(max(0.9 * self._call_s - self._fixed_s, self._fixed_s) / each_s)
        self.folios = max(1, min(wanted, 2 * self.folios, _LARGEST_BATCH))


@dataclass
class _Group:
    factor: float = 1.0
    stopped_until_s: float = 0.0
    stop_s: float = _FIRST_STOP_S


class BounceControl:
    """The rate of each cgroup by how many of its moves were undone: the factor is 0 while it is stopped."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def factor(self, cgroup: str, now_s: float) -> float:
        """What to multiply the cgroup's rate with."""
        group = self._groups.get(cgroup)
        if group is None:
            return 1.0
        return 0.0 if now_s < group.stopped_until_s else group.factor

    def note(self, cgroup: str, moves: int, bounces: int, now_s: float) -> None:
        """Of so many moves so many would have gone back within ``history.BOUNCE_S``."""
        group = self._groups.setdefault(cgroup, _Group())
        if not moves or now_s < group.stopped_until_s:
            return
        share = bounces / moves
        if share > STOP_SHARE:
            group.stopped_until_s = now_s + group.stop_s
            group.stop_s = min(2 * group.stop_s, _LONGEST_STOP_S)
            group.factor = 0.25  # a probe, when it is over
        elif share > HALVE_SHARE:
            group.factor /= 2
        else:
            group.factor = min(2 * group.factor, 1.0)
            group.stop_s = max(group.stop_s / 2, _FIRST_STOP_S)
