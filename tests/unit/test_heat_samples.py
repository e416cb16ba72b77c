# SPDX-License-Identifier: Apache-2.0
"""Rates from memory samples: against a plain reference, simulated accesses, and mixed with hint faults."""

import math

import numpy as np
import pytest
from heat_reference import silent_rate_hz
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpage.heat.estimator import ALPHA, effective_samples, mixed_rate, posterior_rate
from hotpage.heat.table import HeatTable

SHORT_S, LONG_S = 2.0, 20.0
FIRST = 0x7_F123_4567


def window_s(watched_s: float, half_life_s: float) -> float:
    """Seconds of watching, decayed: the integral of 2^(-s/half life)."""
    mean_life_s = half_life_s / math.log(2)
    return mean_life_s * (1 - math.exp(-watched_s / mean_life_s))


def decayed(samples: list[tuple[float, float]], now_s: float, half_life_s: float, power: int = 1) -> float:
    """Σ w^power of (time, weight), decayed."""
    return sum(weight**power * 2 ** ((time_s - now_s) / half_life_s) for time_s, weight in samples)


def rate_of(table: HeatTable, vpn: int, now_s: float, process: int = 0) -> tuple[float, float, float]:
    """(long rate, short rate, relative error) of a page."""
    rates = table.rates(process, now_s)
    place = int(np.searchsorted(rates.vpn, vpn))
    assert rates.vpn[place] == vpn
    return float(rates.rate_hz[place]), float(rates.rate_short_hz[place]), float(rates.relative_error[place])


_times = st.integers(0, 60 * 64).map(lambda steps: steps / 64)  # exact in ticks
_samples = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from([0, 1, 2, 700, 1 << 37]), _times, st.sampled_from([1, 500, 9e4])
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60)
@given(st.lists(_samples, min_size=1, max_size=6), st.floats(0, 90))
def test_rates_are_what_the_formula_says(
    batches: list[list[tuple[int, int, float, float]]], more_s: float
) -> None:
    table = HeatTable((SHORT_S, LONG_S))
    seen: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for batch in batches:
        for process in {process for process, *_ in batch}:
            mine = [event for event in batch if event[0] == process]
            _, vpn, times, weights = (list(column) for column in zip(*mine, strict=True))
            table.sample(process, vpn, times, weights)
            for _, page, time_s, weight in mine:
                seen.setdefault((process, page), []).append((time_s, weight))
    now_s = max(time_s for samples in seen.values() for time_s, _ in samples) + more_s
    now_s = max(math.ceil(now_s * 64) / 64, 1 / 64)
    assert table.tracked_pages == len(seen)
    for (process, vpn), samples in seen.items():
        long, short, error = rate_of(table, vpn, now_s, process)
        weight, squares = decayed(samples, now_s, LONG_S), decayed(samples, now_s, LONG_S, power=2)
        effective = weight**2 / squares
        if abs(effective - 0.5) < 1e-3:
            continue
        if effective < 0.5:
            assert math.isnan(long) and math.isnan(short), "faded: as if never sampled"
            continue
        assert long == pytest.approx(weight / window_s(now_s, LONG_S), rel=1e-3)
        left = decayed(samples, now_s, SHORT_S)
        floor = ALPHA * squares / weight  # what could have stayed unseen
        assert short == pytest.approx(max(left, floor) / window_s(now_s, SHORT_S), rel=1e-3)
        assert error == pytest.approx(1 / math.sqrt(effective + ALPHA), rel=1e-3)


@pytest.mark.parametrize(("rate_hz", "period"), [(200_000.0, 997), (5_000.0, 101), (40.0, 3)])
def test_simulated_accesses_give_their_rate_and_an_honest_error(rate_hz: float, period: int) -> None:
    """Poisson accesses, one in ``period`` sampled, to 500 pages: mean and spread of the estimates."""
    rng = np.random.default_rng(11)
    pages, end_s = 500, 30.0
    table = HeatTable((SHORT_S, LONG_S))
    counts = rng.poisson(rate_hz / period * end_s, pages)
    vpn = np.repeat(np.arange(pages), counts)
    table.sample(0, vpn, rng.random(len(vpn)) * end_s, period)
    rates = table.rates(0, end_s)
    assert len(rates) > 0.99 * pages
    assert np.nanmean(rates.rate_hz) == pytest.approx(rate_hz, rel=0.03)
    spread = np.nanstd(rates.rate_hz) / rate_hz
    # Σ d counts decayed samples, whose squared weights sum to less: the error told is up to √2 too large.
    told = float(np.nanmedian(rates.relative_error))
    assert spread < 1.1 * told < 2 * spread


