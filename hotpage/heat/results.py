# SPDX-License-Identifier: Apache-2.0
"""What a heat table answers: immutable sets of parallel arrays, one entry per page or range."""

from dataclasses import dataclass, replace

import numpy as np

from hotpage.arrays import Columns, Float32s, Float64s, Int32s, Int64s


@dataclass(frozen=True)
class Rates(Columns):
    """Every tracked page of one process, ascending by ``vpn``.

    Rates are accesses per second over the long and the short horizon, NaN where neither accesses nor exposure
    are known. ``relative_error`` belongs to ``rate_hz``.
    """

    vpn: Int64s
    rate_hz: Float32s
    rate_short_hz: Float32s
    relative_error: Float32s


@dataclass(frozen=True)
class Folios(Columns):
    """What is tracked of one process as the kernel maps it, ascending by ``vpn``, the first page of each.

    ``pages``: base pages that move as one. Rates are of one base page: a huge page's accesses are shared out
    evenly.
    """

    vpn: Int64s
    pages: Int32s
    rate_hz: Float32s
    rate_short_hz: Float32s
    relative_error: Float32s


@dataclass(frozen=True)
class Changes(Columns):
    """Pages whose rate moved by half an octave or more since they were last taken, or that began or ceased to
    warm up, by (process, vpn).
    """

    process: Int32s
    vpn: Int64s
    rate_hz: Float32s
    rate_short_hz: Float32s
    relative_error: Float32s

    @staticmethod
    def none() -> "Changes":
        """No pages."""
        nothing = np.empty(0, np.float32)
        return Changes(np.empty(0, np.int32), np.empty(0, np.int64), nothing, nothing, nothing)


@dataclass(frozen=True)
class Latencies(Columns):
    """Accesses in order of time, and how long after arming they came."""

    process: Int32s
    vpn: Int64s
    latency_s: Float32s


@dataclass(frozen=True)
class ArmedRanges(Columns):
    """Disjoint page ranges [start_vpn, end_vpn) that were armed, ascending.

    ``first_s`` and ``last_s`` are the first and the latest arm time in session seconds, ``passes`` counts
    armings.
    """

    start_vpn: Int64s
    end_vpn: Int64s
    first_s: Float64s
    last_s: Float64s
    passes: Int32s

    def within(self, start_vpn: int, end_vpn: int) -> "ArmedRanges":
        """What of them lies in [start_vpn, end_vpn)."""
        some = self.take((self.start_vpn < end_vpn) & (self.end_vpn > start_vpn))
        return replace(
            some,
            start_vpn=np.maximum(some.start_vpn, start_vpn),
            end_vpn=np.minimum(some.end_vpn, end_vpn),
        )
