# SPDX-License-Identifier: Apache-2.0
"""From accesses and silence to a rate: the formulas of heat, without any storage.

A page is armed at a and faults at f. For Poisson accesses of rate λ the latency f - a is exponential, and a
page armed and still silent is a censored observation. Over many armings (docs/design.md, "From a fault to a
rate")

    rate = (ALPHA + n) / (BETA_S + E)        n = accesses seen, E = seconds watched until each of them

is a Gamma posterior mean; its relative standard error is 1/√(n + ALPHA). Three points go beyond that line.

*Forgetting.* n and E halve every half-life τ. E decays *while* it accrues: an exposure of x seconds that
ends now counts ∫₀ˣ 2^(-s/τ) ds = (τ/ln 2)·(1 - 2^(-x/τ)) seconds. Hence E never exceeds τ/ln 2, and a page
silent for an hour that wakes up shows it within a few τ; with x itself it would stay "cold" until an hour
had decayed away.

*No news is no change.* Decayed alone, n and E both vanish and the rate drifts to the prior's ALPHA/BETA_S: an
unwatched page would turn hot. So what time takes from a page between observations is certainty only. With d =
2^(-age/τ) the page is left with the shape s = ALPHA + n·d at its last mean m = (ALPHA + n)/(BETA_S + E), and

    rate = s / (s/m + r)                      r = seconds armed and silent since the last access

With r = 0 that is m; with long silence it falls to ALPHA/r, the rate of a page never seen at all. r does
not decay: a page silent for an hour is colder than one silent for a minute.

*The prior.* ALPHA = 1/2 (Jeffreys' choice for a Poisson rate). BETA_S = 10 µs: arming, TLB shoot-down and
the fault itself take 1-10 µs, so that shorter latencies all say "at once". A lone latency can then claim at
most 1.5/10 µs = 150 kHz, while 10 µs of latency and 10 s of silence remain six decades apart.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Bools, Float32s, Float64s
from hotpage.heat.histogram import BINS_PER_OCTAVE, RateHistogram

ALPHA = 0.5
"""Prior accesses of a page, in accesses."""
BETA_S = 10e-6
"""Prior watched time of a page, in seconds."""
OBSERVED_SAMPLES = 0.5
"""A lone sample keeps its page observed for one half-life."""
EXPOSURE_FLOOR_S = 1e-6
"""Exposures at or below zero (arm times are interpolated, clocks differ) count as this many seconds."""

CONTRADICTION = 2.25
"""Standard errors between the rates of two horizons from which on the page has changed its rate."""

NATURAL_SEPARATION = 0.5
"""Depth of the valley from which two classes are worth naming: half as dense as the smaller heap's peak."""
_SMALLEST_CLASS = 0.005
"""Share of the whole: a smaller class is the tail of another."""

HEADROOM_SHARE = 0.02
HEADROOM_MIN_BYTES = 50 << 20
HEADROOM_MAX_BYTES = 1 << 30


def accrued_exposure(exposure_s: Float32s, half_life_s: float) -> Float32s:
    """Watched seconds that an exposure ending now is worth, decayed while it accrued; same shape, seconds.

    Exposures below EXPOSURE_FLOOR_S count as the floor.
    """
    mean_life_s = half_life_s / np.log(2.0)
    floored = np.maximum(exposure_s, np.float32(EXPOSURE_FLOOR_S))
    return np.expm1(floored * np.float32(-1.0 / mean_life_s)) * np.float32(-mean_life_s)


def posterior_rate(
    accesses: Float32s, exposure_s: Float32s, decay: Float32s | float = 1.0, silent_s: Float32s | None = None
) -> Float32s:
    """Accesses per second of pages with these decayed sums at their last access (module docstring); float32.

    ``decay`` is 2^(-age/τ) for the time since then, ``silent_s`` the seconds armed and silent since then.
    """
    alpha, beta = np.float32(ALPHA), np.float32(BETA_S)
    shape: Float32s = accesses + alpha
    watched: Float32s = exposure_s + beta
    if silent_s is None:
        shape /= watched
        return shape
    shape_now = accesses * decay
    shape_now += alpha
    watched *= shape_now
    watched += shape * silent_s
    shape *= shape_now
    shape /= watched
    return shape


def silent_rate(silent_s: Float64s) -> Float32s:
    """Accesses per second of pages armed ``silent_s`` seconds ago and never seen accessed; float32."""
    return (ALPHA / (BETA_S + silent_s)).astype(np.float32)


def effective_samples(weight: Float32s, squares: Float32s) -> Float32s:
    """How many equal samples are worth as much as these: (Σ w)² / Σ w², from the two sums; float32."""
    effective: Float32s = weight / squares * weight
    return effective


def mixed_rate(rate_hz: Float32s, accesses: Float32s, samples: Float32s, exposure_s: Float32s) -> Float32s:
    """Rates of pages that samples observe: mixed with ``rate_hz``, what hint faults say (NaN: nothing).

    ``accesses`` are the decayed hint faults behind it. Samples alone, where too few are left for a horizon,
    give the rate that their silence allows, as an armed page's silence does.
    """
    shape = accesses + np.float32(ALPHA)
    with np.errstate(invalid="ignore"):
        mixed = (shape + samples) / (shape / rate_hz + exposure_s)
    alone = np.maximum(samples, np.float32(ALPHA)) / exposure_s
    rate: Float32s = np.where(np.isnan(rate_hz), alone, mixed)
    return rate


def relative_error(accesses: Float32s) -> Float32s:
    """Relative standard error of a rate that rests on so many (decayed) accesses: 1/√(n + ALPHA)."""
    error: Float32s = np.float32(1.0) / np.sqrt(accesses + np.float32(ALPHA))
    return error


