# SPDX-License-Identifier: Apache-2.0
"""HeatTable against the reference table, and what it promises about identity, changes and bytes."""

import math

import numpy as np
import pytest
from heat_reference import ReferenceTable, silent_rate_hz
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpage.heat.table import COOLING_TURNS, HeatTable

FIRST = 0x7_F123_4567
SHORT_S, LONG_S = 2.0, 20.0
# float16 sums: half a unit in the last place (2^-11) per update, some tens of updates per page here.
ROUNDING = 0.02

_times = st.integers(0, 120 * 64).map(lambda steps: steps / 64)  # exact in ticks
_vpns = st.one_of(
    st.integers(FIRST, FIRST + 12),
    st.integers(FIRST - 3000, FIRST + 3000),
    st.integers(0, 2**52 - 1),
)
_event = st.tuples(
    st.integers(0, 2),
    _vpns,
    st.floats(0, 3),
    st.floats(-1e-3, 0.1),  # the long ones are below: one page's exposures do not overlap much
)
_silence = st.tuples(st.integers(0, 2), _vpns, st.just(0.0), st.floats(0, 50))
_operation = st.one_of(
    st.tuples(st.just("observe"), st.lists(_event, min_size=1, max_size=8)),
    st.tuples(st.just("observe"), st.lists(_silence, min_size=1, max_size=1)),
    st.tuples(st.just("touch"), st.lists(st.tuples(st.integers(0, 2), _vpns), min_size=1, max_size=8)),
    st.tuples(
        st.just("arm"), st.tuples(st.integers(0, 2), st.integers(FIRST - 40, FIRST + 40), st.integers(1, 40))
    ),
    st.tuples(
        st.just("forget"), st.tuples(st.integers(0, 2), st.integers(FIRST - 9, FIRST + 9), st.integers(1, 20))
    ),
    st.tuples(st.just("exit"), st.integers(0, 2)),
    # A run of neighbours long enough to make chunks dense.
    st.tuples(
        st.just("fill"), st.tuples(st.integers(0, 2), st.integers(FIRST - 300, FIRST), st.integers(150, 900))
    ),
)


def _apply(table: HeatTable, reference: ReferenceTable, name: str, argument: object, now_s: float) -> None:
    if name == "observe":
        process, vpn, late, exposure = (list(column) for column in zip(*argument, strict=True))
        # Rings are read CPU by CPU: so times are out of order; whole ticks keep it exact.
        times = [max(now_s - round(x * 64) / 64, 0.0) for x in late]
        table.observe(process, vpn, times, exposure)
        for event in zip(process, vpn, times, exposure, strict=True):
            reference.observe(*event)
    elif name == "touch":
        process, vpn = (list(column) for column in zip(*argument, strict=True))
        table.touch(process, vpn, now_s)
        for one in zip(process, vpn, strict=True):
            reference.touch(*one, now_s)
    elif name == "arm":
        process, start, count = argument
        table.arm(process, start, start + count, now_s)
        reference.arm(process, start, start + count, now_s)
    elif name == "forget":
        process, start, count = argument
        table.forget(process, start, start + count)
        reference.forget(process, start, start + count)
    elif name == "exit":
        table.forget(argument)
        reference.forget(argument)
    else:
        process, start, count = argument
        table.observe(process, np.arange(start, start + count), now_s, 0.25)
        for vpn in range(start, start + count):
            reference.observe(process, vpn, now_s, 0.25)


def _assert_same(table: HeatTable, reference: ReferenceTable, now_s: float) -> None:
    assert table.tracked_pages == len(reference.pages)
    for process in range(3):
        rates = table.rates(process, now_s)
        assert rates.vpn.tolist() == reference.tracked(process)
        for half_life, got in ((LONG_S, rates.rate_hz), (SHORT_S, rates.rate_short_hz)):
            expected = [reference.rate_hz(process, vpn, now_s, half_life) for vpn in rates.vpn.tolist()]
            np.testing.assert_allclose(got, expected, rtol=ROUNDING)
        accesses = [reference.accesses_now(process, vpn, now_s, LONG_S) for vpn in rates.vpn.tolist()]
        np.testing.assert_allclose(rates.relative_error, 1 / np.sqrt(np.array(accesses) + 0.5), rtol=ROUNDING)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 64 * 20), _operation), min_size=1, max_size=14), wait=_times)
