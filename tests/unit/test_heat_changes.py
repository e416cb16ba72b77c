# SPDX-License-Identifier: Apache-2.0
"""What take_changes tells, and how soon: written pages at once, the others in their turn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpage.heat.histogram import rate_bins
from hotpage.heat.results import Changes
from hotpage.heat.table import (
    CHANGE_BINS,
    COOLING_ROWS,
    COOLING_TURNS,
    MOST_LOGGED,
    MOST_SAMPLED,
    HeatTable,
)

PROCESSES = 40
SPREAD = 700
"""Pages of a process: a few chunks, so that some are dense and some are not."""


def told_bins(told: dict[tuple[int, int], float]) -> dict[tuple[int, int], int]:
    rates = np.array(list(told.values()), np.float32)
    return dict(zip(told, rate_bins(rates).tolist(), strict=True))


def note(told: dict[tuple[int, int], float], changes: Changes) -> None:
    rows = zip(changes.process.tolist(), changes.vpn.tolist(), changes.rate_hz.tolist(), strict=True)
    told |= {(process, vpn): rate for process, vpn, rate in rows}


def bins_of(table: HeatTable, process: int, now_s: float) -> dict[tuple[int, int], int]:
    rates = table.rates(process, now_s)
    return {
        (process, vpn): bin_
        for vpn, bin_ in zip(rates.vpn.tolist(), rate_bins(rates.rate_hz).tolist(), strict=True)
    }


def assert_told(
    told: dict[tuple[int, int], float], actual: dict[tuple[int, int], int], pages: set[tuple[int, int]]
) -> None:
    known = told_bins(told)
    for page in pages:
        assert page in known, f"{page} was never told"
        if actual[page]:  # 0: unknown, told once
            assert abs(actual[page] - known[page]) < CHANGE_BINS or actual[page] == known[page], page


_batch = st.tuples(
    st.integers(0, 2**32), st.integers(1, 400), st.floats(1e-4, 1.0), st.floats(0, 3), st.booleans()
)


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(_batch, min_size=1, max_size=6))
def test_what_was_observed_is_told_at_once_and_everything_in_the_end(batches: list) -> None:
    table = HeatTable()
    told: dict[tuple[int, int], float] = {}
    now_s = 5.0
    for seed, count, exposure_s, late_s, is_touch in batches:
        rng = np.random.default_rng(seed)
        now_s += 1.0
        process = rng.integers(0, PROCESSES, count)
        vpn = rng.integers(0, SPREAD, count) * rng.choice([1, 1, 1, 600], count)
        times = np.round((now_s - late_s * rng.random(count)) * 1024) / 1024  # rings are read CPU by CPU
        if is_touch:
            table.touch(process, vpn, times)
        else:
            table.observe(process, vpn, times, exposure_s * rng.exponential(1.0, count))
        armed = int(rng.integers(0, PROCESSES))
        table.arm(armed, 0, SPREAD, now_s)
        changes = table.take_changes(now_s)
        order = list(zip(changes.process.tolist(), changes.vpn.tolist(), strict=True))
        assert order == sorted(set(order))
        note(told, changes)
        written = set(zip(process.tolist(), vpn.tolist(), strict=True))
        actual = {}
        for owner in {one for one, _ in written}:
            actual |= bins_of(table, owner, now_s)
        assert_told(told, actual, written)
    now_s += 20.0
    note(told, table.take_changes(now_s, everything=True))
    for owner in range(PROCESSES):
        actual = bins_of(table, owner, now_s)
        assert_told(told, actual, set(actual))


@pytest.mark.parametrize("processes", [[7, 3, 5], [2_000_000, 3, 900_000]])
def test_changes_are_in_order_however_large_the_numbers(processes: list[int]) -> None:
    table = HeatTable()
    pages = [(1 << 45) - 1, 12, (1 << 45) - 2, 99]
    for process in processes:
        table.observe(process, pages, 1.0, 0.5)
    changes = table.take_changes(2.0)
    told = list(zip(changes.process.tolist(), changes.vpn.tolist(), strict=True))
    assert told == sorted((process, page) for process in processes for page in pages)


def test_one_page_each_of_many_processes() -> None:
    """Some armed, some not, in ranges of their own: each page has its own process's silence."""
    table = HeatTable()
    many = 3000
    process = np.arange(many)
    table.observe(process, process * 1000, 1.0, 0.1)
    for owner in range(0, many, 3):
        table.arm(owner, owner * 1000, owner * 1000 + 5, 1.5)
        table.arm(owner, owner * 1000, owner * 1000 + 2, 2.0)
    for owner in range(1, many, 3):
        table.arm(owner, owner * 1000 + 1, owner * 1000 + 9, 1.5)  # beside the page
    changes = table.take_changes(11.5)
    assert changes.process.tolist() == process.tolist() and (changes.vpn == process * 1000).all()
    expected = np.concatenate([table.rates(owner, 11.5).rate_hz for owner in range(many)])
    assert changes.rate_hz == pytest.approx(expected, rel=1e-5)
    assert changes.rate_hz[0::3].max() < 1 < changes.rate_hz[1::3].min()


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are taken for so large that a turn is no more than its share."""
    monkeypatch.setattr("hotpage.heat.table.COOLING_ROWS", 1)


@pytest.mark.usefixtures("large")
def test_pages_beside_the_written_ones_wait_for_their_turn() -> None:
    table = HeatTable()
    pages = np.arange(COOLING_TURNS * 512)
    table.observe(0, pages, 1.0, 0.01)
    assert len(table.take_changes(1.0)) == pages.size
    table.arm(0, 0, pages.size, 2.0)
    table.observe(0, pages[::512], 30.0, 28.0)
    turns = [table.take_changes(30.0) for _ in range(COOLING_TURNS)]
    assert len(turns[0]) == 512 + COOLING_TURNS - 1, "a part, and one page of each other chunk"
    assert sum(len(changes) for changes in turns) == pages.size
    assert [len(changes) for changes in turns[1:]] == [511] * (COOLING_TURNS - 1)


def test_a_small_table_is_looked_at_as_a_whole() -> None:
    table = HeatTable()
    pages = np.arange(100_000)
    table.observe(0, pages, 1.0, 0.01)
    table.take_changes(1.0)
    table.arm(0, 0, pages.size, 2.0)
    assert len(table.take_changes(30.0)) == pages.size


@pytest.mark.usefixtures("large")
def test_samples_of_a_page_that_hint_faults_know_are_told_at_once() -> None:
    table = HeatTable()
    pages = np.arange(COOLING_TURNS * 512)
    table.observe(0, pages, 1.0, 1.0)
    table.take_changes(1.0)
    far = pages[-100:]
    table.sample(0, np.repeat(far, 50), 1.5, 1e6)  # not silent: the page's last access stays as it was
    assert set(far.tolist()) <= set(table.take_changes(1.5).vpn.tolist())


@pytest.mark.usefixtures("large")
def test_asking_when_pages_were_armed_is_no_change() -> None:
    table = HeatTable()
    pages = np.arange(COOLING_TURNS * 512)
    table.observe(0, pages, 1.0, 0.01)
    table.take_changes(1.0)
    table.arm(0, 0, pages.size, 2.0)
    table.armed_at(0, pages, np.full(pages.size, 3.0))
    assert len(table.take_changes(30.0)) == 512


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("batches", [1, 40])
@pytest.mark.parametrize("share", [MOST_LOGGED // 2, MOST_LOGGED * 2])
def test_many_written_pages_and_few_are_told_at_once(share: int, batches: int) -> None:
    """Beside the written ones only those whose turn it is: all pages have cooled."""
    table = HeatTable()
    pages = np.arange(COOLING_TURNS * 512)
    table.observe(0, pages, 1.0, 0.01)
    table.take_changes(1.0)
    table.arm(0, 0, pages.size, 2.0)
    written = pages[::share]
    for part in np.array_split(np.repeat(written, 4), batches):
        table.observe(0, part, 30.0, 28.0)
    told = set(table.take_changes(30.0).vpn.tolist())
    assert set(written.tolist()) <= told
    assert len(told) < written.size + 1024
    assert table.take_changes(30.0).vpn.size <= 512, "they are told once"


@pytest.mark.usefixtures("large")
def test_samples_of_more_pages_than_are_kept_apart_are_told_at_once() -> None:
    table = HeatTable()
    pages = np.arange(COOLING_TURNS * 512)
    table.observe(0, pages, 1.0, 1.0)
    table.take_changes(1.0)
    sampled = pages[:: MOST_SAMPLED // 2]
    table.sample(0, np.repeat(sampled, 50), 1.5, 1e6)
    assert set(sampled.tolist()) <= set(table.take_changes(1.5).vpn.tolist())


def test_pages_forgotten_after_they_were_written_are_not_told() -> None:
    table = HeatTable()
    pages = np.arange(COOLING_ROWS * 512 * 2)
    table.observe(0, pages, 1.0, 1.0)
    table.take_changes(1.0)
    table.observe(0, pages[-100:], 2.0, 0.001)
    table.forget(0, int(pages[-50]))
    assert table.take_changes(2.0).vpn.tolist() == pages[-100:-50].tolist()


@pytest.mark.usefixtures("large")
def test_where_all_cools_at_once_a_turn_ends_early_and_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hotpage.heat.table.COOLING_CHANGES", 1000)
    table = HeatTable()
    pages = np.arange(4 * COOLING_TURNS * 512)
    table.observe(0, pages, 1.0, 0.01)
    while table.take_changes(1.0).vpn.size:
        pass
    table.arm(0, 0, pages.size, 2.0)
    told = [table.take_changes(30.0) for _ in range(pages.size // 1024)]
    assert {len(changes) for changes in told} == {1024}, "half of what a turn would be"
    assert sorted(np.concatenate([changes.vpn for changes in told]).tolist()) == pages.tolist()
