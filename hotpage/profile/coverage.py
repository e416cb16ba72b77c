# SPDX-License-Identifier: Apache-2.0
"""Silence: resident memory that was armed and never accessed is cold; what was never armed is unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Bools, Float64s, Int64s
from hotpage.heat.results import ArmedRanges


@dataclass(frozen=True)
class Coverage:
    """One process's armed ranges, ready for questions about many address ranges at once."""

    armed: ArmedRanges

    def armed_pages(self, start_vpn: Int64s, end_vpn: Int64s) -> Float64s:
        """Armed pages within each range, resident or not."""
        return self.armed_and_first(start_vpn, end_vpn)[0]

    def mean_first_s(self, start_vpn: Int64s, end_vpn: Int64s) -> Float64s:
        """When the armed pages of each range were first armed, on average; NaN where none is."""
        return self.armed_and_first(start_vpn, end_vpn)[1]

    def armed_and_first(self, start_vpn: Int64s, end_vpn: Int64s) -> tuple[Float64s, Float64s]:
        """``armed_pages`` and ``mean_first_s`` at once."""
        count = len(start_vpn)
        pages = self.armed.end_vpn - self.armed.start_vpn
        edges = np.concatenate([start_vpn, end_vpn])
        armed, sums = (
            below[count:] - below[:count] for below in self._up_to(edges, pages, pages * self.armed.first_s)
        )
        mean: Float64s = np.divide(sums, armed, out=np.full(count, np.nan), where=armed > 0)
        return armed, mean

    def contains(self, vpn: Int64s) -> Bools:
        """Whether each page is armed."""
        if not len(self.armed):
            return np.zeros(len(vpn), np.bool_)
        place = np.searchsorted(self.armed.start_vpn, vpn, side="right") - 1
        inside: Bools = (place >= 0) & (vpn < self.armed.end_vpn[place])
        return inside

    def _up_to(self, vpn: Int64s, *weights: Int64s | Float64s) -> Iterator[Float64s]:
        """Weight of the ranges below each page; a range that the page lies in counts by its share below."""
        if not len(self.armed):
            yield from (np.zeros(len(vpn)) for _ in weights)
            return
        place = np.searchsorted(self.armed.start_vpn, vpn, side="right")
        current = np.maximum(place - 1, 0)
        start, end = self.armed.start_vpn[current], self.armed.end_vpn[current]
        share = np.clip((vpn - start) / (end - start), 0.0, 1.0)
        for weight in weights:
            sums = np.concatenate(([0.0], np.cumsum(weight, dtype=np.float64)))
            yield sums[current] + share * weight[current]


def silent_counts(
    resident: Int64s, rows: Int64s, size: Int64s, armed: Float64s, armed_rows: Int64s
) -> Float64s:
    """Resident pages without a row that were armed, of each mapping.

    ``resident`` pages, of which ``rows`` have a row; ``armed`` of the mapping's ``size`` pages,
    ``armed_rows`` of them with a row. Which pages without a row are resident is not known: exact where all or
    none of them is armed, else they are taken as spread evenly.
    """
    without = np.maximum(resident - rows, 0)
    room = np.maximum(size - rows, 1)
    silent: Float64s = without * np.clip((armed - armed_rows) / room, 0.0, 1.0)
    return silent
