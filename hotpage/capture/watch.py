# SPDX-License-Identifier: Apache-2.0
"""How long a sampling perf event stood still. The kernel throttles one that interrupts too often until the
next tick, and where more events are wanted than there are counters they take turns.

Throttling is told only in the event's own memory-mapped buffer (PERF_RECORD_THROTTLE and _UNTHROTTLE, with
times); a program that handles the samples itself leaves nothing else in it. Taking turns shows in the times
that read(2) returns. A throttled event still counts as running, so the two add up.
"""

from __future__ import annotations

import mmap
import os
import struct

_HEAD, _TAIL = 1024, 1032  # struct perf_event_mmap_page: data_head, data_tail
_THROTTLE, _UNTHROTTLE = 5, 6
_RECORD = struct.Struct("<IHHQ")  # type, misc, size; time
_TIMES = struct.Struct("<QQQ")  # count, ns enabled, ns running


class Watch:
    """Of one event, whose descriptor stays the caller's. Raises OSError where it cannot be mapped."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._memory = mmap.mmap(fd, 2 * mmap.PAGESIZE)
        self._throttled_ns = 0
        self._throttled_since_ns: int | None = None

    def unwatched_ns(self) -> int:
        """Nanoseconds of standing still so far, up to the last change."""
        self._read_records()
        _, enabled_ns, running_ns = _TIMES.unpack(os.read(self._fd, _TIMES.size))
        waited_ns: int = enabled_ns - running_ns
        return self._throttled_ns + max(waited_ns, 0)

    def _read_records(self) -> None:
        (head,) = struct.unpack_from("<Q", self._memory, _HEAD)
        (tail,) = struct.unpack_from("<Q", self._memory, _TAIL)
        data = memoryview(self._memory)[mmap.PAGESIZE :]
        # A record may go on at the page's beginning: a short copy, for there are few.
        pending = bytes(data[(tail + i) % mmap.PAGESIZE] for i in range(min(head - tail, mmap.PAGESIZE)))
        data.release()
        at = 0
        while at + _RECORD.size <= len(pending):
            kind, _, size, time_ns = _RECORD.unpack_from(pending, at)
            self._note(kind, time_ns)
            at += max(size, 8)
        struct.pack_into("<Q", self._memory, _TAIL, head)

    def _note(self, kind: int, time_ns: int) -> None:
        if kind == _THROTTLE:
            self._throttled_since_ns = time_ns
        elif kind == _UNTHROTTLE and self._throttled_since_ns is not None:
            self._throttled_ns += time_ns - self._throttled_since_ns
            self._throttled_since_ns = None

    def close(self) -> None:
        """Unmap."""
        self._memory.close()
