# SPDX-License-Identifier: Apache-2.0
"""Reading a ring buffer, on a file laid out as the kernel lays out the map."""

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hotpage.capture.events import EVENT_DTYPE
from hotpage.capture.ring import RECORD_BYTES, Ring, read_all

PAGE = mmap.PAGESIZE
SIZE = PAGE
BUSY, DISCARD = 1 << 31, 1 << 30


class Producer:
    """Writes records as the kernel does; the data, mapped twice there, is written twice here."""

    def __init__(self, path: Path, start: int = 0) -> None:
        path.write_bytes(bytes(2 * PAGE + 2 * SIZE))
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 0)
        self.position = start
        self._map[0:8] = start.to_bytes(8, "little")
        self._publish()

    @property
    def consumed(self) -> int:
        return int.from_bytes(self._map[0:8], "little")

    def put(self, address: int, flags: int = 0, time_ns: int = 0) -> int:
        """Append a record; returns where it lies."""
        event = np.zeros(1, EVENT_DTYPE)
        event["address"], event["time_ns"] = address, time_ns
        at = self.position
        self._write(at, (EVENT_DTYPE.itemsize | flags).to_bytes(4, "little") + bytes(4) + event.tobytes())
        self.position += RECORD_BYTES
        assert self.position - self.consumed <= SIZE
        self._publish()
        return at

    def submit(self, at: int, flags: int = 0) -> None:
        """End a busy record."""
        self._write(at, (EVENT_DTYPE.itemsize | flags).to_bytes(4, "little"))

    def open_ring(self) -> Ring:
        return Ring(self._file.fileno(), SIZE)

    def _write(self, position: int, data: bytes) -> None:
        for index, byte in enumerate(data):
            place = 2 * PAGE + (position + index) % SIZE
            self._map[place] = self._map[place + SIZE] = byte

    def _publish(self) -> None:
        self._map[PAGE : PAGE + 8] = self.position.to_bytes(8, "little")

    def close(self) -> None:
        self._map.close()
        self._file.close()


@pytest.fixture
def producer(tmp_path: Path) -> Iterator[Producer]:
    producer = Producer(tmp_path / "ring")
    yield producer
    producer.close()


@pytest.fixture
def ring(producer: Producer) -> Iterator[Ring]:
    ring = producer.open_ring()
    yield ring
    ring.close()


def addresses(ring: Ring) -> list[int]:
    events = ring.read()
    assert events.dtype == EVENT_DTYPE
    return events["address"].tolist()


def test_empty(ring: Ring, producer: Producer) -> None:
    assert addresses(ring) == []
    assert producer.consumed == 0


def test_records_come_in_order_and_once(ring: Ring, producer: Producer) -> None:
    for address in range(5):
        producer.put(address)
    assert ring.waiting_bytes == 5 * RECORD_BYTES
    assert addresses(ring) == [0, 1, 2, 3, 4]
    assert producer.consumed == producer.position
    assert ring.waiting_bytes == 0
    assert addresses(ring) == []


@pytest.mark.parametrize("count", [1, 2, 7])
def test_what_was_read_is_a_copy(ring: Ring, producer: Producer, count: int) -> None:
    for address in range(count):
        producer.put(address)
    events = ring.read()
    for _ in range(SIZE // RECORD_BYTES):
        producer.put(999)
    assert events["address"].tolist() == list(range(count))
    assert events.base is None or events.base.flags.owndata


@pytest.mark.parametrize("flags", [0, DISCARD])
def test_a_record_may_be_completed_while_it_is_looked_at(
    ring: Ring, producer: Producer, monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    producer.put(1)
    busy = producer.put(2, BUSY)
    producer.put(3)
    find = np.flatnonzero

    def find_and_submit(condition: NDArray[np.bool_]) -> NDArray[np.intp]:
        found = find(condition)
        producer.submit(busy, flags)
        return found

    monkeypatch.setattr("hotpage.capture.ring.np.flatnonzero", find_and_submit)
    assert addresses(ring) + addresses(ring) == ([1, 3] if flags else [1, 2, 3])


def test_reading_stops_at_a_record_still_written(ring: Ring, producer: Producer) -> None:
    producer.put(1)
    busy = producer.put(2, BUSY)
    producer.put(3)
    assert addresses(ring) == [1]
    assert addresses(ring) == []
    assert producer.consumed == busy
    producer.submit(busy)
    assert addresses(ring) == [2, 3]


def test_discarded_records_are_left_out_and_consumed(ring: Ring, producer: Producer) -> None:
    for flags in (DISCARD, 0, DISCARD, 0, DISCARD):
        producer.put(1 if flags else 2, flags)
    assert addresses(ring) == [2, 2]
    assert producer.consumed == producer.position


def test_discarded_before_and_after_a_busy_one(ring: Ring, producer: Producer) -> None:
    producer.put(1, DISCARD)
    producer.put(2)
    busy = producer.put(3, BUSY)
    producer.put(4, DISCARD)
    producer.put(5)
    assert addresses(ring) == [2]
    producer.submit(busy, DISCARD)
    assert addresses(ring) == [5]


@given(
    start=st.integers(0, 1 << 62).map(lambda n: n // 8 * 8),
    batches=st.lists(st.integers(0, SIZE // RECORD_BYTES), min_size=1, max_size=12),
)
def test_around_the_end_of_the_ring(
    start: int, batches: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    producer = Producer(tmp_path_factory.mktemp("ring") / "ring", start)
    ring = producer.open_ring()
    try:
        address = 0
        for count in batches:
            expected = list(range(address, address + count))
            for address in expected:
                producer.put(address)
            assert addresses(ring) == expected
            assert producer.consumed == producer.position
    finally:
        ring.close()
        producer.close()


def test_several_rings_are_merged_by_time(tmp_path: Path) -> None:
    producers = [Producer(tmp_path / f"ring{shard}") for shard in range(3)]
    rings = [producer.open_ring() for producer in producers]
    for time_ns, shard in enumerate([2, 0, 0, 1, 2, 1, 0]):
        producers[shard].put(shard, time_ns=time_ns)
    events = read_all(rings)
    assert events["address"].tolist() == [2, 0, 0, 1, 2, 1, 0]
    assert (np.diff(events["time_ns"].astype(np.int64)) > 0).all()
    for ring in rings:
        ring.close()
    for producer in producers:
        producer.close()
