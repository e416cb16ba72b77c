# SPDX-License-Identifier: Apache-2.0
"""Silent pages: armed, never accessed, and so known to be cold although no table has a row for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Bools, Columns, Float32s, Float64s, Int32s, Int64s
from hotpage.heat.estimator import silent_rate
from hotpage.heat.results import ArmedRanges
from hotpage.placement.ranking import SMALL_CHUNK
from hotpage.profile.coverage import Coverage

SILENT_ERROR = 2**0.5
"""Relative error of the rate of a page that was armed and never accessed: 1/sqrt(1/2) (heat.estimator)."""


@dataclass(frozen=True)
class Pages(Columns):
    """Some pages of one process."""

    vpn: Int64s
    rate_hz: Float32s
    rate_short_hz: Float32s
    relative_error: Float32s


_NONE = np.empty(0, np.float32)
NO_PAGES = Pages(np.empty(0, np.int64), _NONE, _NONE, _NONE)


def silent_pages(
    armed: ArmedRanges,
    spans: Iterable[tuple[int, int]],
    tracked_vpn: Int64s,
    tracked_pages: Int32s,
    time_s: float,
    *,
    most_pages: int | None = None,
    rate_hz: Callable[[Float64s], Float32s] = silent_rate,
) -> Pages:
    """The pages of armed ranges within ``spans`` (of pages, ascending) that are part of no tracked folio.

    Resident or not; ascending. They have the highest rate that their silence until ``time_s`` allows.
    ``most_pages`` are looked at, from the lowest address on.
    """
    vpn = np.concatenate(
        [
            some[~_is_covered(some, tracked_vpn, tracked_pages)]
            for some in _armed_pages(armed, spans, most_pages)
        ]
    )
    rate = np.empty(vpn.size, np.float32)
    if vpn.size:
        rate = rate_hz(np.maximum(time_s - Coverage(armed).mean_first_s(vpn, vpn + 1), 0.0))
    return Pages(vpn, rate, rate, np.full(vpn.size, SILENT_ERROR, np.float32))


def _armed_pages(
    armed: ArmedRanges, spans: Iterable[tuple[int, int]], most_pages: int | None
) -> Iterator[Int64s]:
    """Ascending, some ``SMALL_CHUNK`` at a time: most of them are tracked."""
    parts: list[Int64s] = []
    size, room = 0, most_pages
    for start, end in spans:
        low = int(np.searchsorted(armed.end_vpn, start, side="right"))
        high = int(np.searchsorted(armed.start_vpn, end, side="left"))
        for place in range(low, high):
            first, last = max(start, int(armed.start_vpn[place])), min(end, int(armed.end_vpn[place]))
            if room is not None:
                last = min(last, first + room)
                room -= last - first
            for low in range(first, last, SMALL_CHUNK):
                parts.append(np.arange(low, min(low + SMALL_CHUNK, last)))
                size += parts[-1].size
                if size >= SMALL_CHUNK:
                    yield np.concatenate(parts)
                    parts, size = [], 0
    yield np.concatenate([np.empty(0, np.int64), *parts])


def _is_covered(vpn: Int64s, first: Int64s, pages: Int32s) -> Bools:
    """Whether each page is part of one of the folios."""
    if not first.size:
        return np.zeros(vpn.size, np.bool_)
    place = np.searchsorted(first, vpn, side="right") - 1
    covered: Bools = (place >= 0) & (vpn < first[place] + pages[place])
    return covered
