# SPDX-License-Identifier: Apache-2.0
"""The live view's running sums against the report's, which adds everything up anew."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import armed, changes, interval, node, process, run_info, shared, vma

from hotpage.errors import ProfileError
from hotpage.heat.results import Changes, Latencies
from hotpage.profile.disk.reader import ProfileReader
from hotpage.profile.disk.store import ProfileWriter
from hotpage.profile.inmemory import InMemoryProfile as WholeProfile
from hotpage.profile.live.watched import WatchedProfile
from hotpage.profile.snapshot import ClearedRange, IntervalData, RunEnd
from hotpage.profile.summary import summarise
from hotpage.profile.threshold import HeatClass
from hotpage.views.top.ranges import latency


def random_intervals(seed: int, count: int, nodes: int = 1) -> list[IntervalData]:
    """Processes that come, go and unmap; pages that are met, heat up and cool."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(1, count + 1):
        rows = []
        for index in range(4):
            for start in (1000 * index + 7, 5000 + 300 * index):
                vpn = start + np.flatnonzero(rng.random(200) < 0.3)
                rate = np.exp2(rng.normal(0, 6, len(vpn)))
                rate[rng.random(len(vpn)) < 0.1] = np.nan
                rows += [(index, int(page), float(hz)) for page, hz in zip(vpn, rate, strict=True)]
        by_node, some = ({n: int(rng.integers(0, 150)) << 12 for n in range(nodes)} for _ in range(2))
        found.append(
            interval(
                number,
                changes(*rows),
                processes=[process(index, f"p{index}") for index in range(4)] if number == 1 else [],
                vmas={
                    index: [
                        vma(1000 * index + 7, 1000 * index + 107, by_node),
                        shared(vma(1000 * index + 107, 1000 * index + 190, some)),
                        vma(5000 + 300 * index, 5200 + 300 * index, None, ""),
                    ][: int(rng.integers(1, 4))]
                    for index in range(4)
                    if number == 1 or rng.random() < 0.3
                },
                armed={
                    index: armed(1000 * index + int(rng.integers(0, 60)), 1000 * index + 150, 0.01)
                    for index in range(4)
                    if rng.random() < 0.5
                },
                cleared=[
                    ClearedRange(int(rng.integers(0, 4)), *sorted(rng.integers(0, 5000, 2).tolist()))
                    for _ in range(int(rng.integers(0, 3)))
                ],
                nodes=[node(n, n) for n in range(nodes)],
            )
        )
    return found


def both(intervals: list[IntervalData], **run: object) -> tuple[WatchedProfile, WholeProfile]:
    live, whole = WatchedProfile(run_info(**run)), WholeProfile(run_info(**run))
    for data in intervals:
        live.interval(data)
        whole.interval(data)
    return live, whole


@given(seed=st.integers(0, 10_000), count=st.integers(1, 5), nodes=st.sampled_from([1, 2]))
def test_the_sums_are_those_of_a_report(seed: int, count: int, nodes: int) -> None:
    live, whole = both(random_intervals(seed, count, nodes))
    view = live.view
    assert view is not None
    report = summarise(whole.snapshot(), hot_rate_hz=view.threshold.hot_hz)
    assert view.pages == len(whole.snapshot().pages)
    for row, entry in zip(view.processes, report.processes, strict=True):
        assert row.record.process.index == entry.process
        heat = row.heat
        assert (heat.hot_bytes, heat.warm_bytes) == (entry.heat.hot_bytes, entry.heat.warm_bytes)
        assert heat.cold_bytes == pytest.approx(entry.heat.cold_bytes, abs=8)
        assert heat.unknown_bytes == pytest.approx(entry.heat.unknown_bytes, abs=8)
        assert heat.accesses_per_s == pytest.approx(entry.heat.accesses_per_s)
        assert heat.relative_error == pytest.approx(entry.heat.relative_error, rel=1e-3)
        assert heat.resident_bytes == entry.heat.resident_bytes
    assert view.total.accesses_per_s == pytest.approx(report.total.accesses_per_s)
    assert (view.total.hot_bytes, view.total.warm_bytes) == (report.total.hot_bytes, report.total.warm_bytes)
    assert view.total.cold_bytes == pytest.approx(report.total.cold_bytes, abs=32)
    assert view.total.unknown_bytes == pytest.approx(report.total.unknown_bytes, abs=32)
    assert view.total.resident_bytes == report.total.resident_bytes
    assert [tier.resident_bytes for tier in view.tiers] == [entry.resident_bytes for entry in report.nodes]
    for row in view.processes:
        index = row.record.process.index
        mappings = live.mappings(index)
        expected = [entry for entry in report.mappings if entry.process == index]
        assert [m.record for m in mappings] == [entry.record for entry in expected]
        for mapping, entry in zip(mappings, expected, strict=True):
            assert mapping.heat[1:3] == (entry.heat.hot_bytes, entry.heat.warm_bytes)
            assert mapping.heat.cold_bytes == pytest.approx(entry.heat.cold_bytes, abs=8)
            assert mapping.heat.unknown_bytes == pytest.approx(entry.heat.unknown_bytes, abs=8)
            assert mapping.heat.accesses_per_s == pytest.approx(entry.heat.accesses_per_s, abs=1e-6)