def test_any_interleaving_gives_the_reference_rates(steps: list, wait: float) -> None:
    table, reference = HeatTable((SHORT_S, LONG_S)), ReferenceTable((SHORT_S, LONG_S))
    now_s = 5.0
    for pause, (name, argument) in steps:
        now_s += pause / 64
        _apply(table, reference, name, argument, now_s)
    _assert_same(table, reference, now_s)
    _assert_same(table, reference, now_s + wait)


def test_batches_that_make_chunks_dense_and_scattered_pages_merge_keep_every_page() -> None:
    """Enough pages for merges of the sparse part, promotion of filled chunks and several growths."""
    rng = np.random.default_rng(11)
    table = HeatTable()
    seen: dict[int, int] = {}
    for batch in range(12):
        near = rng.integers(FIRST, FIRST + 512 * 100, 20_000)
        far = rng.integers(0, 2**36, 5_000)
        pages = np.concatenate([near, far])
        table.observe(4, pages, float(batch), 0.5)
        for vpn, count in zip(*(a.tolist() for a in np.unique(pages, return_counts=True)), strict=True):
            seen[vpn] = seen.get(vpn, 0) + count
    rates = table.rates(4, 12.0)
    assert rates.vpn.tolist() == sorted(seen)
    assert table.tracked_pages == len(seen)
    table.forget(4, FIRST, FIRST + 512 * 99 + 7)
    kept = sorted(vpn for vpn in seen if not FIRST <= vpn < FIRST + 512 * 99 + 7)
    assert table.rates(4, 12.0).vpn.tolist() == kept
    table.observe(4, np.arange(FIRST, FIRST + 5000), 12.0, 0.1)
    assert table.tracked_pages == len(set(kept) | set(range(FIRST, FIRST + 5000)))
    table.forget(4)
    assert table.tracked_pages == 0
    assert len(table.rates(4, 12.0)) == 0
    assert table.nbytes < 1 << 20


def test_events_of_one_page_within_a_batch_all_count() -> None:
    table = HeatTable()
    table.observe([0] * 1000, [FIRST] * 1000, [1.0] * 1000, [1e-3] * 1000)
    rates = table.rates(0, 1.0)
    assert rates.rate_hz[0] == pytest.approx(1000, rel=0.01)
    assert rates.relative_error[0] == pytest.approx(1 / math.sqrt(1000.5), rel=1e-3)


def test_splitting_a_batch_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    pages, times = rng.integers(FIRST, FIRST + 50, 400), rng.uniform(0, 30, 400)
    exposures = rng.exponential(0.3, 400)
    whole, halves = HeatTable(), HeatTable()
    whole.observe(1, pages, times, exposures)
    halves.observe(1, pages[:200], times[:200], exposures[:200])
    halves.observe(1, pages[200:], times[200:], exposures[200:])
    np.testing.assert_allclose(whole.rates(1, 30.0).rate_hz, halves.rates(1, 30.0).rate_hz, rtol=ROUNDING)
    np.testing.assert_allclose(
        whole.rates(1, 30.0).rate_short_hz, halves.rates(1, 30.0).rate_short_hz, rtol=ROUNDING
    )


def test_a_batch_older_than_what_is_known_adds_less_and_moves_no_time_back() -> None:
    table, reference = HeatTable((SHORT_S, LONG_S)), ReferenceTable((SHORT_S, LONG_S))
    for time_s, exposure_s in ((10.0, 0.1), (7.0, 0.5), (9.0, 0.25)):
        table.observe(0, FIRST, time_s, exposure_s)
        reference.observe(0, FIRST, time_s, exposure_s)
    table.arm(0, FIRST, FIRST + 1, 9.5)
    reference.arm(0, FIRST, FIRST + 1, 9.5)
    _assert_same(table, reference, 12.0)


def test_scattered_pages_between_dense_chunks_are_listed_in_place() -> None:
    table = HeatTable()
    dense = np.concatenate([chunk * 512 + np.arange(512) for chunk in (2, 3, 7, 8, 20)])
    scattered = np.array([5, 4 * 512 + 9, 5 * 512, 9 * 512 + 511, 30 * 512])
    pages = np.sort(np.concatenate([dense, scattered]))
    table.observe(0, pages, 1.0, pages * 1e-3)
    rates = table.rates(0, 1.0)
    np.testing.assert_array_equal(rates.vpn, pages)
    accrued = 20 / math.log(2) * -np.expm1(-pages * 1e-3 / 20 * math.log(2))
    np.testing.assert_allclose(rates.rate_hz, 1.5 / (accrued + 10e-6), rtol=ROUNDING)


