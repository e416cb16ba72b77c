# SPDX-License-Identifier: Apache-2.0
"""Memory samples of one process: what each page's samples stand for, apart from what hint faults tell.

24 bytes a sampled page, in a session that samples; nothing in one that does not.

    vpn         int64     ascending
    weight      float32   sum of w at the last sample, long horizon
    squares     float32   sum of w squared, the same
    short       float32   sum of w, short horizon
    last        uint32    tick of the last sample

As in columns.py sums stay as they were at the last sample, and are decayed when they are used.
"""

from dataclasses import dataclass, replace

import numpy as np

from hotpage.arrays import Bools, Columns, Float32s, Int64s, Ticks, find, first_of_runs
from hotpage.heat.columns import interleave
from hotpage.heat.estimator import OBSERVED_SAMPLES, effective_samples
from hotpage.heat.grouping import TICKS_PER_S, Horizon, sort_order, to_ticks

_FRESH_MIN = 4096
_FRESH_SHARE = 8


@dataclass(slots=True)
class _Samples(Columns):
    """Parallel arrays, ascending by page; sums as of ``last``."""

    vpn: Int64s
    weight: Float32s
    squares: Float32s
    short: Float32s
    last: Ticks

    @classmethod
    def none(cls) -> "_Samples":
        f32 = np.empty(0, dtype=np.float32)
        return cls(np.empty(0, dtype=np.int64), f32, f32, f32, np.empty(0, dtype=np.uint32))

    def locate(self, vpn: Int64s) -> tuple[Int64s, Bools]:
        """(position, found) of pages; a position not found is undefined."""
        return find(self.vpn, vpn)

    def fold(self, place: Int64s, new: "_Samples", horizons: tuple[Horizon, Horizon]) -> None:
        """Add a batch's sums to the pages at ``place`` (unique)."""
        last = self.last.take(place)
        newest = np.maximum(last, new.last)
        long, short = horizons
        before, late = long.decay(newest - last), long.decay(newest - new.last)
        self.weight[place] = self.weight.take(place) * before + new.weight * late
        self.squares[place] = self.squares.take(place) * before + new.squares * late
        before, late = short.decay(newest - last), short.decay(newest - new.last)
        self.short[place] = self.short.take(place) * before + new.short * late
        self.last[place] = newest

    def merged(self, others: "_Samples") -> "_Samples":
        """With pages that are not among these."""
        place = np.searchsorted(self.vpn, others.vpn) + np.arange(others.vpn.size)
        is_old = np.ones(self.vpn.size + place.size, dtype=np.bool_)
        is_old[place] = False
        both = zip(self.columns(), others.columns(), strict=True)
        return self.with_columns(interleave(old, new, place, is_old) for old, new in both)


@dataclass(frozen=True, slots=True)
class Evidence(Columns):
    """What samples say now of some of the pages asked for, those that they still observe.

    ``place`` are their positions among those asked for; the rest is parallel to it: the samples left on each
    horizon, decayed, and the exposure that those are worth, in seconds: observed time over mean weight.
    """

    place: Int64s
    samples: Float32s
    samples_short: Float32s
    exposure_s: Float32s
    exposure_short_s: Float32s

    def among(self, place: Int64s) -> "Evidence | None":
        """That of the pages at ``place`` (ascending) of those asked for; None if there is none."""
        new, kept = find(place, self.place)
        return replace(self, place=new).take(kept) if kept.any() else None


def sum_by_page(vpn: Int64s, tick: Ticks, weight: Float32s, horizons: tuple[Horizon, Horizon]) -> _Samples:
    """One entry per page of a batch (equal lengths, at least one, any order), decayed to its last sample."""
    order = sort_order(vpn)
    vpn, tick, weight = vpn.take(order), tick.take(order), weight.take(order)
    first = first_of_runs(vpn)
    last = np.maximum.reduceat(tick, first)
    age = np.repeat(last, np.diff(first, append=vpn.size)) - tick
    long = horizons[0].decay(age) * weight
    return _Samples(
        vpn.take(first),
        np.add.reduceat(long, first),
        np.add.reduceat(long * weight, first),
        np.add.reduceat(horizons[1].decay(age) * weight, first),
        last,
    )


class SampledPages:
    """The sampled pages of one process, which has been sampled since ``since_s``."""

    def __init__(self, since_s: float) -> None:
        self._since_s = since_s
        self._settled = _Samples.none()
        self._fresh = _Samples.none()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._settled.nbytes + self._fresh.nbytes

    @property
    def is_empty(self) -> bool:
        """Whether no page is known."""
        return not (self._settled.vpn.size or self._fresh.vpn.size)

    def add(self, new: _Samples, horizons: tuple[Horizon, Horizon]) -> None:
        """Add a batch."""
        for part in (self._settled, self._fresh):
            place, found = part.locate(new.vpn)
            if found.any():
                part.fold(place[found], new.take(found), horizons)
                new = new.take(~found)
        if new.vpn.size:
            self._fresh = self._fresh.merged(new)
        if self._fresh.vpn.size > max(_FRESH_MIN, self._settled.vpn.size // _FRESH_SHARE):
            self._settled = self._settled.merged(self._fresh)
            self._fresh = _Samples.none()

    def forget(self, start_vpn: int, end_vpn: int) -> None:
        """Drop what is known of [start_vpn, end_vpn)."""
        self._settled = self._settled.take((self._settled.vpn < start_vpn) | (self._settled.vpn >= end_vpn))
        self._fresh = self._fresh.take((self._fresh.vpn < start_vpn) | (self._fresh.vpn >= end_vpn))

    def evidence(self, vpn: Int64s, now_s: float, horizons: tuple[Horizon, Horizon]) -> Evidence | None:
        """What is known of these pages; None if nothing, which is usual."""
        places, parts = [], []
        for part in (self._settled, self._fresh):
            place, found = part.locate(vpn)
            if found.any():
                places.append(np.flatnonzero(found))
                parts.append(part.take(place[found]))
        if not parts:
            return None
        place = np.concatenate(places)
        known = _Samples.joined(parts)
        age = np.maximum(np.uint32(to_ticks(now_s)), known.last) - known.last
        samples = effective_samples(known.weight, known.squares) * horizons[0].decay(age)
        mean_weight = known.squares / known.weight
        samples_short = known.short / mean_weight * horizons[1].decay(age)
        watched_s = max(now_s - self._since_s, 1 / TICKS_PER_S)
        seen = samples >= np.float32(OBSERVED_SAMPLES)
        if not seen.any():
            return None
        exposures_s = (np.float32(horizon.window_s(watched_s)) / mean_weight for horizon in horizons)
        return Evidence(place, samples, samples_short, *exposures_s).take(seen)
