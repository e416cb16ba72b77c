# SPDX-License-Identifier: Apache-2.0
"""Order pages by rate in time proportional to their number: 16-bit keys, and where to cut them.

The key of a rate is the upper half of its float32: exponent and 7 bits of mantissa, so two rates with one key
differ by less than 0.8 %, which is what a profile stores and far below any standard error. Keys ascend with
the rate, 128 of them to an octave, and are sorted by a radix sort.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from hotpage.arrays import Float32s, Float64s, Int64s, Uint16s

OCTAVE = 128
"""Keys per factor of two."""
KEY_COUNT = 1 << 16
UNKNOWN_KEY = 0x7F81
"""Keys from here on belong to no rate (NaN)."""
CHUNK = 1 << 18
"""Rows worked on at a time: few enough for the temporaries to stay in cache."""
SMALL_CHUNK = 1 << 15
"""The same where much is computed of each row, for little memory."""

UPPER_HALF = 1 if sys.byteorder == "little" else 0
"""Which of a 32-bit number's two 16-bit halves is the upper one."""


def rank_keys(rate_hz: Float32s) -> Uint16s:
    """The key of each rate, at least ``UNKNOWN_KEY`` where it is NaN; uint16, same length."""
    halves = np.ascontiguousarray(rate_hz, np.float32).view(np.uint16)
    return np.ascontiguousarray(halves[UPPER_HALF::2])


def key_rate_hz(key: int) -> float:
    """The lowest rate that has this key."""
    return float(np.array([key << 16], np.uint32).view(np.float32)[0])


def chunks(count: int, rows: int = CHUNK) -> Iterator[slice]:
    """Slices of at most so many rows that cover ``count`` rows."""
    for low in range(0, count, rows):
        yield slice(low, min(low + rows, count))


def hottest_that_fit(pages_by_key: Float64s, capacity_pages: float) -> int:
    """The lowest key that is hot when the hottest pages fill ``capacity_pages`` (docs/placement.md, "fit").

    ``pages_by_key`` float64[KEY_COUNT]. The key in which the capacity ends is hot: ties are settled by rank
    when pages are chosen. 0 when everything fits, ``UNKNOWN_KEY`` when nothing may.
    """
    if capacity_pages <= 0:
        return UNKNOWN_KEY
    from_top = np.cumsum(pages_by_key[:UNKNOWN_KEY][::-1])
    if from_top[-1] <= capacity_pages:
        return 0
    return UNKNOWN_KEY - 1 - int(np.searchsorted(from_top, capacity_pages, side="left"))


def coldest_first(rows: Int64s, key: Uint16s) -> Int64s:
    """``rows`` by ascending key, equal keys in the order given."""
    return rows.take(np.argsort(key.take(rows), kind="stable"))


def hottest_first(rows: Int64s, key: Uint16s) -> Int64s:
    """``rows`` by descending key, equal keys in the order given."""
    return rows.take(np.argsort(np.uint16(KEY_COUNT - 1) - key.take(rows), kind="stable"))
