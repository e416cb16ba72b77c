# SPDX-License-Identifier: Apache-2.0
"""Joining neighbours and folding intervals, against the obvious way to do it."""

import math
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from profiles import changes

from hotpage.profile import fold
from hotpage.profile.runs import join_neighbours
from hotpage.profile.snapshot import ClearedRange

RATES = st.one_of(st.just(math.nan), st.floats(2**-20, 2**20, width=32))
PAGES = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 30)), RATES, max_size=40)
CLEARED = st.builds(ClearedRange, st.integers(0, 3), st.integers(0, 15), st.integers(15, 31))
STEPS = st.lists(st.tuples(PAGES, st.lists(CLEARED, max_size=2)), max_size=6)


def rows(pages: dict) -> list[tuple[int, int, float]]:
    return [(process, vpn, rate) for (process, vpn), rate in pages.items()]


@given(PAGES)
def test_runs_hold_every_page_within_half_an_octave_of_each_other(pages):
    runs = join_neighbours(changes(*rows(pages)))
    held = {}
    for process, start, count, mean in zip(
        runs.process, runs.start_vpn, runs.pages, runs.rate_hz, strict=True
    ):
        rates = [pages[process, vpn] for vpn in range(start, start + count)]
        if math.isnan(mean):
            assert all(math.isnan(rate) for rate in rates)
        else:
            assert max(rates) <= min(rates) * 2**0.5 * 1.00001
            assert math.isclose(mean, sum(rates) / len(rates), rel_tol=1e-5)
        held |= {(int(process), vpn): mean for vpn in range(start, start + count)}
    assert held.keys() == pages.keys()


@given(PAGES)
def test_similar_neighbours_are_in_one_run(pages):
    flat = dict.fromkeys(pages, 5.0)
    stretches = sum((process, vpn - 1) not in flat for process, vpn in flat)
    assert len(join_neighbours(changes(*rows(flat)))) == stretches


@given(STEPS, st.integers(1, 60))
def test_the_newest_row_wins_however_the_work_is_cut(steps, batch_rows):
    expected: dict[tuple[int, int], float] = {}
    pages_fold, runs_fold = fold.PageFold(), fold.PageFold()
    with mock.patch.object(fold, "_BATCH_ROWS", batch_rows):
        for number, (pages, cleared) in enumerate(steps):
            time_s = float(number)
            for gone in cleared:
                pages_fold.clear(gone, time_s)
                runs_fold.clear(gone, time_s)
                for place in list(expected):
                    if place[0] == gone.process and gone.start_vpn <= place[1] < gone.end_vpn:
                        del expected[place]
            expected |= pages
            pages_fold.add_pages(changes(*rows(pages)), time_s)
            runs = join_neighbours(changes(*rows(pages)))
            runs_fold.add_runs(runs, np.full(len(runs), time_s))
    for table, tolerance in ((pages_fold.table(), 1e-6), (runs_fold.table(), 0.42)):
        places = list(zip(table.process.tolist(), table.vpn.tolist(), strict=True))
        assert places == sorted(expected)
        np.testing.assert_allclose(table.rate_hz, [expected[place] for place in places], rtol=tolerance)


def test_process_indices_and_addresses_of_any_size_keep_their_order():
    high = (1 << 45) - 1
    wide = fold.PageFold()
    wide.add_pages(changes((2**31 - 1, high, 1.0), (2**31 - 1, 0, 2.0), (5, high, 3.0)), 0.0)
    wide.add_pages(changes((5, high, 4.0)), 1.0)
    table = wide.table()
    assert table.process.tolist() == [5, 2**31 - 1, 2**31 - 1]
    assert table.rate_hz.tolist() == [4.0, 2.0, 1.0]
