# SPDX-License-Identifier: Apache-2.0
"""From batches of events to heat."""

from pathlib import Path

import numpy as np
import pytest
from fakeproc import FakeProc
from heat_reference import silent_rate_hz
from recorded import MS, PID, arm, batch, fault, hint, record, scan, scan_end

from hotpage.capture.events import EVENT_DTYPE, EventFlag, Events, EventSource
from hotpage.heat.table import HeatTable
from hotpage.machine.processes import ProcessTable
from hotpage.recording.observer import Observer

FAULT_COST_S = 1e-9
NOTHING = np.empty(0, EVENT_DTYPE)
HUGE_HEAD = 512 * 1000


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    proc = FakeProc(tmp_path)
    proc.put(PID, start=5, threads=2)
    return proc


@pytest.fixture
def processes(proc: FakeProc) -> ProcessTable:
    return ProcessTable(proc.root)


@pytest.fixture
def observer(processes: ProcessTable) -> Observer:
    return Observer(HeatTable(), processes, 0, FAULT_COST_S)


def rates(observer: Observer, now_s: float, process: int = 0) -> dict[int, float]:
    found = observer.table.rates(process, now_s)
    return dict(zip(found.vpn.tolist(), found.rate_hz.tolist(), strict=True))


def test_the_sooner_a_page_faults_after_arming_the_hotter(observer: Observer) -> None:
    new = observer.take(batch(arm(100, 50, 1000), hint(120, 1010), hint(110, 1500)), {})
    assert [process.pid for process in new] == [PID]
    found = rates(observer, 1.5)
    assert found.keys() == {110, 120}
    assert found[120] > 5 * found[110] > 0
    assert observer.take(batch(hint(130, 1600)), {}) == [], "known by now"


def test_first_touches_have_no_rate(observer: Observer) -> None:
    observer.take(batch(fault(7, 1000), fault(8, 1001)), {})
    found = rates(observer, 2.0)
    assert found.keys() == {7, 8} and all(np.isnan(rate) for rate in found.values())


def test_pages_that_scans_pass_over_stay_unknown(observer: Observer) -> None:
    """Other processes map them as well; those around them, and they themselves later, are armed."""
    observer.take(batch(arm(100, 50, 1000), fault(110, 1001)), {})
    observer.leave_out(0, [(105, 120), (140, 160)])
    observer.take(batch(arm(100, 50, 2000)), {})
    silent = np.isfinite(silent_rate_hz(observer.table, 0, np.arange(100, 150), 3.0))
    assert (np.flatnonzero(silent) + 100).tolist() == [*range(100, 105), *range(120, 140)]
    assert np.isnan(rates(observer, 3.0)[110])
    observer.leave_out(0, [])
    observer.take(batch(arm(100, 50, 4000)), {})
    assert np.isfinite(silent_rate_hz(observer.table, 0, np.arange(100, 150), 5.0)).all()


def test_a_hint_fault_shows_that_its_page_was_armed(observer: Observer) -> None:
    """Of a range in which some pages are not: a page that faults has a rate, which silence does not lower."""
    observer.leave_out(0, [(100, 120)])
    observer.take(batch(arm(90, 60, 1000), hint(110, 1010), hint(130, 1010)), {})
    unsure, sure = rates(observer, 1.1)[110], rates(observer, 1.1)[130]
    assert unsure == pytest.approx(sure, rel=0.01)
    observer.take(batch(arm(90, 60, 2000), hint(111, 2900)), {})
    found = rates(observer, 3.0)
    assert found[110] == pytest.approx(unsure, rel=0.1) and found[130] < unsure / 5
    assert 0 < found[111] < 2
    silent = np.isfinite(silent_rate_hz(observer.table, 0, np.arange(90, 150), 3.0))
    assert (np.flatnonzero(silent) + 90).tolist() == [*range(90, 100), *range(120, 150)]
    # From then on it is armed for certain: scans of before tell nothing.
    observer.leave_out(0, [])
    observer.take(batch(arm(90, 60, 8000), hint(112, 8010)), {})
    assert rates(observer, 8.1)[112] == pytest.approx(unsure, rel=0.1)
    observer.leave_out(0, [(100, 120)])
    observer.take(batch(arm(90, 60, 9000)), {})
    observer.clear(0, 100, 120)
    observer.take(batch(hint(112, 9500)), {})
    assert np.isnan(rates(observer, 9.6)[112]), "other memory by now"


