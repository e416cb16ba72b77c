# SPDX-License-Identifier: Apache-2.0
"""With function hooks each hint fault is seen twice, first as a page fault."""

import numpy as np

from hotpage.capture.events import EVENT_DTYPE, EventFlag, Events, EventSource
from hotpage.capture.pairs import without_faults_behind_hints

HINT, FAULT, ARM = EventSource.HINT_FAULT, EventSource.PAGE_FAULT, EventSource.ARM


def batch(*rows: tuple[int, EventSource, int, int]) -> Events:
    """Rows (thread, source, address, flags), a nanosecond apart."""
    events = np.zeros(len(rows), EVENT_DTYPE)
    for event, (tid, source, address, flags) in zip(events, rows, strict=True):
        event["tid"], event["source"], event["address"], event["flags"] = tid, source, address, flags
    events["time_ns"] = np.arange(len(rows))
    return events


def kept(events: Events) -> list[int]:
    """Which of the batch remain, by their times."""
    return without_faults_behind_hints(events)["time_ns"].tolist()


def test_the_fault_before_a_hint_fault_goes() -> None:
    assert kept(batch((1, FAULT, 0x5123, 0), (1, HINT, 0x5000, 0))) == [1]


def test_first_touches_stay() -> None:
    events = batch((1, FAULT, 0x5000, 0), (1, FAULT, 0x6000, 0), (1, HINT, 0x6000, 0), (1, FAULT, 0x6000, 0))
    assert kept(events) == [0, 2, 3]


def test_threads_interleave() -> None:
    events = batch((1, FAULT, 0x5000, 0), (2, FAULT, 0x9000, 0), (2, HINT, 0x9000, 0), (1, HINT, 0x5000, 0))
    assert kept(events) == [2, 3]


def test_another_page_or_thread_is_no_pair() -> None:
    assert kept(batch((1, FAULT, 0x5000, 0), (1, HINT, 0x6000, 0))) == [0, 1]
    assert kept(batch((1, FAULT, 0x5000, 0), (2, HINT, 0x5000, 0))) == [0, 1]
    assert kept(batch((1, FAULT, 0x5000, 0), (1, ARM, 0x5000, 0), (1, HINT, 0x5000, 0))) == [0, 1, 2]


def test_a_huge_page_speaks_for_all_of_it() -> None:
    address, inside = 0x7F0000200000, 0x7F00003FF123
    assert kept(batch((1, FAULT, inside, 0), (1, HINT, address, EventFlag.HUGE))) == [1]
    assert kept(batch((1, FAULT, inside, 0), (1, HINT, address, 0))) == [0, 1]


def test_empty_and_single() -> None:
    assert kept(batch()) == []
    assert kept(batch((1, HINT, 0x5000, 0))) == [0]
