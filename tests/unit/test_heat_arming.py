# SPDX-License-Identifier: Apache-2.0
"""Arming history of ranges: exact coverage, bounded memory, and silences that are never too long."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotpage.heat.arming import KEPT_ARMINGS, MAX_RANGES, ArmedPages, silence_of_many
from hotpage.heat.grouping import to_ticks
from hotpage.heat.table import HeatTable

_steps = st.lists(
    st.tuples(st.sampled_from(["arm", "arm", "forget"]), st.integers(0, 60), st.integers(0, 30)), max_size=14
)


@given(_steps, st.integers(0, 15))
def test_coverage_is_that_of_page_by_page_bookkeeping(
    steps: list[tuple[str, int, int]], last_step: int
) -> None:
    pages = ArmedPages()
    truth: dict[int, list[float]] = {}
    for now, (name, start, count) in enumerate(steps):
        if name == "arm":
            pages.arm(start, start + count, float(now))
            for vpn in range(start, start + count):
                truth.setdefault(vpn, []).append(float(now))
        else:
            pages.forget(start, start + count)
            for vpn in range(start, start + count):
                truth.pop(vpn, None)
    ranges = pages.ranges()
    covered = [vpn for s, e in zip(ranges.start_vpn, ranges.end_vpn, strict=True) for vpn in range(s, e)]
    assert covered == sorted(truth)
    assert pages.is_empty == (not truth)
    for i, start in enumerate(ranges.start_vpn.tolist()):
        assert (ranges.first_s[i], ranges.last_s[i]) == (truth[start][0], truth[start][-1])
        assert ranges.passes[i] == len(truth[start])
    vpn = np.arange(95)
    first = [truth[v][0] if v in truth else math.inf for v in vpn.tolist()]
    np.testing.assert_array_equal(pages.first_armings(vpn, np.zeros(vpn.size, dtype=np.uint32)), first)
    later = [[t for t in truth.get(v, []) if t > last_step] for v in vpn.tolist()]
    expected = [min(times, default=math.inf) for times in later]
    last = np.full(vpn.size, to_ticks(float(last_step)), dtype=np.uint32)
    np.testing.assert_array_equal(pages.first_armings(vpn, last), expected)
    silence = pages.silence(vpn, last, 20.0)
    silent_s = np.zeros(vpn.size) if silence is None else silence
    np.testing.assert_allclose(silent_s, [20.0 - t if t < math.inf else 0.0 for t in expected])


def test_large_and_small_slices_find_the_same_arming() -> None:
    """They are searched in different ways."""
    pages = ArmedPages()
    for time_s in (1.0, 2.0, 4.0, 8.0):
        pages.arm(0, 100_000, time_s)
    last = np.random.default_rng(1).integers(1, to_ticks(10.0), 100_000).astype(np.uint32)
    whole = pages.first_armings(np.arange(100_000), last)
    parts = [pages.first_armings(np.arange(i, i + 100), last[i : i + 100]) for i in range(0, 100_000, 100)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    newest = np.full(5000, to_ticks(9.0), dtype=np.uint32)
    assert np.isinf(pages.first_armings(np.arange(5000), newest)).all()


@pytest.mark.parametrize("every_s", [0.1, 1.0, 10.0])
def test_thinned_armings_shorten_a_silence_a_little_and_never_lengthen_it(every_s: float) -> None:
    pages = ArmedPages()
    now_s = 600.0
    times = np.arange(every_s, now_s, every_s)
    for time_s in times.tolist():
        pages.arm(0, 1000, time_s)
    last_s = np.linspace(0, now_s - 2 * every_s, 1000)
    last = np.array([to_ticks(t) for t in last_s], dtype=np.uint32)
    silence = pages.silence(np.arange(1000), last, now_s)
    assert silence is not None
    true_silence = now_s - times[np.searchsorted(times, last_s, side="right").clip(max=times.size - 1)]
    assert (silence <= true_silence + 0.002 + every_s * (np.abs(last_s % every_s) < 2e-3)).all()
    assert (silence / true_silence).min() >= 0.45
    assert np.median(silence / true_silence) >= 0.7
    assert silence[0] == pytest.approx(now_s - every_s)


def test_many_passes_and_many_ranges_stay_bounded() -> None:
    pages = ArmedPages()
    for time_s in range(5 * KEPT_ARMINGS):
        pages.arm(0, 10, float(time_s))
    once = pages.nbytes
    for start in range(3 * MAX_RANGES):
        pages.arm(20 + start * 3, 23 + start * 3, 100.0 + start)
    assert len(pages.ranges()) <= MAX_RANGES
    assert pages.nbytes <= once * MAX_RANGES
    ranges = pages.ranges()
    assert (ranges.start_vpn[1:] >= ranges.end_vpn[:-1]).all()
    assert (ranges.end_vpn - ranges.start_vpn).sum() == 10 + 9 * MAX_RANGES


def test_out_of_order_armings_are_sorted_in() -> None:
    pages = ArmedPages()
    for time_s in (5.0, 3.0, 4.0):
        pages.arm(0, 4, time_s)
    assert pages.ranges().first_s.tolist() == [3.0] and pages.ranges().last_s.tolist() == [5.0]
    last = np.array([to_ticks(3.5)] * 4, dtype=np.uint32)
    assert pages.first_armings(np.arange(4), last).tolist() == [4.0] * 4


class TestArmedAt:
    """When an access that has not been observed yet was armed."""

    def test_first_arming_since_the_last_access(self) -> None:
        table = HeatTable()
        for time_s in (1.0, 2.0, 5.0):
            table.arm(3, 100, 200, time_s)
        table.observe(3, [100, 101], [3.0, 6.0], 0.1)
        table.touch(3, 102, 1.5)
        armed_s = table.armed_at(3, [103, 102, 101, 100, 200, 103], [7.0, 7.0, 7.0, 7.0, 7.0, 8.0])
        np.testing.assert_array_equal(armed_s, [1.0, 2.0, np.nan, 5.0, np.nan, np.nan])

    def test_repeated_accesses_follow_each_other(self) -> None:
        table = HeatTable()
        for time_s in (1.0, 2.0, 3.0):
            table.arm(0, 0, 10, time_s)
        armed_s = table.armed_at(0, [5, 5, 5, 5], [1.5, 2.5, 2.75, 9.0])
        np.testing.assert_array_equal(armed_s, [1.0, 2.0, np.nan, 3.0])

    def test_an_access_before_its_arming_was_not_armed(self) -> None:
        table = HeatTable()
        table.arm(0, 0, 10, 5.0)
        assert np.isnan(table.armed_at(0, [5], [4.0])).all()
        assert np.isnan(table.armed_at(9, [5], [4.0])).all()
        assert table.armed_at(0, [], []).size == 0

    def test_dense_pages_are_found_too(self) -> None:
        table = HeatTable()
        table.arm(0, 0, 5000, 1.0)
        table.observe(0, np.arange(4000), 2.0, 1.0)
        table.arm(0, 0, 5000, 3.0)
        armed_s = table.armed_at(0, np.arange(5000)[::-1], np.full(5000, 4.0))
        np.testing.assert_array_equal(armed_s, np.where(np.arange(5000)[::-1] < 4000, 3.0, 1.0))


def test_silence_of_more_processes_than_fit_into_one_number_with_their_pages():
    """What the kernel armed up to the end of an address space ends there."""
    pages, count = ArmedPages(), 2100
    pages.arm(0, 1 << 52, 1.0)
    silence_s = silence_of_many(
        [pages] * count, range(count + 1), np.full(count, 7), np.zeros(count, np.uint32), 5.0
    )
    assert silence_s.tolist() == [4.0] * count