def test_exposures_at_or_below_zero_are_one_microsecond() -> None:
    table = HeatTable()
    table.observe(0, [1, 2, 3], 1.0, [0.0, -5.0, 1e-6])
    rate = table.rates(0, 1.0).rate_hz
    assert rate[0] == rate[1] == rate[2] == pytest.approx(1.5 / 11e-6, rel=0.01)


def test_more_accesses_than_a_float16_counts_stay_finite() -> None:
    table = HeatTable()
    for second in range(20):
        table.observe(0, np.full(50_000, FIRST), float(second), 1e-5)
    rates = table.rates(0, 20.0)
    assert np.isfinite(rates.rate_hz).all() and np.isfinite(rates.rate_short_hz).all()
    assert rates.rate_hz[0] == pytest.approx(1 / 1e-5, rel=0.02)


def test_touched_pages_are_unknown_until_armed() -> None:
    table = HeatTable()
    table.touch(0, [FIRST, FIRST + 1], 3.0)
    table.arm(0, FIRST + 1, FIRST + 2, 4.0)
    rates = table.rates(0, 14.0)
    assert np.isnan(rates.rate_hz[0]) and np.isnan(rates.rate_short_hz[0])
    assert rates.rate_hz[1] == pytest.approx(0.5 / 10, rel=1e-3)
    histogram = table.histogram(14.0)
    assert histogram.unknown_bytes == 4096 and histogram.bytes.sum() == 4096


def test_an_arming_before_the_touch_is_not_silence() -> None:
    table = HeatTable()
    table.arm(0, FIRST, FIRST + 1, 1.0)
    table.touch(0, FIRST, 2.0)
    assert np.isnan(table.rates(0, 60.0).rate_hz[0])


def test_pages_not_in_the_table_are_judged_by_their_arming() -> None:
    table = HeatTable()
    table.arm(7, 100, 200, 5.0)
    table.arm(7, 100, 150, 9.0)
    rate = silent_rate_hz(table, 7, [99, 100, 149, 150, 199, 200], 15.0)
    np.testing.assert_allclose(rate, [np.nan, 0.05, 0.05, 0.05, 0.05, np.nan], rtol=1e-3)
    assert np.isnan(silent_rate_hz(table, 8, [100], 15.0)).all()


def test_an_unwatched_page_keeps_its_rate_and_loses_certainty() -> None:
    table = HeatTable()
    for second in range(30):
        table.observe(0, FIRST, float(second), 0.25)
    now, later = table.rates(0, 30.0), table.rates(0, 500.0)
    assert later.rate_hz[0] == pytest.approx(now.rate_hz[0])
    assert later.relative_error[0] == pytest.approx(math.sqrt(2), rel=1e-3)
    assert now.relative_error[0] < 0.3


def test_processes_and_high_addresses_do_not_mix() -> None:
    table = HeatTable()
    table.observe([0, 1, 0, 70_000], [5, 5, 5 + 2**36, 5 + 2**51], 1.0, [0.1, 0.2, 0.4, 0.8])
    assert table.rates(0, 1.0).vpn.tolist() == [5, 5 + 2**36]
    np.testing.assert_allclose(table.rates(0, 1.0).rate_hz, [15, 1.5 / 0.4], rtol=0.02)
    np.testing.assert_allclose(table.rates(70_000, 1.0).rate_hz, [1.5 / 0.8], rtol=0.02)
    table.forget(0, 2**36)
    assert table.rates(0, 1.0).vpn.tolist() == [5]
    assert table.rates(1, 1.0).vpn.tolist() == [5]


@pytest.mark.parametrize(
    ("process", "vpn", "time_s"),
    [(-1, 5, 1.0), (0, -5, 1.0), (0, 2**52, 1.0), (0, 5, 2.0**23), (0, 5, math.nan)],
)
def test_impossible_events_are_refused(process: int, vpn: int, time_s: float) -> None:
    table = HeatTable()
    with pytest.raises(ValueError):
        table.observe(process, vpn, time_s, 0.1)
    with pytest.raises(ValueError):
        table.touch(process, vpn, time_s)
    assert table.tracked_pages == 0


def test_an_unknown_exposure_is_refused_before_it_spoils_a_page() -> None:
    table = HeatTable()
    with pytest.raises(ValueError, match="touch"):
        table.observe(0, [1, 2], 1.0, [0.1, math.nan])
    assert table.tracked_pages == 0