def test_the_window_begins_when_the_process_did() -> None:
    table = HeatTable()
    table.sample(0, [7] * 10, np.linspace(100.0, 101.0, 10), 50, since_s=100.0)
    table.sample(1, [7] * 10, np.linspace(100.0, 101.0, 10), 50)
    young, old = rate_of(table, 7, 101.0)[0], rate_of(table, 7, 101.0, process=1)[0]
    assert young == pytest.approx(500, rel=0.05)
    assert old == pytest.approx(500 * window_s(1, LONG_S) / window_s(101, LONG_S), rel=0.05)


def test_unequal_weights_are_worth_fewer_samples() -> None:
    weights = np.array([1, 1, 1, 1000], np.float32)
    worth = effective_samples(weights.sum(keepdims=True), (weights**2).sum(keepdims=True))
    assert worth[0] == pytest.approx(1.006, rel=1e-3)
    assert effective_samples(np.float32([3000]), np.float32([3e6]))[0] == pytest.approx(3)


f32 = st.floats(np.float32(1e-3), np.float32(1e6), width=32)


@given(f32, f32, f32, f32)
def test_the_mixture_weighs_by_inverse_variance(
    accesses: float, watched_s: float, samples: float, exposure_s: float
) -> None:
    """Two Gamma estimates of one rate λ have variances λ/e: the weights are their exposures."""
    one = np.float32([accesses]), np.float32([watched_s]), np.float32([samples]), np.float32([exposure_s])
    hints = posterior_rate(one[0], one[1])
    mixed = float(mixed_rate(hints, one[0], one[2], one[3])[0])
    watched_s = (accesses + ALPHA) / float(hints[0])
    by_samples = samples / exposure_s
    expected = (float(hints[0]) * watched_s + by_samples * exposure_s) / (watched_s + exposure_s)
    assert mixed == pytest.approx(expected, rel=1e-3)
    low, high = sorted((float(hints[0]), by_samples))
    assert low * (1 - 1e-5) <= mixed <= high * (1 + 1e-5)


def test_two_sources_of_one_rate_are_better_than_either() -> None:
    """Poisson accesses seen by both: the mixture's error is smaller than each alone."""
    rng = np.random.default_rng(5)
    pages, rate_hz, period, end_s = 400, 1000.0, 500, 20.0
    hints, samples, both = HeatTable(), HeatTable(), HeatTable()
    counts = rng.poisson(rate_hz / period * end_s, pages)
    vpn = np.repeat(np.arange(pages), counts)
    times = rng.random(len(vpn)) * end_s
    for table in (hints, both):
        for second in range(20):
            table.observe(0, np.arange(pages), second + 0.5, rng.exponential(1 / rate_hz, pages))
    for table in (samples, both):
        table.sample(0, vpn, times, period)
    errors = [
        np.nanmean((table.rates(0, end_s).rate_hz / rate_hz - 1) ** 2) for table in (hints, samples, both)
    ]
    assert errors[2] < min(errors[:2])
    told = [np.median(table.rates(0, end_s).relative_error) for table in (hints, samples, both)]
    assert told[2] < min(told[:2])


def test_a_page_without_samples_keeps_its_rate_by_hint_faults() -> None:
    alone, beside = HeatTable(), HeatTable()
    for table in (alone, beside):
        table.observe(0, [5, 6], 1.0, 0.01)
    beside.sample(0, [9], [1.5], 100)
    for vpn in (5, 6):
        assert rate_of(alone, vpn, 2.0) == rate_of(beside, vpn, 2.0)


def changes_of(table: HeatTable, now_s: float) -> dict[int, float]:
    changes = table.take_changes(now_s, everything=True)
    return dict(zip(changes.vpn.tolist(), changes.rate_hz.tolist(), strict=True))


