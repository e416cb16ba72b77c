# SPDX-License-Identifier: Apache-2.0
"""Which pages are silent, and the rate that their silence allows."""

import numpy as np
import pytest
from profiles import armed

from hotpage.heat.estimator import ALPHA, BETA_S
from hotpage.heat.results import ArmedRanges
from hotpage.placement import silent as placement_silent
from hotpage.placement.silent import Pages, SilentMemory, silent_pages

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


def test_some_of_them_from_a_page_on() -> None:
    def memory(tracked: dict[int, int]) -> SilentMemory:
        vpn, pages = np.array([*tracked], np.int64), np.array([*tracked.values()], np.int32)
        return SilentMemory(RANGES, [(0, 150), (160, 300)], vpn, pages)

    assert memory({}).vpn(most_pages=12).tolist() == [*range(10, 20), 100, 101]
    assert memory({}).vpn(18, 103).tolist() == [18, 19, 100, 101, 102]
    assert memory({}).vpn(18, most_pages=0).size == 0
    of_folios = memory({8: 4, 13: 1, 14: 1, 90: 12, 140: 512})
    assert of_folios.vpn(most_pages=3).tolist() == [12, 15, 16], "those with a row cost nothing"
    every = of_folios.vpn()
    assert every.tolist() == [12, *range(15, 20), *range(102, 140)]
    somewhere = np.arange(0, 320)
    assert somewhere[of_folios.has(somewhere)].tolist() == every.tolist()


def test_ever_so_many_tracked_folios_leave_what_is_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement_silent, "SMALL_CHUNK", 7)
    tracked = np.arange(0, 1000, 5)
    pages = np.tile(np.array([2, 5], np.int32), tracked.size // 2)
    memory = SilentMemory(armed(3, 997), [(0, 400), (410, 2000)], tracked, pages)
    is_tracked = (np.arange(1000) % 10 < 2) | (np.arange(1000) % 10 >= 5)
    expected = [vpn for vpn in range(3, 997) if not is_tracked[vpn] and not 400 <= vpn < 410]
    assert memory.vpn().tolist() == expected
    assert memory.vpn(most_pages=20).tolist() == expected[:20]


def test_silence_counts_from_the_arming_at_most_until_now() -> None:
    found = silent([(10, 12)], {}, rate_hz=lambda silent_s: np.float32(silent_s))
    assert found.rate_hz.tolist() == [4.0, 4.0]
    assert silent([(20, 100)], {}).vpn.size == 0
