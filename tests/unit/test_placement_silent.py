# SPDX-License-Identifier: Apache-2.0
"""Which pages are silent, and the rate that their silence allows."""

import numpy as np
import pytest

from hotpage.heat.estimator import ALPHA, BETA_S
from hotpage.heat.results import ArmedRanges
from hotpage.placement.silent import Pages, silent_pages

TIMES_S = np.array([1.0, 3.0])
RANGES = ArmedRanges(np.array([10, 100]), np.array([20, 200]), TIMES_S, TIMES_S, np.array([2, 1], np.int32))


def silent(spans: list[tuple[int, int]], tracked: dict[int, int], **more: object) -> Pages:
    vpn, pages = np.array([*tracked], np.int64), np.array([*tracked.values()], np.int32)
    return silent_pages(RANGES, spans, vpn, pages, 5.0, **more)  # type: ignore[arg-type]


def test_armed_pages_in_spans_that_nothing_tracks() -> None:
    found = silent([(0, 15), (18, 105), (190, 300)], {12: 1, 18: 1, 19: 4, 195: 512})
    assert found.vpn.tolist() == [10, 11, 13, 14, *range(100, 105), *range(190, 195)]
    early = found.vpn < 100
    assert found.rate_hz[early] == pytest.approx(ALPHA / (BETA_S + 4.0))
    assert found.rate_hz[~early] == pytest.approx(ALPHA / (BETA_S + 2.0))
    assert (found.rate_short_hz == found.rate_hz).all()
    assert found.relative_error == pytest.approx(1 / np.sqrt(ALPHA))


def test_no_more_are_looked_at_than_wanted() -> None:
    assert silent([(0, 300)], {}, most_pages=12).vpn.tolist() == [*range(10, 20), 100, 101]
    assert silent([(0, 300)], {10: 1}, most_pages=2).vpn.tolist() == [11]


def test_silence_counts_from_the_arming_at_most_until_now() -> None:
    found = silent([(10, 12)], {}, rate_hz=lambda silent_s: np.float32(silent_s))
    assert found.rate_hz.tolist() == [4.0, 4.0]
    assert silent([(20, 100)], {}).vpn.size == 0