@given(
    cold=st.floats(-8, 0),
    gap=st.floats(6, 12),
    nodes=st.sampled_from([1, 2]),
    node_bytes=st.sampled_from([48 << 20, 51 << 20, 16 << 30]),
    sharers=st.integers(1, 3),
)
def test_the_threshold_is_the_reports_to_an_eighth_of_an_octave(
    cold: float, gap: float, nodes: int, node_bytes: int, sharers: int
) -> None:
    """A fast node of 48 MiB is all headroom; one of 51 MiB holds a part."""
    every = [node(number, number, node_bytes) for number in range(nodes)]
    rows = [
        (index, vpn, 2.0 ** (cold + gap * (vpn % 5 == 0) + vpn % 7 / 10))
        for index in range(sharers)
        for vpn in range(1000)
    ]
    mappings = {index: [shared(vma(0, 1000 - index, {0: 1000 << 12}))] for index in range(sharers)}
    sharing = [process(index, "a") for index in range(sharers)]
    live, whole = both([interval(1, changes(*rows), processes=sharing, vmas=mappings, nodes=every)])
    expected = summarise(whole.snapshot()).threshold
    assert live.view is not None
    assert abs(np.log2(live.view.threshold.hot_hz / expected.hot_hz)) <= 0.126
    assert live.view.threshold.rule == expected.rule


@given(seed=st.integers(0, 10_000))
def test_hot_bytes_on_slow_nodes_are_misplaced(seed: int) -> None:
    live, _ = both(random_intervals(seed, 2, nodes=2))
    view = live.view
    assert view is not None and view.has_tiers
    for row in view.processes:
        expected = 0.0
        for mapping in live.mappings(row.record.process.index):
            on = mapping.heat.bytes_by_node
            share = on[1] / sum(on.values()) if sum(on.values()) else 0.0
            expected += mapping.heat.hot_bytes * share
            assert mapping.heat.misplaced_bytes == pytest.approx(mapping.heat.hot_bytes * share)
        assert row.heat.misplaced_bytes == pytest.approx(expected)
    assert view.total.misplaced_bytes == pytest.approx(view.tiers[1].hot_bytes)
    assert 0 <= view.fast_share <= 1 or np.isnan(view.fast_share)


def test_shared_memory_is_counted_once_in_sums() -> None:
    """As PostgreSQL's backends have their buffers; of each it is all of its own."""
    live = WatchedProfile(run_info())
    buffers = {index: [shared(vma(1000, 26_600, {1: (25_600 - index) << 12}))] for index in range(5)}
    nodes = [node(0, 0, 200 << 20), node(1, 1, 300 << 20)]
    rows = [(index, 1000 + page, 1000.0) for index in range(5) for page in range(20 * index)]
    every = [process(index, "postgres") for index in range(5)]
    live.interval(interval(1, changes(*rows), processes=every, vmas=buffers, nodes=nodes))
    view = live.view
    assert view is not None
    assert [row.heat.resident_bytes >> 12 for row in view.processes] == [25_600 - index for index in range(5)]
    assert view.total.resident_bytes == view.tiers[1].resident_bytes == 25_600 << 12
    assert view.total.bytes_by_node == {0: 0, 1: 25_600 << 12}
    assert view.total.hot_bytes == view.total.misplaced_bytes == view.tiers[1].hot_bytes == 80 << 12
    assert view.total.seen_bytes == 25_600 << 12
    assert view.total.accesses_per_s == pytest.approx(200 * 1000.0), "each has its own"
    live.interval(interval(2, changes(), processes=[process(0, "postgres", exited_s=1.5)], nodes=nodes))
    assert live.view is not None
    assert live.view.total.resident_bytes == live.view.tiers[1].resident_bytes == 25_599 << 12


def test_an_exited_process_is_shown_once_more_and_its_slot_is_used_again() -> None:
    live = WatchedProfile(run_info())
    live.interval(interval(1, changes((1, 5, 2.0)), processes=[process(1, "a")]))
    live.interval(interval(2, changes(), processes=[process(1, "a", exited_s=1.5)]))
    assert live.view is not None and len(live.view.processes) == 1
    live.interval(interval(3, changes((2, 5, 2.0), (2, 6, 2.0)), processes=[process(2, "b")]))
    (row,) = live.view.processes
    assert row.record.process.comm == "b"
    assert live.view.pages == 2
    assert row.heat.accesses_per_s == pytest.approx(4.0)
    assert np.isnan(row.history_hz[-2]) and row.history_hz[-1] == pytest.approx(4.0)


