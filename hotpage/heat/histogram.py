# SPDX-License-Identifier: Apache-2.0
"""Bytes over log-spaced rates: quarter-octave bins, and the threshold that fits a capacity."""

from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Float32s, Float64s, Uint8s

BINS_PER_OCTAVE = 4
BIN_COUNT = 255
LOWEST_EDGE_OCTAVE = -24
"""log2 of the lowest edge in Hz: 2^-24 Hz is one access in half a year; the highest edge is 2^39.75 Hz."""


def rate_bins(rate_hz: Float32s) -> Uint8s:
    """Quarter-octave bin 1..255 of each rate, the outermost bins open-ended; 0 where the rate is NaN."""
    with np.errstate(divide="ignore"):
        place = np.log2(rate_hz)
    place *= np.float32(BINS_PER_OCTAVE)
    place += np.float32(1 - LOWEST_EDGE_OCTAVE * BINS_PER_OCTAVE)
    # fmax, unlike maximum, prefers the number to a NaN.
    np.fmax(place, np.float32(1), out=place)
    np.minimum(place, np.float32(BIN_COUNT), out=place)
    bins = place.astype(np.uint8)
    is_unknown = np.isnan(rate_hz)
    if is_unknown.any():
        bins[is_unknown] = 0
    return bins


def bin_edges_hz() -> Float64s:
    """The BIN_COUNT + 1 edges: bin b of ``rate_bins`` lies between edges b - 1 and b."""
    steps = np.arange(BIN_COUNT + 1, dtype=np.float64)
    return np.exp2(steps / BINS_PER_OCTAVE + LOWEST_EDGE_OCTAVE)


@dataclass(frozen=True)
class RateHistogram:
    """Tracked bytes per quarter octave of the long-horizon rate.

    ``edges_hz`` float64[k + 1] ascending; ``bytes`` float64[k], of pages with edges[i] <= rate < edges[i +
    1]; ``unknown_bytes`` belong to pages whose rate nobody knows.
    """

    edges_hz: Float64s
    bytes: Float64s
    unknown_bytes: float

    def threshold_for(self, capacity_bytes: float) -> float:
        """Rate in Hz above which the hottest pages fill ``capacity_bytes`` (docs/placement.md, "fit").

        The boundary bin is filled fractionally, evenly in log rate. 0 when everything known fits, inf when
        nothing may.
        """
        if capacity_bytes <= 0:
            return float("inf")
        from_top = np.cumsum(self.bytes[::-1])
        full = int(np.searchsorted(from_top, capacity_bytes, side="right"))
        if full == from_top.size:
            return 0.0
        boundary = self.bytes.size - 1 - full
        above = float(from_top[full - 1]) if full else 0.0
        share = (capacity_bytes - above) / float(self.bytes[boundary])
        low, high = float(self.edges_hz[boundary]), float(self.edges_hz[boundary + 1])
        return float(high * (low / high) ** share)
