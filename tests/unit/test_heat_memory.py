# SPDX-License-Identifier: Apache-2.0
"""Bytes per tracked page, and that nbytes tells the truth about them."""

import tracemalloc

import numpy as np
import pytest

from hotpage.heat.table import HeatTable

PAGES = 1 << 20


def _populated(pages: np.ndarray, batch: int = 1 << 18) -> HeatTable:
    table = HeatTable()
    for second, low in enumerate(range(0, pages.size, batch)):
        some = pages[low : low + batch]
        table.observe(
            np.zeros(some.size, np.int32), some, np.full(some.size, float(second)), np.full(some.size, 0.1)
        )
    return table


@pytest.mark.parametrize("order", ["ascending", "shuffled"])
def test_a_densely_touched_range_takes_at_most_16_bytes_a_page(order: str) -> None:
    pages = 0x7_F123_4567 + np.arange(PAGES)
    if order == "shuffled":
        pages = np.random.default_rng(1).permutation(pages)
    table = _populated(pages)
    assert table.tracked_pages == PAGES
    assert table.nbytes / PAGES <= 16


@pytest.mark.parametrize("spacing_pages", [512, 16, 3, 2])
def test_scattered_pages_take_at_most_48_bytes_each(spacing_pages: int) -> None:
    table = _populated(np.arange(PAGES // 4) * spacing_pages)
    assert table.tracked_pages == PAGES // 4
    assert table.nbytes / table.tracked_pages <= 48


def test_half_filled_chunks_never_exceed_48_bytes_a_page() -> None:
    rng = np.random.default_rng(2)
    table = HeatTable()
    for second in range(24):
        table.observe(0, rng.integers(0, PAGES // 4, PAGES // 64), float(second), 0.1)
        assert table.nbytes / table.tracked_pages <= 48


def test_forgetting_gives_the_memory_back() -> None:
    table = _populated(np.arange(PAGES // 4))
    table.observe(1, np.arange(1000) * 1000, 9.0, 0.1)
    table.forget(0)
    assert table.tracked_pages == 1000
    assert table.nbytes < 1 << 20


def test_nbytes_is_what_the_allocator_says() -> None:
    rng = np.random.default_rng(3)
    pages = np.concatenate([np.arange(PAGES // 2), rng.integers(1 << 30, 1 << 36, PAGES // 4)])
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        table = _populated(pages)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert table.nbytes == pytest.approx(after - before, rel=0.02)