def test_a_view_does_not_change_any_more() -> None:
    live = WatchedProfile(run_info())
    live.interval(interval(1, changes((1, 5, 2.0)), processes=[process(1, "a")]))
    before = live.view
    assert before is not None
    (row,) = before.processes
    kept = (row.heat, row.history_hz.tolist())
    pages = live.pages(1, 0, 1 << 20)
    live.interval(interval(2, changes((1, 5, 200.0), (1, 6, 7.0))))
    assert (row.heat, row.history_hz.tolist()[-1]) == (kept[0], kept[1][-1])
    assert pages.rate_hz.tolist() == [2.0]
    assert live.pages(1, 0, 1 << 20).rate_hz.tolist() == [200.0, 7.0]


def test_latencies_belong_to_pages() -> None:
    live = WatchedProfile(run_info())
    seen = Latencies(
        np.array([1, 1, 1], np.int32), np.array([5, 9, 5]), np.array([3e-3, 1, 2e-3], np.float32)
    )
    live.interval(replace(interval(1, changes((1, 5, 2.0), (1, 6, 2.0))), latencies=seen))
    pages = live.pages(1, 0, 1 << 20)
    assert pages.latency_s[0] == pytest.approx(2e-3, rel=1e-3)
    assert np.isnan(pages.latency_s[1])


@pytest.mark.parametrize(
    ("latency_s", "shown"),
    [(12e-6, "12 us"), (480e-6, "480 us"), (6.25e-3, "6.25 ms"), (300.0, "300 s"), (7200.0, "7200 s")],
)
def test_a_latency_is_shown_as_it_was(latency_s: float, shown: str) -> None:
    live = WatchedProfile(run_info())
    seen = Latencies(np.array([1], np.int32), np.array([5]), np.array([latency_s], np.float32))
    live.interval(replace(interval(1, changes((1, 5, 2.0))), latencies=seen))
    assert latency(live.pages(1, 0, 1 << 20).latency_s[0]) == shown


def test_a_snapshot_of_some_addresses_of_a_process() -> None:
    live = WatchedProfile(run_info())
    rows = [(index, vpn, float(vpn)) for index in (1, 2) for vpn in range(100, 110)]
    first = interval(
        3, changes(*rows), processes=[process(1, "a"), process(2, "b")], armed={1: armed(90, 120, 0.5)}
    )
    live.interval(first)
    part = live.snapshot(1, 104 << 12, 107 << 12)
    assert part.processes.keys() == {1} and part.time_s == 3.0
    assert part.pages.vpn.tolist() == [104, 105, 106]
    assert part.pages.rate_hz.tolist() == [104.0, 105.0, 106.0]
    assert (part.armed[1].start_vpn.tolist(), part.armed[1].end_vpn.tolist()) == ([104], [107])
    assert live.snapshot(2, 0, 1 << 56).armed == {}
    nobody = live.snapshot(7, 0, 1 << 56)
    assert not nobody.processes and not len(nobody.pages)


def test_what_the_kernel_moved_is_a_rate() -> None:
    live = WatchedProfile(run_info())
    more = {"processes": [process(1, "a"), process(2, "b")], "migrated_pages": {1: 30}}
    live.interval(interval(2, changes(), start_s=0.0, **more))
    assert live.view is not None
    assert [row.migrated_per_s for row in live.view.processes] == [15.0, 0.0]
    live.interval(interval(3, changes()))
    assert [row.migrated_per_s for row in live.view.processes] == [0.0, 0.0]


def test_ranges_have_one_rate_each() -> None:
    live = WatchedProfile(run_info())
    rows = [(1, vpn, 1000.0 if vpn < 150 else 0.1) for vpn in range(100, 200)]
    live.interval(interval(1, changes(*rows)))
    runs = live.ranges(1, 100 << 12, 180 << 12)
    assert runs.start_vpn.tolist() == [100, 150]
    assert runs.pages.tolist() == [50, 30]


def test_the_strip_is_that_of_a_report() -> None:
    from hotpage.profile.strips import heat_strip

    live, whole = both(random_intervals(3, 3))
    report = summarise(whole.snapshot())
    entry = report.mappings[0]
    assert entry.record is not None
    mine, theirs = live.strip(entry.process, entry.record, 20), heat_strip(whole.snapshot(), entry, 20)
    np.testing.assert_array_equal(mine.rate_hz, theirs.rate_hz)
    np.testing.assert_array_equal(mine.silent, theirs.silent)


