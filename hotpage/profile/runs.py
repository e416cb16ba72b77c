# SPDX-License-Identifier: Apache-2.0
"""Joining neighbours of similar rate into runs: what a profile stores and what a report lists as a range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Bools, Columns, Float32s, Float64s, Int32s, Int64s
from hotpage.heat.results import Changes
from hotpage.profile.snapshot import PageTable

SIMILAR_OCTAVES = 0.5


@dataclass(frozen=True)
class PageRuns(Columns):
    """Consecutive pages of one process whose rates lie within half an octave of each other.

    Rates are arithmetic means, so that accesses/s x pages stays what it was.
    """

    process: Int32s
    start_vpn: Int64s
    pages: Int32s
    rate_hz: Float32s
    rate_short_hz: Float32s
    relative_error: Float32s


def join_neighbours(
    changes: Changes | PageTable, similar_octaves: float = SIMILAR_OCTAVES, compare_short: bool = True
) -> PageRuns:
    """Join the rows of ``changes`` (sorted by process, vpn).

    Neighbours whose whole stretch spans at most ``similar_octaves`` become one run. A longer stretch is cut
    where the rate enters another bin of that width: a drift over many pages is then never hidden in one mean.
    """
    count = len(changes.vpn)
    if not count:
        nothing = np.empty(0, np.float32)
        return PageRuns(
            np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32), nothing, nothing, nothing
        )
    first = np.empty(count, np.bool_)
    first[0] = True
    first[1:] = (np.diff(changes.vpn) != 1) | (changes.process[1:] != changes.process[:-1])
    compared = (changes.rate_hz, changes.rate_short_hz) if compare_short else (changes.rate_hz,)
    octaves = [_octaves(rate) for rate in compared]
    for level in octaves:
        known = np.isfinite(level)
        first[1:] |= known[1:] != known[:-1]
    for level in octaves:
        first |= _cuts(level, first, similar_octaves)
    starts = np.flatnonzero(first)
    pages = np.diff(starts, append=count)
    return PageRuns(
        changes.process[starts],
        changes.vpn[starts],
        pages.astype(np.int32),
        _means(changes.rate_hz, starts, pages),
        _means(changes.rate_short_hz, starts, pages),
        _means(changes.relative_error, starts, pages),
    )


def _octaves(rate_hz: Float32s) -> Float32s:
    """log2 of the rate, NaN where it is unknown or zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log2(rate_hz)
    level[~np.isfinite(level)] = np.nan
    return level


def _cuts(level: Float32s, first: Bools, similar_octaves: float) -> Bools:
    """Where stretches (starting at ``first``) that span too many octaves are to be cut further."""
    starts = np.flatnonzero(first)
    lengths = np.diff(starts, append=len(level))
    spread = np.maximum.reduceat(level, starts) - np.minimum.reduceat(level, starts)
    wide = np.repeat(spread > similar_octaves, lengths)
    bins = np.floor(level / np.float32(similar_octaves))
    cuts = np.zeros(len(level), np.bool_)
    cuts[1:] = wide[1:] & (bins[1:] != bins[:-1])
    return cuts


def _means(values: Float32s, starts: Int64s, pages: Int64s) -> Float32s:
    sums: Float64s = np.add.reduceat(values, starts, dtype=np.float64)
    means: Float32s = (sums / pages).astype(np.float32)
    return means