def test_horizons_must_be_ordered() -> None:
    with pytest.raises(ValueError, match="half-lives"):
        HeatTable((20.0, 2.0))


def test_empty_batches_do_nothing() -> None:
    table = HeatTable()
    table.observe([], [], [], [])
    table.touch([], [], [])
    table.arm(0, 5, 5, 1.0)
    assert table.tracked_pages == 0 and len(table.armed_ranges(0)) == 0
    assert len(table.take_changes(1.0)) == 0
    assert table.histogram(1.0).bytes.sum() == 0


def test_histogram_totals_are_the_bytes_tracked() -> None:
    rng = np.random.default_rng(2)
    table = HeatTable()
    table.observe(
        rng.integers(0, 5, 50_000), rng.integers(0, 60_000, 50_000), 1.0, rng.lognormal(-5, 4, 50_000)
    )
    table.touch(6, np.arange(1000), 1.0)
    table.arm(2, 0, 30_000, 2.0)
    histogram = table.histogram(9.0)
    assert histogram.bytes.sum() + histogram.unknown_bytes == table.tracked_pages * 4096
    assert histogram.unknown_bytes == 1000 * 4096
    rate = np.concatenate([table.rates(process, 9.0).rate_hz for process in range(5)])
    expected, _ = np.histogram(rate, bins=histogram.edges_hz)
    # float32 log2 may put a rate that lies on an edge on its other side.
    assert np.abs(np.cumsum(expected) * 4096 - np.cumsum(histogram.bytes)).max() <= 5 * 4096


