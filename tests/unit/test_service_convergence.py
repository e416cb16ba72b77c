# SPDX-License-Identifier: Apache-2.0
"""Where rounds of the service lead, with real estimates of a program's random accesses: second by second."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from serviceworld import BASE, FAST, PAGE, World

from hotpage.exerciser import zipf_shares
from hotpage.heat.results import Folios
from hotpage.heat.table import HeatTable
from hotpage.service.heatfeed import Picture

PAGES, FIT = 8192, 2048
HOT = np.arange(1000, 1000 + FIT)
ARM_S, PLAN_S = 2, 3


class Program(World):
    """Accesses its pages at ``rate`` each; the kernel arms all of them every ``arm_s``."""

    def __init__(self, rate: np.ndarray[Any, Any], arm_s: int = ARM_S) -> None:
        super().__init__(PAGES, "[placement]\nheadroom_percent = 0.0")
        self.free_pages[FAST] = FIT
        self.rate = rate
        self._arm_s = arm_s
        self.table = HeatTable()
        self.moved_pages = 0
        self.bounce_shares: list[float] = []
        self._s = 0
        self._random = np.random.default_rng(5)
        self._due_s = np.full(PAGES, np.inf)

    @property
    def to_oracle(self) -> float:
        """Of the accesses that the best pages would bring to fast memory, how many go there."""
        return float(self.rate[self.node == FAST].sum() / np.sort(self.rate)[-FIT:].sum())

    def pass_by(self, seconds: int) -> None:
        """Arm, fault, plan and move for so long."""
        for _ in range(seconds):
            if self._s % self._arm_s == 0:
                self.table.arm(0, BASE, BASE + PAGES, float(self._s))
                silent = np.isinf(self._due_s)
                self._due_s[silent] = self._s + self._random.exponential(1 / self.rate[silent])
            self._s += 1
            self._fault()
            if self._s % PLAN_S == 1:
                self.now_s = 100.0 + self._s
                outcome = self.keeper.step(self.picture()).outcome
                self.moved_pages += 0 if outcome is None else outcome.moved_bytes // PAGE
                self.bounce_shares.append(self.keeper.bounces.last.share)

    def _fault(self) -> None:
        seen = np.flatnonzero(self._due_s <= self._s)
        seen = seen[np.argsort(self._due_s[seen])]
        time_s = self._due_s[seen]
        armed_s = self.table.armed_at(0, BASE + seen, time_s)
        self.table.observe(0, BASE + seen, time_s, time_s - armed_s)
        self._due_s[seen] = np.inf

    def picture(self, short: Any = None) -> Picture:
        rates = self.table.rates(0, float(self._s), current=True)
        ones = np.ones(len(rates), np.int32)
        folios = Folios(rates.vpn, ones, rates.rate_hz, rates.rate_short_hz, rates.relative_error)
        armed = self.table.armed_ranges(0)
        return replace(super().picture(), time_s=float(self._s), folios={0: folios}, armed={0: armed})


def hot_and_cold(first: int) -> np.ndarray[Any, Any]:
    rate = np.full(PAGES, 8.0)
    rate[first : first + FIT] = 240.0
    return rate


def test_zipf_is_where_an_oracle_would_have_it_within_seconds_and_stays() -> None:
    one = Program(5e5 * zipf_shares(PAGES))
    one.pass_by(12)
    assert one.to_oracle > 0.95
    one.pass_by(70)
    assert one.to_oracle > 0.98
    assert one.moved_pages < 1.6 * FIT
    assert np.nanmax(one.bounce_shares) < 0.2


def test_a_hot_set_that_moves_is_followed() -> None:
    one = Program(hot_and_cold(500))
    one.pass_by(64)
    assert one.to_oracle > 0.98
    one.rate = hot_and_cold(5000)
    one.pass_by(24)
    assert one.to_oracle > 0.9
    assert np.nanmax(one.bounce_shares) < 0.2


def test_a_hot_set_that_moves_soon_after_it_was_promoted_is_followed() -> None:
    one = Program(hot_and_cold(500))
    one.pass_by(25)
    one.rate = hot_and_cold(5000)
    one.pass_by(36)
    assert one.to_oracle > 0.9
    assert one.moved_pages < 3.2 * FIT


def test_free_room_is_filled_before_many_passes_are_over_where_they_are_rare() -> None:
    one = Program(5e5 * zipf_shares(PAGES), arm_s=40)
    one.pass_by(30)
    assert one.to_oracle > 0.9
    one.pass_by(90)
    assert one.to_oracle > 0.93
    assert one.moved_pages < 1.6 * FIT


def test_a_hot_set_that_moves_is_followed_as_fast_as_rare_passes_tell() -> None:
    one = Program(hot_and_cold(500), arm_s=20)
    one.pass_by(110)
    one.rate = hot_and_cold(5000)
    one.pass_by(60)
    assert one.to_oracle > 0.65
    assert one.moved_pages < 3.2 * FIT


def test_what_others_take_is_given_up_once() -> None:
    """A CPU keeps the pages that a move has freed at hand, and the node's free memory does not show them."""
    one = Program(hot_and_cold(500))
    one.most_at_hand = 400
    one.pass_by(40)
    moved_pages = one.moved_pages
    one.free_pages[FAST] -= 100
    one.pass_by(30)
    assert 100 <= one.moved_pages - moved_pages < 200
    assert one.to_oracle > 0.93


@pytest.mark.parametrize("is_regular", [False, True])
def test_where_every_page_is_as_good_as_another_nothing_moves(is_regular: bool) -> None:
    one = Program(np.full(PAGES, 60.0))
    if is_regular:  # in turn, as a sweep does
        one._random = type("Turn", (), {"exponential": lambda self, mean: mean * np.random.rand(mean.size)})()
    one.node[:FIT], one.free_pages[FAST] = FAST, 0
    one.pass_by(60)
    assert one.moved_pages < 0.01 * PAGES
