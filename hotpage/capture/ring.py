# SPDX-License-Identifier: Apache-2.0
"""BPF ring buffers, mapped and read as numpy arrays.

The kernel's layout (kernel/bpf/ringbuf.c): one page that the consumer writes (its position), one page that
the producer writes, then the data, mapped twice in a row so that a record never wraps. Every record is an
8-byte head (length with two flag bits) and the payload. All of hotpage's records have one size, so the ring
between the two positions *is* a structured array.
"""

from __future__ import annotations

import mmap
import threading

import numpy as np
from numpy.typing import NDArray

from hotpage.capture.events import EVENT_DTYPE, Events, join

_BUSY = 1 << 31
_EVENT_BYTES = EVENT_DTYPE.itemsize
# The payload as one opaque item: numpy copies those ten times faster than structs with fields.
_RECORD_DTYPE = np.dtype([("length", "<u4"), ("page_offset", "<u4"), ("payload", f"V{_EVENT_BYTES}")])
RECORD_BYTES = _RECORD_DTYPE.itemsize


class Ring:
    """One ring buffer of event records; ``size_bytes`` is the map's size, a power of two."""

    def __init__(self, map_fd: int, size_bytes: int) -> None:
        page = mmap.PAGESIZE
        self.size_bytes = size_bytes
        self._consumer = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._producer = mmap.mmap(
            map_fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._consumed: NDArray[np.uint64] = np.frombuffer(self._consumer, np.uint64, 1)
        self._produced: NDArray[np.uint64] = np.frombuffer(self._producer, np.uint64, 1)
        self._barrier = threading.Lock()

    @property
    def waiting_bytes(self) -> int:
        """How much is in the ring now."""
        return int(self._produced[0]) - int(self._consumed[0])

    def read(self) -> Events:
        """Take what is complete: a copy, in the order in which the records were reserved.

        Stops at a record still being written (busy); leaves out discarded ones.
        """
        consumed = int(self._consumed[0])
        count = (int(self._produced[0]) - consumed) // RECORD_BYTES
        if count == 0:
            return np.empty(0, EVENT_DTYPE)
        offset = mmap.PAGESIZE + (consumed & (self.size_bytes - 1))
        records = np.ndarray((count,), _RECORD_DTYPE, self._producer, offset)
        odd = np.flatnonzero(records["length"] != _EVENT_BYTES)
        # They may be completed at any moment: what counts is this one reading of their lengths.
        length = records["length"][odd]
        odd, length = odd[length != _EVENT_BYTES], length[length != _EVENT_BYTES]
        busy = odd[(length & _BUSY) != 0]
        if len(busy):
            count = int(busy[0])
            records, odd = records[:count], odd[odd < count]
        # Taking a lock has acquire semantics: no payload is read ahead of its length on weakly ordered CPUs.
        with self._barrier:
            pass
        events = np.delete(records["payload"], odd) if len(odd) else records["payload"].copy()
        self._consumed[0] = consumed + count * RECORD_BYTES
        return events.view(EVENT_DTYPE)

    def close(self) -> None:
        """Unmap."""
        del self._consumed, self._produced
        self._consumer.close()
        self._producer.close()


def read_all(rings: list[Ring]) -> Events:
    """Take from every ring, merged into one array in order of time."""
    if len(rings) == 1:
        return rings[0].read()
    events = join([ring.read() for ring in rings])
    return events[np.argsort(events["time_ns"], kind="stable")]
