# SPDX-License-Identifier: Apache-2.0
"""Which pages an arming scan armed, from the few records it leaves."""

import numpy as np
import pytest
from recorded import arm, batch, hint, scan, scan_end, skip

from hotpage.capture.events import Events
from hotpage.recording.scans import ScanClock

END = 1 << 52
OWNER = 3


def taken(clock: ScanClock, *records: Events) -> list[tuple[int, int, int]]:
    """(start, end, armed at ms) of the ranges found by a batch."""
    events = batch(*records)
    ranges = clock.take(events, np.full(len(events), OWNER, np.int32))
    assert all(armed.process == OWNER for armed in ranges)
    return [(armed.start_vpn, armed.end_vpn, armed.time_ns // 1_000_000) for armed in ranges]


@pytest.fixture
def clock() -> ScanClock:
    return ScanClock()


def test_function_hooks_name_the_range(clock: ScanClock) -> None:
    assert taken(clock, arm(100, 50, 7), hint(120, 9), arm(300, 1, 8)) == [(100, 150, 7), (300, 301, 8)]


def test_from_the_first_record_to_where_the_scan_ended(clock: ScanClock) -> None:
    assert taken(clock, scan(100, 5), scan(100, 8)) == []
    assert taken(clock, scan_end(500, 30)) == [(100, 500, 5)]
    assert taken(clock, scan_end(500, 40)) == [], "an end without a scan"


def test_a_scan_that_reached_the_end_of_the_address_space(clock: ScanClock) -> None:
    assert taken(clock, scan(100, 5), scan_end(0, 30)) == [(100, END, 5)]


def test_mappings_left_out_are_not_armed(clock: ScanClock) -> None:
    armed = taken(
        clock,
        skip(90, 20, 4),
        scan(100, 5),
        skip(150, 10, 6),
        skip(155, 10, 7),
        skip(490, 50, 8),
        scan_end(500, 30),
    )
    assert armed == [(110, 150, 4), (165, 490, 4)]


def test_skipped_mappings_arrive_in_any_order(clock: ScanClock) -> None:
    assert taken(clock, scan(0, 5), skip(60, 10, 6), skip(20, 10, 7), scan_end(100, 9)) == [
        (0, 20, 5),
        (30, 60, 5),
        (70, 100, 5),
    ]


def test_a_scan_that_only_skipped_armed_nothing(clock: ScanClock) -> None:
    assert taken(clock, skip(90, 20, 4), scan(200, 2000), scan_end(300, 2010)) == [(200, 300, 2000)]


def test_the_next_scan_begins_before_the_end_of_the_last_is_seen(clock: ScanClock) -> None:
    assert taken(clock, skip(10, 5, 990), scan(0, 1000), skip(120, 5, 2990)) == []
    assert taken(clock, scan_end(100, 3000)) == [(0, 10, 990), (15, 100, 990)]
    assert taken(clock, scan(100, 3001), scan_end(0, 3100)) == [(100, 120, 2990), (125, END, 2990)]


def test_a_lost_end_spoils_one_scan_only(clock: ScanClock) -> None:
    assert taken(clock, scan(0, 1000), scan(0, 2000), scan_end(100, 2030)) == [(0, 100, 2000)]
    assert taken(clock, scan(100, 3000), scan_end(200, 3030)) == [(100, 200, 3000)]
    assert clock.running_since_ns(OWNER, 3_030_000_000) is None


def test_an_end_read_before_its_beginning_spoils_one_scan_only(clock: ScanClock) -> None:
    """Of several rings one may be read a batch before the other."""
    assert taken(clock, scan_end(100, 1030)) == []
    assert taken(clock, scan(0, 1000)) == []
    assert taken(clock, scan(100, 2000), scan_end(200, 2030)) == [(100, 200, 2000)]


def test_an_end_read_after_the_next_beginning_is_the_last_scans(clock: ScanClock) -> None:
    assert taken(clock, scan(0, 1000), scan(100, 2000)) == []
    assert taken(clock, scan_end(100, 1030)) == [(0, 100, 1000)]
    assert taken(clock, scan_end(200, 2030)) == [(100, 200, 2000)]


def test_a_scan_wraps_round(clock: ScanClock) -> None:
    assert taken(clock, scan(400, 5), scan_end(0, 9), scan(0, 2000), scan_end(50, 2010)) == [
        (400, END, 5),
        (0, 50, 2000),
    ]


def test_a_mapping_scanned_after_all(clock: ScanClock) -> None:
    """The kernel scans one inactive mapping when it would have scanned none, and stores its end."""
    assert taken(
        clock, scan(100, 5), skip(300, 10, 6, reason=4), skip(800, 10, 7, reason=4), scan_end(310, 9)
    ) == [(100, 300, 5)]
    assert clock.went_on(OWNER, np.array([200, 305])) == []
    more = clock.went_on(OWNER, np.array([500]))
    assert [(r.start_vpn, r.end_vpn, r.time_ns) for r in more] == [
        (310, 800, 5_000_000),
        (810, END, 5_000_000),
    ]
    assert clock.went_on(OWNER, np.array([500])) == [], "told once"


def test_a_clear_end_is_believed(clock: ScanClock) -> None:
    taken(clock, scan(100, 5), skip(300, 10, 6, reason=2), scan_end(310, 9))
    assert clock.went_on(OWNER, np.array([500])) == []
    assert clock.went_on(99, np.array([500])) == [], "a process never scanned"


def test_processes_are_kept_apart(clock: ScanClock) -> None:
    events = batch(scan(100, 5), scan(200, 6, pid=2), scan_end(150, 7), scan_end(250, 8, pid=2))
    armed = clock.take(events, np.array([1, 2, 1, 2], np.int32))
    assert [(r.process, r.start_vpn, r.end_vpn) for r in armed] == [(1, 100, 150), (2, 200, 250)]


def test_a_scan_in_progress(clock: ScanClock) -> None:
    assert clock.running_since_ns(OWNER, 0) is None
    taken(clock, skip(10, 5, 4), scan(0, 5))
    assert clock.running_since_ns(OWNER, 6_000_000) == 4_000_000
    assert clock.running_since_ns(OWNER, 10_000_000_000) is None, "it must have ended unseen"
    taken(clock, scan_end(100, 9))
    assert clock.running_since_ns(OWNER, 9_000_000) is None


def test_a_process_that_has_gone_leaves_nothing(clock: ScanClock) -> None:
    taken(clock, scan(100, 5))
    clock.forget(OWNER)
    clock.forget(OWNER)
    assert clock.running_since_ns(OWNER, 6_000_000) is None
    assert taken(clock, scan_end(500, 9)) == []


def test_time_spent_scanning_counts_for_the_pages_of_that_scan(clock: ScanClock) -> None:
    taken(clock, scan(0, 1000), scan(0, 1020), scan_end(100, 1030))
    armed_s = np.array([1.0, 1.0, 0.5])
    time_s = np.array([2.0, 1.01, 2.0])
    np.testing.assert_allclose(clock.scanning_s(OWNER, armed_s, time_s, 0), [0.02, 0.01, 0.0], atol=1e-9)