class TestChanges:
    def test_each_change_is_sent_once(self) -> None:
        table = HeatTable()
        table.observe([1, 0, 0], [9, 8, 7], 1.0, [0.1, 0.2, 0.3])
        changes = table.take_changes(1.0)
        assert list(zip(changes.process.tolist(), changes.vpn.tolist(), strict=True)) == [
            (0, 7),
            (0, 8),
            (1, 9),
        ]
        np.testing.assert_allclose(changes.rate_hz, [5.0, 7.5, 15.0], rtol=0.03)
        assert len(table.take_changes(1.0)) == 0
        table.observe(0, 7, 1.1, 0.3)  # 2.5/0.6: a fraction of an octave
        assert len(table.take_changes(1.1)) == 0
        table.observe(0, 8, 1.2, 10.0)
        assert table.take_changes(1.2).vpn.tolist() == [8]

    def test_warming_up_is_sent_before_the_long_rate_shows_it_and_so_is_its_end(self) -> None:
        table = HeatTable()
        for second in range(60):
            table.observe(0, [7, 8], float(second), 0.7)
        table.take_changes(60.0, everything=True)
        for second in range(60, 66):
            table.observe(0, 8, float(second), 0.001)
        changes = table.take_changes(66.0)
        assert changes.vpn.tolist() == [8]
        assert changes.rate_short_hz > 4 * changes.rate_hz
        assert len(table.take_changes(66.0)) == 0
        assert table.take_changes(66.0, everything=True).vpn.tolist() == [8]
        sent = []
        for second in range(66, 80):
            table.observe(0, 8, float(second), 0.7)
            sent += table.take_changes(float(second)).rate_short_hz.tolist()
        now = table.rates(0, 80.0).rate_short_hz[1]
        assert sent and sent[-1] == pytest.approx(now, rel=1.0)

    def test_current_rates_are_the_short_ones_of_pages_that_have_changed(self) -> None:
        table = HeatTable()
        steady, warmed, cooled = 7, 8, 9
        table.arm(0, 0, 16, 0.0)
        for second in range(60):
            table.observe(0, [steady, warmed], float(second), 0.7)
            table.observe(0, cooled, float(second), 0.01)
        for second in range(60, 68):
            table.arm(0, 0, 16, float(second))
            table.observe(0, steady, second + 0.7, 0.7)
            table.observe(0, warmed, second + 0.01, 0.01)
        rates, current = table.rates(0, 68.0), table.rates(0, 68.0, current=True)
        assert current.rate_hz[0] == rates.rate_hz[0] < 2
        assert (current.rate_hz[1:] == rates.rate_short_hz[1:]).all()
        assert current.rate_hz[1] > 5 and current.rate_hz[2] < 2
        assert (current.relative_error[1:] > rates.relative_error[1:]).all()

    def test_cooling_is_sent_in_the_end_without_events(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("hotpage.heat.table.COOLING_ROWS", 1)  # as if the table were large
        table = HeatTable()
        table.observe(0, np.arange(40_000), 1.0, 0.01)  # dense
        table.observe(1, np.arange(3000) * 5000, 1.0, 0.01)  # sparse
        assert len(table.take_changes(1.0)) == 43_000
        assert sum(len(table.take_changes(1.0)) for _ in range(COOLING_TURNS)) == 0
        table.arm(0, 0, 40_000, 2.0)
        table.arm(1, 0, 3000 * 5000, 2.0)
        cooled = [table.take_changes(30.0) for _ in range(COOLING_TURNS)]
        assert sum(len(changes) for changes in cooled) == 43_000
        assert max(len(changes) for changes in cooled) < 10_000
        assert all((changes.rate_hz < 1).all() for changes in cooled)

    def test_chunks_stored_in_another_order_keep_their_own_account(self) -> None:
        table = HeatTable()
        for chunk, exposure_s in ((9, 1e-4), (3, 1e-2), (6, 1.0)):
            table.observe(0, chunk * 512 + np.arange(512), 1.0, exposure_s)
        assert len(table.take_changes(1.0)) == 3 * 512
        assert len(table.take_changes(1.0, everything=True)) == 0
        table.observe(0, 3 * 512 + np.arange(200), 1.5, 10.0)
        assert table.take_changes(1.5).vpn.tolist() == list(range(3 * 512, 3 * 512 + 200))
        assert sum(len(table.take_changes(1.5)) for _ in range(16)) == 0
        # What the short rate makes of the long silence has not been sent yet.
        assert table.take_changes(1.5, everything=True).vpn.tolist() == list(range(3 * 512, 3 * 512 + 200))

    def test_everything_finds_all_cooling_at_once(self) -> None:
        table = HeatTable()
        table.observe(0, np.arange(40_000), 1.0, 0.01)
        table.observe(0, 2**30 + np.arange(3000) * 5000, 1.0, 0.01)
        table.take_changes(1.0)
        table.arm(0, 0, 2**35, 2.0)
        assert len(table.take_changes(30.0, everything=True)) == 43_000

    def test_touched_pages_are_sent_once_without_a_rate(self) -> None:
        table = HeatTable()
        table.touch(0, np.arange(1000), 1.0)
        changes = table.take_changes(1.0)
        assert changes.vpn.tolist() == list(range(1000))
        assert np.isnan(changes.rate_hz).all() and np.isnan(changes.rate_short_hz).all()
        table.touch(0, np.arange(1000), 1.5)
        assert sum(len(table.take_changes(1.5)) for _ in range(COOLING_TURNS)) == 0
        assert len(table.take_changes(1.5, everything=True)) == 0
        table.arm(0, 0, 1000, 2.0)
        assert sum(len(table.take_changes(3.0)) for _ in range(COOLING_TURNS)) == 1000

    def test_what_is_sent_is_what_rates_says(self) -> None:
        rng = np.random.default_rng(3)
        table = HeatTable()
        table.observe(0, rng.integers(0, 5000, 4000), 1.0, rng.lognormal(-5, 2, 4000))
        table.arm(0, 0, 2500, 1.5)
        changes, rates = table.take_changes(4.0), table.rates(0, 4.0)
        np.testing.assert_array_equal(changes.vpn, rates.vpn)
        np.testing.assert_array_equal(changes.rate_hz, rates.rate_hz)
        np.testing.assert_array_equal(changes.rate_short_hz, rates.rate_short_hz)
        np.testing.assert_array_equal(changes.relative_error, rates.relative_error)


def test_processes_that_were_forgotten_leave_their_place_to_others():
    table, high = HeatTable(), 1 << 40  # a second space of each process
    sizes = []
    for process in range(600):
        table.arm(process, 0, 1 << 52, float(process))
        table.observe(process, [10, high], process + 0.5, 0.25)
        if process >= 3:
            table.forget(process - 3)
        told = table.take_changes(process + 0.5)
        assert sorted(zip(told.process.tolist(), told.vpn.tolist(), strict=True)) == [
            (process, 10),
            (process, high),
        ]
        sizes.append(table.nbytes)
    assert sizes[-1] - sizes[100] < 8192  # 4 bytes of each process that there ever was, in steps
    for process in range(597, 600):
        assert table.rates(process, 600.0).vpn.tolist() == [10, high]
    assert not len(table.rates(596, 600.0))
