# SPDX-License-Identifier: Apache-2.0
"""What counts as hot: what fits the fast tier where there are tiers, else where the rates fall apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Bools, Float32s, Float64s
from hotpage.heat.estimator import capacity_threshold, natural_threshold
from hotpage.heat.histogram import RateHistogram
from hotpage.profile.snapshot import NodeRecord

_WITHOUT_ANY_RATE_HZ = 1.0


class HeatClass(IntEnum):
    """Of a page; the order is that of heat."""

    UNKNOWN = 0
    COLD = 1
    WARM = 2
    HOT = 3


@dataclass(frozen=True)
class Threshold:
    """Hot is from ``hot_hz`` accesses/s per page, warm the octave below; ``rule`` says why, for people."""

    hot_hz: float
    rule: str

    @property
    def warm_hz(self) -> float:
        """One octave below hot (hysteresis: docs/placement.md, "fit")."""
        return self.hot_hz / 2

    def classes(self, rate_hz: Float32s) -> npt.NDArray[np.int8]:
        """HeatClass of each rate; UNKNOWN where it is NaN."""
        classes: npt.NDArray[np.int8] = (rate_hz >= 0).astype(np.int8)  # False for NaN
        classes += rate_hz >= self.warm_hz
        classes += rate_hz >= self.hot_hz
        return classes

    def is_told_by(self, silent_rate_hz: Float64s) -> Bools:
        """Whether memory that stayed silent, and has such a rate at most, is known to be cold.

        Not where it was armed so shortly ago that even a warm page could have stayed silent: nothing is known
        of it yet.
        """
        is_told: Bools = (silent_rate_hz < self.warm_hz) | (self.warm_hz <= 0)
        return is_told


def choose_threshold(
    histogram: RateHistogram,
    nodes: Sequence[NodeRecord],
    hot_rate_hz: float | None = None,
    hot_bytes: int | None = None,
) -> Threshold:
    """By what the user said; else by the fast tier's capacity; else by the natural split of the rates.

    A fast tier that holds everything measured, or nothing beside its headroom, says nothing about heat: then
    the natural split is used too.
    """
    if hot_rate_hz is not None:
        return Threshold(hot_rate_hz, "as given")
    if hot_bytes is not None:
        return Threshold(histogram.threshold_for(hot_bytes), "the hottest bytes, as many as given")
    fast_bytes = sum(node.total_bytes for node in nodes if node.tier == 0)
    why = ""
    if len({node.tier for node in nodes}) > 1:
        hot_hz = capacity_threshold(histogram, fast_bytes)
        if 0 < hot_hz < math.inf:
            return Threshold(hot_hz, "what fits the fast tier, headroom kept free")
        why = "; the fast tier would hold it all" if hot_hz == 0 else "; the fast tier is all headroom"
    return _natural(histogram, why)


def _natural(histogram: RateHistogram, why: str) -> Threshold:
    centres_hz = np.sqrt(histogram.edges_hz[:-1] * histogram.edges_hz[1:])
    split = natural_threshold(centres_hz, histogram.bytes)
    if math.isnan(split.threshold_hz):
        return Threshold(_WITHOUT_ANY_RATE_HZ, "one access/s, for the rates do not differ" + why)
    if split.is_natural:
        return Threshold(split.threshold_hz, "where the rates fall apart" + why)
    return Threshold(split.threshold_hz, "best cut through rates that do not fall apart" + why)
