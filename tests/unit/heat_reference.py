# SPDX-License-Identifier: Apache-2.0
"""A heat table that is easy to believe: dictionaries, one event at a time, every arming kept, no rounding."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hotpage.heat.table import HeatTable

ALPHA, BETA_S, FLOOR_S = 0.5, 10e-6, 1e-6


@dataclass
class ReferencePage:
    """Sums per half-life, as of ``last_s``."""

    last_s: float
    accesses: dict[float, float] = field(default_factory=dict)
    exposure_s: dict[float, float] = field(default_factory=dict)


class ReferenceTable:
    """What HeatTable promises, written down a second time without looking at how it does it."""

    def __init__(self, horizons_s: tuple[float, float] = (2.0, 20.0)) -> None:
        self.half_lives_s = horizons_s
        self.pages: dict[tuple[int, int], ReferencePage] = {}
        self.armings: dict[tuple[int, int], list[float]] = {}

    def observe(self, process: int, vpn: int, time_s: float, exposure_s: float) -> None:
        page = self.pages.setdefault((process, vpn), ReferencePage(time_s))
        newest = max(page.last_s, time_s)
        for half_life in self.half_lives_s:
            mean_life = half_life / math.log(2)
            accrued = mean_life * -math.expm1(-max(exposure_s, FLOOR_S) / mean_life)
            old = 2 ** ((page.last_s - newest) / half_life)
            new = 2 ** ((time_s - newest) / half_life)
            page.accesses[half_life] = page.accesses.get(half_life, 0.0) * old + new
            page.exposure_s[half_life] = page.exposure_s.get(half_life, 0.0) * old + accrued * new
        page.last_s = newest

    def touch(self, process: int, vpn: int, time_s: float) -> None:
        page = self.pages.setdefault((process, vpn), ReferencePage(time_s))
        page.last_s = max(page.last_s, time_s)

    def arm(self, process: int, start_vpn: int, end_vpn: int, time_s: float) -> None:
        for vpn in range(start_vpn, end_vpn):
            self.armings.setdefault((process, vpn), []).append(time_s)

    def forget(self, process: int, start_vpn: int = 0, end_vpn: int = 1 << 52) -> None:
        for known in (self.pages, self.armings):
            for key in [key for key in known if key[0] == process and start_vpn <= key[1] < end_vpn]:
                del known[key]

    def tracked(self, process: int) -> list[int]:
        return sorted(vpn for owner, vpn in self.pages if owner == process)

    def silence_s(self, process: int, vpn: int, now_s: float) -> float:
        """Since the first arming after the last access; 0 when there was none."""
        page = self.pages.get((process, vpn))
        since = page.last_s if page else -math.inf
        later = [time_s for time_s in self.armings.get((process, vpn), []) if time_s > since]
        return now_s - min(later) if later else 0.0

    def accesses_now(self, process: int, vpn: int, now_s: float, half_life_s: float) -> float:
        page = self.pages[process, vpn]
        return page.accesses.get(half_life_s, 0.0) * 2 ** ((page.last_s - now_s) / half_life_s)

    def rate_hz(self, process: int, vpn: int, now_s: float, half_life_s: float) -> float:
        """The mean at the last access, its certainty decayed to now, then silence on top."""
        page = self.pages[process, vpn]
        silence = self.silence_s(process, vpn, now_s)
        if not page.exposure_s and not silence:
            return math.nan
        shape = page.accesses.get(half_life_s, 0.0) + ALPHA
        mean = shape / (page.exposure_s.get(half_life_s, 0.0) + BETA_S)
        shape_now = self.accesses_now(process, vpn, now_s, half_life_s) + ALPHA
        return shape_now / (shape_now / mean + silence)


def silent_rate_hz(
    table: HeatTable, process: int, vpn: npt.ArrayLike, now_s: float
) -> npt.NDArray[np.float64]:
    """Rates of pages that a table does not track, by its armed ranges alone; NaN where never armed."""
    pages, ranges = np.asarray(vpn), table.armed_ranges(process)
    rate_hz = np.full(pages.size, np.nan)
    for start, end, first_s in zip(ranges.start_vpn, ranges.end_vpn, ranges.first_s, strict=True):
        rate_hz[(start <= pages) & (pages < end)] = ALPHA / (BETA_S + now_s - first_s)
    return rate_hz