def test_sample_silence_alone_makes_a_page_unknown_and_never_cold() -> None:
    table = HeatTable()
    table.sample(0, [FIRST] * 64, np.linspace(0, 2, 64), 1000)
    table.sample(0, [FIRST + 1], [2.0], 1000)
    lowest = 0.5 * 1000 / window_s(1e9, LONG_S)  # half a sample in a whole window
    known: set[int] = set()
    for second in range(2, 300):
        rates = table.rates(0, float(second))
        finite = np.isfinite(rates.rate_hz)
        assert (rates.rate_hz[finite] >= 0.99 * lowest).all()
        known = set(rates.vpn[finite].tolist())
        assert second > 20 or known == {FIRST, FIRST + 1}, "a lone sample lasts for a half-life"
    assert known == set()
    assert changes_of(table, 2.0).keys() == {FIRST, FIRST + 1}
    later = changes_of(table, 300.0)
    assert later.keys() == {FIRST, FIRST + 1} and all(map(math.isnan, later.values())), "and that is told"
    assert changes_of(table, 301.0) == {}, "once"
    histogram = table.histogram(300.0)
    assert (histogram.bytes.sum(), histogram.unknown_bytes) == (0, 2 * 4096)


def test_silence_after_an_arming_does_make_it_cold() -> None:
    table = HeatTable()
    table.sample(0, [FIRST] * 64, np.linspace(0, 2, 64), 1000)
    table.arm(0, FIRST - 5, FIRST + 5, 3.0)
    assert rate_of(table, FIRST, 3.001)[0] > 10_000
    assert rate_of(table, FIRST, 300.0)[0] == pytest.approx(ALPHA / 297, rel=0.01)


def test_a_sample_refutes_the_silence_of_an_armed_page() -> None:
    """Its hint fault was lost, or the scan left the page out: it was accessed, so it was not silent."""
    table = HeatTable()
    table.observe(0, [FIRST], 1.0, 0.5)
    table.arm(0, FIRST - 5, FIRST + 5, 2.0)
    before = rate_of(table, FIRST, 100.0)[0]
    table.sample(0, [FIRST], [101.0], 10)
    after = rate_of(table, FIRST, 101.0)[0]
    assert after > 3 * before
    assert rate_of(table, FIRST, 250.0)[0] == pytest.approx(3.0, rel=0.1), (
        "no arming since: no news is no change"
    )
    table.arm(0, FIRST - 5, FIRST + 5, 251.0)
    assert rate_of(table, FIRST, 900.0)[0] < 0.01


def test_neighbours_of_a_sampled_page_stay_silent() -> None:
    table = HeatTable()
    table.arm(0, FIRST, FIRST + 1000, 1.0)
    table.sample(0, [FIRST + 500], [2.0], 10)
    assert silent_rate_hz(table, 0, [FIRST + 501], 11.0)[0] == pytest.approx(0.05, rel=0.01)


def test_forgetting_and_exits() -> None:
    table = HeatTable()
    table.sample(3, [FIRST, FIRST + 1, FIRST + 2], [1.0, 1.0, 1.0], 10)
    table.forget(3, FIRST + 1, FIRST + 2)
    assert table.rates(3, 2.0).vpn.tolist() == [FIRST, FIRST + 2]
    table.sample(3, [FIRST + 1], [2.0], 10)
    assert rate_of(table, FIRST + 1, 2.0, 3)[0] == pytest.approx(10 / window_s(2, LONG_S), rel=1e-3)
    table.forget(3)
    assert table.tracked_pages == 0 and len(table.rates(3, 2.0)) == 0
    with pytest.raises(ValueError, match="page"):
        table.sample(0, [-1], [1.0], 1)
    table.sample(0, [], [], 1)


def test_many_pages_in_many_batches() -> None:
    """Newcomers are merged in; every sample stays with its page, also where pages are dense."""
    rng = np.random.default_rng(3)
    pages = FIRST + rng.permutation(30_000)
    table = HeatTable()
    for low in range(0, len(pages), 997):
        table.sample(0, np.repeat(pages[low : low + 997], 2), 1.0, 50)
    rates = table.rates(0, 1.0)
    assert rates.vpn.tolist() == list(range(FIRST, FIRST + 30_000))
    assert rates.rate_hz == pytest.approx(np.full(30_000, 100 / window_s(1, LONG_S)), rel=1e-3)
    assert table.nbytes / 30_000 <= 15 * 1.1 + 24 + 1, "the samples' own columns take 24 bytes a page"
