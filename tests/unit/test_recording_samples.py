# SPDX-License-Identifier: Apache-2.0
"""Memory samples from the ring to heat: what they stand for, and whom they speak of."""

import time
from pathlib import Path

import numpy as np
import pytest
from fakeproc import FakeProc
from hypothesis import given
from hypothesis import strategies as st
from recorded import PID, arm, batch, fault, hint, sample, scan

from hotpage.capture.events import EVENT_DTYPE, EventSource
from hotpage.heat.table import HeatTable
from hotpage.machine.processes import Process, ProcessTable
from hotpage.recording.observer import Observer
from hotpage.recording.sampling import SampleWeights, started_s

HUGE_HEAD = 512 * 1000


@pytest.fixture
def processes(tmp_path: Path) -> ProcessTable:
    proc = FakeProc(tmp_path)
    proc.put(PID, start=0, threads=2)
    return ProcessTable(proc.root)


@pytest.fixture
def observer(processes: ProcessTable) -> Observer:
    return Observer(HeatTable(), processes, 0, 1e-9)


def rates(observer: Observer, now_s: float) -> dict[int, float]:
    found = observer.table.rates(0, now_s)
    return dict(zip(found.vpn.tolist(), found.rate_hz.tolist(), strict=True))


def test_a_sample_counts_for_its_period(observer: Observer) -> None:
    observer.take(
        batch(sample(7, 900, period=100), sample(8, 950, period=1000), sample(7, 1000, period=100)), {}
    )
    found = rates(observer, 1.0)
    window_s = 20 / np.log(2) * (1 - 2 ** (-1 / 20))  # one second, decayed
    assert found[7] == pytest.approx((100 * 2 ** (-0.1 / 20) + 100) / window_s, rel=1e-3)
    assert found[8] == pytest.approx(1000 * 2 ** (-0.05 / 20) / window_s, rel=1e-3)


def test_samples_hint_faults_and_first_touches_of_one_batch(observer: Observer) -> None:
    observer.take(
        batch(arm(100, 50, 1000), hint(120, 1010), sample(120, 1011, period=50), fault(300, 1012)), {}
    )
    alone = Observer(HeatTable(), observer._processes, 0, 1e-9)
    alone.take(batch(arm(100, 50, 1000), hint(120, 1010), fault(300, 1012)), {})
    mixed, hints = rates(observer, 1.5), rates(alone, 1.5)
    assert np.isnan(mixed[300]) and np.isnan(hints[300])
    assert 0 < mixed[120] < hints[120], "two accesses by hint in 10 ms, one sample of 50 in 1.5 s"


def test_samples_during_a_scan_wait_for_its_end_like_hint_faults(observer: Observer) -> None:
    observer.take(batch(scan(100, 1000), sample(120, 1001)), {})
    assert rates(observer, 1.01) == {}
    observer.take(batch(sample(121, 1002)), {}, last=True)
    assert rates(observer, 1.01).keys() == {120, 121}


def test_within_a_huge_page_its_head_speaks(observer: Observer) -> None:
    early = HUGE_HEAD + 3
    observer.take(batch(sample(early, 1000, period=8)), {})
    assert observer.changes(1.0).vpn.tolist() == [early], "nobody knows yet that it is huge"
    observer.take(batch(arm(HUGE_HEAD, 512, 1000), hint(HUGE_HEAD + 9, 1200, huge=True)), {})
    observer.take(batch(sample(HUGE_HEAD + 77, 1300, period=8)), {})
    changes = observer.changes(1.5, everything=True)
    assert changes.vpn.tolist() == list(range(HUGE_HEAD, HUGE_HEAD + 512)), "each of its pages once"
    assert len(set(changes.rate_hz.tolist())) == 1


def test_a_new_program_s_samples_count_from_its_exec(observer: Observer, processes: ProcessTable) -> None:
    observer.take(batch(sample(7, 1000, period=10)), {})
    _, new = processes.exec(PID)
    assert new is not None
    observer.take(
        np.empty(0, EVENT_DTYPE), {PID: 9_800_000_000}
    )  # told before anything of the new program is seen
    observer.take(batch(sample(7, 9900, period=10)), {})
    found = observer.table.rates(new.index, 10.0)
    window_s = 20 / np.log(2) * (1 - 2 ** (-0.2 / 20))
    assert found.rate_hz[0] == pytest.approx(10 * 2 ** (-0.1 / 20) / window_s, rel=0.01)


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=60),
    st.lists(st.integers(0, 200), min_size=1, max_size=6),
)
def test_what_was_lost_is_made_up_for_by_what_was_received(periods: list[int], losses: list[int]) -> None:
    weights, lost, total = SampleWeights(), 0, 0
    weights.weigh(batch(fault(1, 1)), 0)
    for missing in losses:
        lost += missing
        # A batch without samples must not swallow the loss.
        weights.weigh(batch(fault(1, 1)), lost)
        events = batch(*(sample(i, i, period=period) for i, period in enumerate(periods)), fault(1, 99))
        pages = events["pages"][-1].item()
        weights.weigh(events, lost)
        samples = events["source"] == EventSource.MEMORY_SAMPLE
        n, exact = len(periods), sum(periods)
        assert abs(int(events["period"][samples].sum()) - exact * (n + missing) / n) <= 0.5
        assert events["pages"][-1] == pages, "other records stay"
        total += exact
    assert weights.stands_for == total


def test_samples_also_stand_for_those_of_the_time_that_nobody_watched() -> None:
    weights = SampleWeights()
    weights.unwatched(0.25, 0.5)
    events = batch(*(sample(i, i, period=1) for i in range(23)))
    weights.weigh(events, 0)
    assert int(events["period"].sum()) == 46
    weights.unwatched(9.0, 0.5)  # a CPU has gone, or the times of two events are told apart in time
    weights.weigh(one := batch(sample(1, 1, period=7)), 0)
    assert one["period"][0] == 700
    weights.unwatched(-0.1, 0.5)
    weights.weigh(one := batch(sample(1, 1, period=7)), 0)
    assert one["period"][0] == 7
    assert weights.stands_for == 23 + 7 + 7


def test_when_a_process_began() -> None:
    now_ns = time.monotonic_ns()
    with open("/proc/self/stat") as stat:  # noqa: PTH123
        ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
    me = Process(0, 1, ticks, "", "", "", 1, "", 0)
    began_s = started_s(me, now_ns)
    assert -86400 * 365 < began_s < 0
    later = Process(0, 1, ticks + 500, "", "", "", 1, "", 0)
    assert started_s(later, now_ns) - began_s == pytest.approx(5, abs=0.1)
