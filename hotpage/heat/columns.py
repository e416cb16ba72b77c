# SPDX-License-Identifier: Apache-2.0
"""The state of many pages as parallel arrays, 15 bytes a page.

    accesses_long    float32   n at the last access, long horizon
    exposure_long    float16   E, in the horizon's units
    accesses_short   float16
    exposure_short   float16
    last             uint32    tick of the last access or first touch; 0 = no page here
    reported         uint8     what take_changes last sent of it, in codes of its own, 0 = not sent

Sums stay as they were at the last access and are decayed from the page's own ``last`` when they are next
used. The other way, counts scaled by 2^(t/τ) against a moving origin, saves that decay but needs four float32
for its range, 21 bytes a page, a rescaling pass, and still ``last`` for the exposure since.
"""

from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Bools, Columns, Float16s, Float32s, Int64s, Ticks, Uint8s
from hotpage.heat.estimator import ALPHA, BETA_S, EXPOSURE_FLOOR_S
from hotpage.heat.grouping import Horizon, PageSums
from hotpage.heat.halves import narrowed, widened

Index = Int64s | Bools | slice


@dataclass(slots=True)
class PageColumns(Columns):
    """State of pages by position; which page a position belongs to is the owner's knowledge."""

    accesses_long: Float32s
    exposure_long: Float16s
    accesses_short: Float16s
    exposure_short: Float16s
    last: Ticks
    reported: Uint8s

    @classmethod
    def empty(cls, count: int) -> "PageColumns":
        """``count`` positions without a page."""
        return cls(
            np.zeros(count, dtype=np.float32),
            np.zeros(count, dtype=np.float16),
            np.zeros(count, dtype=np.float16),
            np.zeros(count, dtype=np.float16),
            np.zeros(count, dtype=np.uint32),
            np.zeros(count, dtype=np.uint8),
        )

    @classmethod
    def of(cls, sums: PageSums) -> "PageColumns":
        """State of pages that nothing was known of before ``sums``."""
        return cls(
            sums.accesses[0],
            narrowed(sums.exposure[0]),
            narrowed(sums.accesses[1]),
            narrowed(sums.exposure[1]),
            sums.tick,
            np.zeros(sums.key.size, dtype=np.uint8),
        )

    def put(self, index: Index, state: "PageColumns") -> None:
        """Overwrite the state at ``index``."""
        for column, values in zip(self.columns(), state.columns(), strict=True):
            column[index] = values

    def clear(self, index: Index) -> None:
        """Make the positions at ``index`` pageless."""
        for column in self.columns():
            column[index] = 0

    def resized(self, count: int) -> None:
        """Grow or cut to ``count`` positions, one column after the other to keep the peak low."""
        for field in fields(self):
            old: npt.NDArray[Any] = getattr(self, field.name)
            # A new array, not ndarray.resize: numpy asks for huge pages only for fresh memory.
            new = np.zeros(count, dtype=old.dtype)
            new[: min(count, old.size)] = old[:count]
            setattr(self, field.name, new)

    def merged(self, place: Int64s, others: "PageColumns") -> None:
        """Insert ``others`` so that they end up at the ascending positions ``place``."""
        is_old = np.ones(len(self) + place.size, dtype=np.bool_)
        is_old[place] = False
        for field in fields(self):
            old: npt.NDArray[Any] = getattr(self, field.name)
            setattr(self, field.name, interleave(old, getattr(others, field.name), place, is_old))

    def keep(self, kept: Bools) -> None:
        """Drop the positions that are not ``kept``."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[kept])

    def fold(self, index: Int64s, sums: PageSums, horizons: tuple[Horizon, Horizon]) -> int:
        """Add a batch's sums to the pages at ``index`` (unique); the number of newcomers."""
        last = self.last.take(index)
        newest = np.maximum(last, sums.tick)
        age = newest - last
        # Rings are read CPU by CPU: a batch can hold accesses older than what is already known.
        late = newest - sums.tick
        lateness = late if late.any() else None

        def added(old: Float16s | Float32s, new: Float32s, horizon: Horizon, decay: Float32s) -> Float32s:
            total = float32s(old.take(index))
            total *= decay
            total += new if lateness is None else new * horizon.decay(lateness)
            return total

        long, short = horizons
        decay = long.decay(age)
        self.accesses_long[index] = added(self.accesses_long, sums.accesses[0], long, decay)
        self.exposure_long[index] = narrowed(added(self.exposure_long, sums.exposure[0], long, decay))
        decay = short.decay(age)
        self.accesses_short[index] = narrowed(added(self.accesses_short, sums.accesses[1], short, decay))
        self.exposure_short[index] = narrowed(added(self.exposure_short, sums.exposure[1], short, decay))
        self.last[index] = newest
        return int(last.size - np.count_nonzero(last))

    def touch(self, index: Int64s, tick: Ticks) -> int:
        """Move ``last`` of the pages at ``index`` up to ``tick``; the number of newcomers."""
        last = self.last.take(index)
        self.last[index] = np.maximum(last, tick)
        return int(last.size - np.count_nonzero(last))

    def renew(self, index: Int64s, tick: Ticks, horizons: tuple[Horizon, Horizon]) -> int:
        """Note that the pages at ``index`` were accessed, seen otherwise than by a hint fault; the number of
        newcomers.

        Their rates by hint faults stay as they were, with the certainty left by ``tick`` (estimator: no news
        is no change); what silence there was is over.
        """
        last = self.last.take(index)
        newest = np.maximum(last, tick)
        alpha, beta = np.float32(ALPHA), np.float32(BETA_S)
        long, short = horizons
        for horizon, accesses_column, exposure_column in (
            (long, self.accesses_long, self.exposure_long),
            (short, self.accesses_short, self.exposure_short),
        ):
            before = float32s(accesses_column.take(index))
            exposure_s = widened(exposure_column.take(index)) * np.float32(horizon.unit_s)
            accesses = before * horizon.decay(newest - last)
            left_s = (accesses + alpha) / (before + alpha) * (exposure_s + beta) - beta
            left_s = np.maximum(left_s, np.float32(EXPOSURE_FLOOR_S))
            left_s[exposure_s == 0] = 0
            accesses_column[index] = narrowed(accesses) if accesses_column.itemsize == 2 else accesses
            exposure_column[index] = narrowed(left_s / np.float32(horizon.unit_s))
        self.last[index] = newest
        return int(last.size - np.count_nonzero(last))


def float32s(values: Float16s | Float32s) -> Float32s:
    """A column's numbers as float32; the same array if they are."""
    return widened(cast(Float16s, values)) if values.itemsize == 2 else cast(Float32s, values)


def interleave(
    old: npt.NDArray[Any], new: npt.NDArray[Any], place: Int64s, is_old: Bools
) -> npt.NDArray[Any]:
    """``new`` at the positions ``place``, ``old`` at the positions where ``is_old``."""
    out = np.empty(is_old.size, dtype=old.dtype)
    out[place] = new
    out[is_old] = old
    return out