def test_recording_from_now_on(tmp_path) -> None:
    intervals = random_intervals(11, 6)
    live, whole = both(intervals[:3])
    live.record(tmp_path / "profile")
    with pytest.raises(ProfileError, match="already"):
        live.record(tmp_path / "other")
    for data in intervals[3:5]:
        live.interval(data)
        whole.interval(data)
    live.stop_recording()
    live.interval(intervals[5])  # no part of it
    assert live.recording is not None and live.recording.problem is None
    snapshot, expected = ProfileReader(tmp_path / "profile").snapshot(), whole.snapshot()
    assert snapshot.end == RunEnd(5.0, "complete")
    assert (snapshot.usage.start_s, snapshot.usage.end_s, snapshot.usage.intervals) == (3.0, 5.0, 3)
    assert snapshot.usage.sources[0].received == 200
    np.testing.assert_array_equal(snapshot.pages.vpn, expected.pages.vpn)
    np.testing.assert_array_equal(snapshot.pages.process, expected.pages.process)
    np.testing.assert_allclose(snapshot.pages.rate_hz, expected.pages.rate_hz, rtol=0.5)
    for recorded, watched in zip(summarise(snapshot).mappings, summarise(expected).mappings, strict=True):
        assert recorded.record == watched.record
        assert recorded.heat.unknown_bytes == watched.heat.unknown_bytes


def test_a_recording_ends_with_the_session(tmp_path) -> None:
    live, _ = both(random_intervals(5, 1))
    live.record(tmp_path / "profile")
    live.close(RunEnd(1.0, "target exited"))
    assert live.recording is not None and not live.recording.is_running
    assert ProfileReader(tmp_path / "profile").snapshot().end is not None
    with pytest.raises(ProfileError, match="ended"):
        live.record(tmp_path / "other")


def test_a_recording_that_cannot_be_written_says_so(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    live, _ = both(random_intervals(5, 1))
    with pytest.raises(ProfileError, match="cannot make"):
        live.record(tmp_path / "file" / "profile")
    assert live.recording is None

    def fail(self: ProfileWriter, data: IntervalData) -> None:
        raise ProfileError("cannot write: no space", "free some")

    monkeypatch.setattr(ProfileWriter, "interval", fail)
    live.record(tmp_path / "profile")
    recording = live.recording
    assert recording is not None
    live.stop_recording()
    assert recording.problem == "cannot write: no space"
    live.interval(interval(9, changes()))  # goes on


def test_many_pages_at_once_are_added_up() -> None:
    count, each = 100_000, 50_000
    rng = np.random.default_rng(5)
    live = WatchedProfile(run_info())
    page = np.arange(count)
    owner = (page // each).astype(np.int32)
    error = np.full(2 * count, 0.25, np.float32)
    rates = np.empty(count, np.float32)
    # At first all pages, then each twice, with its last rate last, then a third of them.
    for number, some in enumerate((page, np.repeat(page, 2), page[::3]), 1):
        told = np.exp2(rng.normal(0, 4, len(some))).astype(np.float32)
        rates[some] = told
        pages = Changes(owner[some], some, told, told, error[: len(some)])
        live.interval(
            interval(number, pages, processes=[process(0, "a"), process(1, "b")] if number == 1 else [])
        )
        view = live.view
        assert view is not None and view.pages == count
        for index, row in enumerate(view.processes):
            mine = rates[owner == index].astype(np.float64)
            edges = (mine >= view.threshold.hot_hz).sum(), (mine >= view.threshold.warm_hz).sum()
            assert row.heat.hot_bytes == edges[0] * 4096
            assert row.heat.warm_bytes == (edges[1] - edges[0]) * 4096
            assert row.heat.accesses_per_s == pytest.approx(mine.sum())
            assert row.heat.relative_error == pytest.approx(0.25)
            rows = live.pages(index, 0, count << 12)
            assert (rows.rate_hz == rates[owner == index]).all()


def test_classes_by_count_are_those_by_rate() -> None:
    rates = np.exp2(np.linspace(-10, 20, 500)).astype(np.float32)
    live = WatchedProfile(run_info())
    error = np.full(500, 0.1, np.float32)
    pages = Changes(np.zeros(500, np.int32), np.arange(500), rates, rates, error)
    live.interval(interval(1, pages, processes=[process(0, "a")]))
    view = live.view
    assert view is not None
    classes = view.threshold.classes(rates)
    assert view.total.hot_bytes == int((classes == HeatClass.HOT).sum()) * 4096 > 0
    assert view.total.warm_bytes == int((classes == HeatClass.WARM).sum()) * 4096 > 0
    assert view.total.cold_bytes == int((classes == HeatClass.COLD).sum()) * 4096 > 0