def contradicts(rate_hz: Float32s, accesses: Float32s, other_hz: Float32s, others: Float32s) -> Bools:
    """Whether two rates that rest on so many ``accesses`` and ``others`` are hardly of one unchanged page.

    By the likelihood ratio of one rate against two, for accesses a and b in the time that the rates say: with
    the pooled rate r, 2 (a ln(rate/r) + b ln(other/r)) is the square of so many standard errors. False where
    one of them is NaN.
    """
    a, b = accesses + np.float32(ALPHA), others + np.float32(ALPHA)
    pooled_hz = (a + b) / (a / rate_hz + b / other_hz)
    squared = 2 * (a * np.log(rate_hz / pooled_hz) + b * np.log(other_hz / pooled_hz))
    different: Bools = squared > np.float32(CONTRADICTION**2)
    return different


def working_set_bytes(rate_hz: npt.ArrayLike, window_s: float, page_bytes: npt.ArrayLike = 4096) -> float:
    """Expected bytes touched in a window of ``window_s`` seconds: Σ bytes·(1 - exp(-λT)), Poisson accesses.

    ``rate_hz`` and ``page_bytes`` broadcast; pages of unknown rate (NaN) do not count.
    """
    rate = np.asarray(rate_hz, dtype=np.float64)
    touched = -np.expm1(-rate * window_s) * np.asarray(page_bytes, dtype=np.float64)
    return float(np.nansum(touched))


@dataclass(frozen=True)
class NaturalSplit:
    """Where a set of rates falls apart into a cold and a hot class.

    ``threshold_hz`` is NaN when there are fewer than two different rates. ``separation`` in 0..1 is the depth
    of the valley between the classes: by what share the density there lies below the lower one of the two
    peaks.
    """

    threshold_hz: float
    separation: float

    @property
    def is_natural(self) -> bool:
        """Whether the two classes stand apart, rather than being a cut through one heap."""
        return self.separation >= NATURAL_SEPARATION


def natural_threshold(rate_hz: npt.ArrayLike, weights: npt.ArrayLike = 1.0) -> NaturalSplit:
    """Two-class split of rates: the bottom of the valley between the heaps on both sides of the best cut.

    Of two cuts through log rate, the one with the deeper valley: Otsu's (1979), and that of minimum error
    (Kittler and Illingworth, 1986), which also finds a hot class that is a tenth of the whole or less.
    ``weights`` (bytes, say) broadcasts with ``rate_hz``; rates that are NaN or not positive are left out.
    Resolution: a quarter octave.
    """
    rate, weight = np.broadcast_arrays(
        np.asarray(rate_hz, dtype=np.float64).ravel(), np.asarray(weights, dtype=np.float64)
    )
    usable = (rate > 0) & np.isfinite(rate) & (weight > 0)
    place = np.floor(np.log2(rate[usable]) * BINS_PER_OCTAVE).astype(np.int64)
    if place.size == 0 or place.min() == place.max():
        return NaturalSplit(float("nan"), 0.0)
    lowest = int(place.min())
    mass: Float64s = np.bincount(place - lowest, weights=weight[usable]).astype(np.float64)
    density = np.convolve(mass, (0.25, 0.5, 0.25), mode="same")
    depth, bottom = max(_valley(density, cut) for cut in _best_cuts(mass / mass.sum()))
    return NaturalSplit(float(np.exp2((lowest + bottom) / BINS_PER_OCTAVE)), depth)


def _best_cuts(mass: Float64s) -> tuple[int, int]:
    """Last bin of the lower class by Otsu's criterion and by that of minimum error; ``mass`` sums to 1."""
    position = np.arange(mass.size, dtype=np.float64)
    below = np.cumsum(mass)[:-1]
    first = np.cumsum(mass * position)[:-1]
    second = np.cumsum(mass * position**2)[:-1]
    share = np.stack((below, 1 - below))
    mean = np.stack((first, mass @ position - first)) / share
    variance = np.stack((second, mass @ position**2 - second)) / share - mean**2
    between = share[0] * share[1] * (mean[1] - mean[0]) ** 2
    spread = np.log(np.maximum(variance, 0) + 1 / 12)  # 1/12: the variance within a bin
    error = (share * (spread / 2 - np.log(share))).sum(axis=0)
    error[share.min(axis=0) < _SMALLEST_CLASS] = np.inf
    return _middle_of_least(-between), _middle_of_least(error)


def _middle_of_least(criterion: Float64s) -> int:
    """Where it is least; across empty bins it is level, and the middle is farthest from both heaps."""
    least = float(criterion.min())
    level = np.flatnonzero(criterion <= least + 1e-9 * abs(least))
    return int(level[len(level) // 2])


def _valley(density: Float64s, cut: int) -> tuple[float, float]:
    """Depth (0..1) and position of the valley between the peaks of the bins up to ``cut`` and of those after
    it.
    """
    left = int(np.argmax(density[: cut + 1]))
    right = cut + 1 + int(np.argmax(density[cut + 1 :]))
    between = density[left : right + 1]
    lowest = float(between.min())
    bottom = left + np.flatnonzero(between <= lowest)
    return 1 - lowest / float(min(density[left], density[right])), float(bottom[0] + bottom[-1] + 1) / 2


def capacity_threshold(histogram: RateHistogram, tier_bytes: float) -> float:
    """Rate in Hz above which pages fit a tier of ``tier_bytes``, its headroom kept free.

    Headroom: 2 % of the tier, at least 50 MiB and at most 1 GiB.
    """
    headroom_bytes = min(max(HEADROOM_SHARE * tier_bytes, HEADROOM_MIN_BYTES), HEADROOM_MAX_BYTES)
    return histogram.threshold_for(tier_bytes - headroom_bytes)
