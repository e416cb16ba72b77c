# SPDX-License-Identifier: Apache-2.0
"""A batch of events to one entry per page: sort by page, then decayed sums.

The sort is a least-significant-digit radix sort over 16-bit digits, each an argsort(kind="stable") of
uint16, which numpy does by counting. It yields the order (which a sort of values would not) at 12-27 ns per
event; numpy's argsort of int64 took 68-120 ns on the same machine, and its vectorised sort is fast or slow
by CPU model (10 or 50 ns).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hotpage.arrays import Bools, Float32s, Int64s, Ticks, first_of_runs
from hotpage.heat.estimator import accrued_exposure

TICKS_PER_S = 1024
_DIGIT_BITS = 16


def to_ticks(time_s: float) -> int:
    """Session seconds as a tick; times before the session's start count as its start."""
    return int(max(time_s, 0.0) * TICKS_PER_S) + 1


@dataclass(frozen=True)
class Horizon:
    """One half-life, and the scale that makes its exposures fit a float16; ``name`` as in columns.py.

    A page's decayed exposure is below half_life_s/ln 2 (estimator), 2885 units of half_life_s/2000. float16
    ends at 65504, so that even twenty overlapping exposures of one page fit, and has full precision from 3e-8
    half-lives on: below EXPOSURE_FLOOR_S for half-lives up to 30 s.
    """

    name: Literal["long", "short"]
    half_life_s: float

    @property
    def unit_s(self) -> float:
        """Seconds per stored unit of exposure."""
        return self.half_life_s / 2000

    def window_s(self, watched_s: float) -> float:
        """What ``watched_s`` seconds up to now are worth, decayed: at most half-life/ln 2; seconds."""
        mean_life_s = self.half_life_s / math.log(2)
        return -mean_life_s * math.expm1(-watched_s / mean_life_s)

    def decay(self, ticks: Ticks) -> Float32s:
        """2^(-age/half-life) for ages in ticks; float32."""
        age = ticks.astype(np.float32)  # uint32 times float32 would be float64
        age *= np.float32(-1.0 / (self.half_life_s * TICKS_PER_S))
        return np.exp2(age, out=age)


@dataclass(frozen=True, slots=True)
class PageSums:
    """What a batch says about each page, ascending by unique key; sums decayed to ``tick``, the last access.

    ``accesses`` and ``exposure`` (in the horizon's units) hold one float32 array per horizon.
    """

    key: Int64s
    tick: Ticks
    accesses: tuple[Float32s, Float32s]
    exposure: tuple[Float32s, Float32s]

    def select(self, keep: Bools) -> "PageSums":
        """The entries where ``keep``."""
        return PageSums(
            self.key[keep],
            self.tick[keep],
            (self.accesses[0][keep], self.accesses[1][keep]),
            (self.exposure[0][keep], self.exposure[1][keep]),
        )


def sort_order(key: Int64s) -> Int64s:
    """Stable ascending order of non-negative keys."""
    offset = key - key.min()
    span = int(offset.max())
    digits = offset.astype("<i8", copy=False).view("<u2").reshape(-1, 64 // _DIGIT_BITS)
    order = np.argsort(digits[:, 0], kind="stable")
    digit = 1
    while span >> (digit * _DIGIT_BITS):
        order = order.take(np.argsort(digits[:, digit].take(order), kind="stable"))
        digit += 1
    return order


def sum_by_page(
    key: Int64s,
    tick: Ticks,
    exposure_s: Float32s,
    horizons: tuple[Horizon, Horizon],
) -> PageSums:
    """Sums of a batch of events (equal lengths, any order) per page."""
    order = sort_order(key)
    key, tick, exposure_s = key.take(order), tick.take(order), exposure_s.take(order)
    first = first_of_runs(key)
    last_tick = np.maximum.reduceat(tick, first)
    count = np.diff(first, append=key.size)
    age = np.repeat(last_tick, count) - tick
    accesses, exposure = [], []
    for horizon in horizons:
        decay = horizon.decay(age)
        accrued = accrued_exposure(exposure_s, horizon.half_life_s)
        accrued *= decay
        accrued *= np.float32(1 / horizon.unit_s)
        exposure.append(np.add.reduceat(accrued, first))
        accesses.append(np.add.reduceat(decay, first))
    return PageSums(key.take(first), last_tick, (accesses[0], accesses[1]), (exposure[0], exposure[1]))