def test_what_was_unarmed_for_a_while_was_not_silent(observer: Observer) -> None:
    """Such as while a child shares it: the first access afterwards tells nothing of that time."""
    observer.take(batch(arm(100, 50, 1000), hint(110, 1001)), {})
    before = rates(observer, 1.1)[110]
    observer.leave_out(0, [(105, 120)], [(105, 120)])
    for time_ms in range(2000, 60_000, 1000):
        observer.take(batch(arm(100, 50, time_ms)), {})
    observer.take(batch(arm(100, 50, 60_000), hint(110, 60_001)), {})
    observer.leave_out(0, [])
    observer.take(batch(arm(100, 50, 61_000), hint(110, 61_001)), {})
    assert rates(observer, 61.1)[110] == pytest.approx(before, rel=0.2)


def test_what_is_armed_while_pages_change_tiers_tells_nothing(
    observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast memory is left out then."""
    monkeypatch.setattr("hotpage.recording.observer.was_slow_only", lambda time_ns: time_ns == 1000 * MS)
    observer.take(batch(arm(100, 50, 1000), arm(120, 10, 2000)), {})
    silent = np.isfinite(silent_rate_hz(observer.table, 0, np.arange(100, 150), 3.0))
    assert (np.flatnonzero(silent) + 100).tolist() == [*range(120, 130)]


def test_a_page_armed_before_the_session_is_known_without_a_rate(observer: Observer) -> None:
    observer.take(batch(hint(7, 1000)), {})
    assert np.isnan(rates(observer, 2.0)[7])


def test_faults_during_a_scan_wait_for_its_end(observer: Observer) -> None:
    observer.take(batch(scan(0, 1000), hint(50, 1005), fault(900, 1006)), {})
    assert rates(observer, 1.1) == {}
    observer.take(batch(scan_end(100, 1010), hint(60, 1020)), {})
    found = rates(observer, 1.1)
    assert found[50] > found[60] > 0
    assert np.isnan(found[900])


def test_nothing_waits_at_the_end_of_the_session(observer: Observer) -> None:
    observer.take(batch(scan(0, 1000), hint(50, 1005)), {})
    observer.take(NOTHING, {}, last=True)
    assert rates(observer, 1.1).keys() == {50}


def test_a_scan_that_never_ends_does_not_withhold_for_ever(observer: Observer) -> None:
    observer.take(batch(scan(0, 1000), hint(50, 1005)), {})
    observer.take(batch(hint(60, 5000)), {})
    observer.take(batch(hint(70, 5001)), {})
    assert {50, 60, 70} <= rates(observer, 5.1).keys()


def test_a_fault_on_the_page_right_afterwards_hides_nothing(observer: Observer) -> None:
    """Another thread's at the same moment, or a copy on write, in the same batch."""
    observer.take(batch(arm(100, 50, 1000), hint(120, 1010), fault(120, 1011)), {})
    assert rates(observer, 1.5)[120] > 0


def test_what_was_done_before_an_exec_is_past(observer: Observer) -> None:
    observer.take(batch(fault(1, 1000), fault(2, 1010), fault(3, 1020)), {PID: 1_010_000_000})
    assert rates(observer, 2.0).keys() == {2, 3}


def test_an_exec_reaches_what_waits(observer: Observer) -> None:
    observer.take(batch(scan(0, 1000), fault(1, 1005), fault(2, 1015)), {})
    observer.take(batch(scan_end(100, 1030)), {PID: 1_010_000_000})
    assert rates(observer, 2.0).keys() == {2}


def test_processes_that_have_gone_are_passed_over(observer: Observer, proc: FakeProc) -> None:
    assert observer.take(batch(fault(1, 1000, pid=777)), {}) == []
    assert observer.table.tracked_pages == 0


def test_a_huge_page_comes_as_its_base_pages_with_equal_shares(observer: Observer) -> None:
    events = batch(
        arm(HUGE_HEAD, 512, 1000), arm(7, 1, 1000), hint(7, 1100), hint(HUGE_HEAD + 77, 1100, huge=True)
    )
    observer.take(events, {})
    whole = rates(observer, 1.2)
    assert whole.keys() == {7, HUGE_HEAD}
    changes = observer.changes(1.2)
    assert changes.vpn.tolist() == [7, *range(HUGE_HEAD, HUGE_HEAD + 512)]
    np.testing.assert_allclose(changes.rate_hz[0], whole[7])
    np.testing.assert_allclose(changes.rate_hz[1:], whole[HUGE_HEAD] / 512)
    assert changes.rate_hz[1:].sum() == pytest.approx(whole[HUGE_HEAD], rel=1e-4)
    assert len(observer.changes(1.2, everything=True)) == 0


def test_a_large_folio_faults_as_a_whole(observer: Observer) -> None:
    """From 6.10 on a fault on one of its pages disarms them all: the others' silence tells nothing."""
    first, second = 16 * 100, 16 * 101
    observer.take(batch(arm(first, 32, 1000), hint(first + 5, 1010, pages=16), hint(second, 1010)), {})
    whole = rates(observer, 3.0)
    assert whole.keys() == {first, second}
    changes = observer.changes(3.0)
    assert changes.vpn.tolist() == [*range(first, first + 16), second]
    np.testing.assert_allclose(changes.rate_hz[:16], whole[first] / 16, rtol=1e-6)
    folios = observer.folios(0, 3.0)
    assert folios.vpn.tolist() == [first, second] and folios.pages.tolist() == [16, 1]


def test_folios_of_several_sizes_are_split_and_merged(observer: Observer) -> None:
    at = HUGE_HEAD
    observer.take(batch(arm(at, 512, 1000), hint(at + 20, 1001, pages=16), hint(at + 40, 1002, pages=4)), {})
    assert observer.folios(0, 1.5).pages.tolist() == [16, 4]
    observer.take(batch(arm(at, 512, 2000), hint(at + 18, 2001), hint(at + 40, 2002, huge=True)), {})
    assert observer.folios(0, 2.5).vpn.tolist() == [at]
    observer.take(batch(arm(at, 512, 3000), hint(at + 40, 3001, pages=4)), {})
    assert observer.folios(0, 3.5).pages.tolist()[-1] == 4
    observer.clear(0, at + 42, at + 43)
    assert set(observer.folios(0, 3.5).pages.tolist()) == {1}


def test_memory_in_large_folios_adds_up_to_its_accesses(observer: Observer) -> None:
    """64 KiB folios of which every page is accessed 50 times a second, armed once a second."""
    random = np.random.default_rng(3)
    folios, pages, rate_hz = 100, 16, 50.0
    for second in range(1, 11):
        waited_ms = random.exponential(1000 / (pages * rate_hz), folios)
        records = [
            hint(n * pages + int(random.integers(pages)), 1000 * second + float(waited_ms[n]), pages=pages)
            for n in np.argsort(waited_ms)
        ]
        observer.take(batch(arm(0, folios * pages, 1000 * second), *records), {})
    told = observer.changes(10.5, everything=True)
    assert told.vpn.size == folios * pages
    assert told.rate_hz.sum() == pytest.approx(folios * pages * rate_hz, rel=0.2)


def test_a_huge_page_that_was_split_is_base_pages_again(observer: Observer) -> None:
    observer.take(batch(arm(HUGE_HEAD, 512, 1000), hint(HUGE_HEAD, 1100, huge=True)), {})
    observer.changes(1.2)
    observer.take(batch(arm(HUGE_HEAD, 512, 2000), hint(HUGE_HEAD, 2001), hint(HUGE_HEAD + 3, 2002)), {})
    assert observer.changes(2.1).vpn.tolist() == [HUGE_HEAD, HUGE_HEAD + 3]


def test_huge_pages_of_two_processes(observer: Observer, proc: FakeProc) -> None:
    proc.put(2, start=6, threads=2)
    other = HUGE_HEAD + 512
    events = batch(
        arm(HUGE_HEAD, 1024, 1000),
        arm(HUGE_HEAD, 1024, 1000, pid=2),
        hint(HUGE_HEAD, 1100, huge=True),
        hint(other, 1100, huge=True, pid=2),
        hint(HUGE_HEAD, 1100, pid=2),
    )
    observer.take(events, {})
    changes = observer.changes(1.2)
    order = np.lexsort((changes.vpn, changes.process))
    assert (order == np.arange(len(order))).all()
    count = dict(zip(*np.unique(changes.process, return_counts=True), strict=True))
    assert sorted(count.values()) == [512, 513]


def test_a_process_that_left_is_forgotten(observer: Observer) -> None:
    observer.take(batch(arm(HUGE_HEAD, 512, 1000), hint(HUGE_HEAD, 1100, huge=True), scan(0, 1200)), {})
    observer.forget(0)
    assert observer.table.tracked_pages == 0
    assert len(observer.changes(2.0, everything=True)) == 0
    assert observer.clock.running_since_ns(0, 1_200_000_000) is None


def session(seed: int) -> Events:
    """Some seconds of a process: scans, hint faults, first touches, in order of time."""
    random = np.random.default_rng(seed)
    records = []
    for start_ms in (1000, 2500, 4000):
        records += [scan(0, start_ms), scan_end(0, start_ms + 10)]
        pages = random.permutation(400)[:300]
        delays = np.sort(random.exponential(200, len(pages)))
        records += [
            hint(int(v), start_ms + 11 + float(d)) for v, d in zip(pages, delays, strict=True) if d < 1400
        ]
    records += [fault(1000 + n, 5500 + n) for n in range(50)]
    events = batch(*records)
    return events[np.argsort(events["time_ns"], kind="stable")]


def test_a_capture_replayed_gives_the_same_heat(
    observer: Observer, processes: ProcessTable, tmp_path: Path
) -> None:
    events = session(1)
    tick_ns = 100_000_000
    ticks = [events[events["time_ns"] // tick_ns == tick] for tick in np.unique(events["time_ns"] // tick_ns)]
    for number, part in enumerate(ticks):
        part.tofile(tmp_path / f"{number:04}")
        observer.take(part, {}, last=number == len(ticks) - 1)
    replayed = Observer(HeatTable(), processes, 0, FAULT_COST_S)
    saved = sorted(tmp_path.glob("00*"))
    for path in saved:
        replayed.take(np.fromfile(path, "V32").view(EVENT_DTYPE), {}, last=path == saved[-1])
    live, again = observer.table.rates(0, 7.0), replayed.table.rates(0, 7.0)
    assert len(live.vpn) > 300
    np.testing.assert_array_equal(live.vpn, again.vpn)
    np.testing.assert_array_equal(live.rate_hz, again.rate_hz)
    np.testing.assert_array_equal(live.rate_short_hz, again.rate_short_hz)


def test_how_the_ring_was_cut_into_batches_matters_little(
    observer: Observer, processes: ProcessTable
) -> None:
    events = session(2)
    observer.take(events, {}, last=True)
    other = Observer(HeatTable(), processes, 0, FAULT_COST_S)
    for part in np.array_split(np.arange(len(events)), 37):
        other.take(events[part], {}, last=part[-1] == len(events) - 1)
    whole, parts = observer.table.rates(0, 7.0), other.table.rates(0, 7.0)
    np.testing.assert_array_equal(whole.vpn, parts.vpn)
    np.testing.assert_allclose(whole.rate_hz, parts.rate_hz, rtol=0.02)


def test_pages_that_the_kernel_moved_are_counted_by_process(proc: FakeProc, observer: Observer) -> None:
    proc.put(PID + 1, start=6)
    moved, huge = EventFlag.MIGRATED, EventFlag.MIGRATED | EventFlag.HUGE
    large = record(EventSource.HINT_FAULT, 64, 1005, flags=moved, pages=16, pid=PID + 1)
    observer.take(
        batch(
            arm(0, HUGE_HEAD + 512, 1000),
            hint(3, 1001),
            record(EventSource.HINT_FAULT, 5, 1002, flags=moved),
            record(EventSource.HINT_FAULT, HUGE_HEAD, 1003, flags=huge),
            record(EventSource.HINT_FAULT, 6, 1004, flags=moved, pid=PID + 1),
            large,
        ),
        {},
    )
    assert observer.take_migrated() == {0: 513, 1: 17}
    assert observer.take_migrated() == {}


def test_folios_have_a_huge_page_as_one_entry(observer: Observer) -> None:
    observer.take(
        batch(
            arm(HUGE_HEAD - 10, 600, 1000),
            hint(HUGE_HEAD - 3, 1100),
            hint(HUGE_HEAD + 7, 1100, huge=True),
            fault(HUGE_HEAD + 9, 1200),
        ),
        {},
    )
    found, rates_now = observer.folios(0, 2.0), rates(observer, 2.0)
    assert found.vpn.tolist() == [HUGE_HEAD - 3, HUGE_HEAD]
    assert found.pages.tolist() == [1, 512]
    assert found.rate_hz[0] == pytest.approx(rates_now[HUGE_HEAD - 3])
    assert found.rate_hz[1] * 512 == pytest.approx(rates_now[HUGE_HEAD])
    assert len(observer.folios(1, 2.0)) == 0


def test_base_pages_may_be_where_a_huge_page_was_unmapped(observer: Observer) -> None:
    observer.take(batch(arm(HUGE_HEAD, 512, 1000), hint(HUGE_HEAD, 1100, huge=True)), {})
    observer.changes(1.2)
    observer.clear(0, HUGE_HEAD + 500, HUGE_HEAD + 600)  # the kernel splits what is unmapped in part
    observer.clear(0, HUGE_HEAD, HUGE_HEAD + 500)
    observer.take(batch(fault(HUGE_HEAD, 2000), fault(HUGE_HEAD + 3, 2000)), {})
    assert observer.changes(2.1).vpn.tolist() == [HUGE_HEAD, HUGE_HEAD + 3]
    assert observer.folios(0, 2.1).pages.tolist() == [1, 1]
