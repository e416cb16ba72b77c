# SPDX-License-Identifier: Apache-2.0
"""Silent pages: armed, never accessed, and so known to be cold although no table has a row for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Bools, Columns, Float32s, Float64s, Int32s, Int64s, aranges
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


_NO_LIMIT = 1 << 60
_NONE = np.empty(0, np.float32)
NO_PAGES = Pages(np.empty(0, np.int64), _NONE, _NONE, _NONE)


@dataclass(frozen=True)
class SilentMemory:
    """What was armed of one process within ``spans`` (of pages, ascending) and is part of no tracked folio,
    resident or not.
    """

    armed: ArmedRanges
    spans: Sequence[tuple[int, int]]
    tracked_vpn: Int64s
    tracked_pages: Int32s

    def vpn(self, first_vpn: int = 0, past_vpn: int = _NO_LIMIT, most_pages: int = _NO_LIMIT) -> Int64s:
        """Its pages in [first_vpn, past_vpn), ascending; the first ``most_pages`` of them."""
        parts: list[Int64s] = [np.empty(0, np.int64)]
        room = most_pages
        for start, count in self._gaps(first_vpn, past_vpn):
            if room <= 0:
                break
            past: Int64s = np.minimum(np.cumsum(count), room)
            taken: Int64s = np.diff(past, prepend=0)
            parts.append(aranges(start, taken))
            room -= int(past[-1])
        return np.concatenate(parts)

    def has(self, vpn: Int64s) -> Bools:
        """Whether each page is one of its pages."""
        start, end = np.array(self.spans, np.int64).reshape(-1, 2).T
        within = _is_within(vpn, start, end - start) & Coverage(self.armed).contains(vpn)
        return within & ~_is_within(vpn, self.tracked_vpn, self.tracked_pages)

    def pages(
        self, vpn: Int64s, time_s: float, rate_hz: Callable[[Float64s], Float32s] = silent_rate
    ) -> Pages:
        """Some of its pages with the highest rate that their silence until ``time_s`` allows."""
        rate = np.empty(vpn.size, np.float32)
        if vpn.size:
            rate = rate_hz(np.maximum(time_s - Coverage(self.armed).mean_first_s(vpn, vpn + 1), 0.0))
        return Pages(vpn, rate, rate, np.full(vpn.size, SILENT_ERROR, np.float32))

    def _gaps(self, first_vpn: int, past_vpn: int) -> Iterator[tuple[Int64s, Int64s]]:
        """First page and number of pages of what no folio covers; of ``SMALL_CHUNK`` folios at a time."""
        for start, end in self._ranges(first_vpn, past_vpn):
            low = max(int(np.searchsorted(self.tracked_vpn, start, side="right")) - 1, 0)
            high = int(np.searchsorted(self.tracked_vpn, end))
            for place in range(low, high, SMALL_CHUNK):
                some = slice(place, min(place + SMALL_CHUNK, high))
                past = self.tracked_vpn[some] + self.tracked_pages[some]
                begin = np.maximum(np.concatenate(([start], past[:-1])), start)
                yield begin, np.maximum(self.tracked_vpn[some] - begin, 0)
                start = max(start, int(past[-1]))
            yield np.array([start]), np.array([max(end - start, 0)])

    def _ranges(self, first_vpn: int, past_vpn: int) -> Iterator[tuple[int, int]]:
        armed = self.armed
        for start, end in self.spans:
            start, end = max(start, first_vpn), min(end, past_vpn)
            low = int(np.searchsorted(armed.end_vpn, start, side="right"))
            high = int(np.searchsorted(armed.start_vpn, end, side="left"))
            for place in range(low, high):
                yield max(start, int(armed.start_vpn[place])), min(end, int(armed.end_vpn[place]))


def silent_pages(
    armed: ArmedRanges,
    spans: Iterable[tuple[int, int]],
    tracked_vpn: Int64s,
    tracked_pages: Int32s,
    time_s: float,
    *,
    rate_hz: Callable[[Float64s], Float32s] = silent_rate,
) -> Pages:
    """All of them (``SilentMemory``), ascending."""
    memory = SilentMemory(armed, [*spans], tracked_vpn, tracked_pages)
    return memory.pages(memory.vpn(), time_s, rate_hz)


def _is_within(vpn: Int64s, first: Int64s, pages: Int32s | Int64s) -> Bools:
    """Whether each page is in one of the ranges."""
    if not first.size:
        return np.zeros(vpn.size, np.bool_)
    place = np.searchsorted(first, vpn, side="right") - 1
    within: Bools = (place >= 0) & (vpn < first[place] + pages[place])
    return within
