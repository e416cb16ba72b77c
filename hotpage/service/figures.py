# SPDX-License-Identifier: Apache-2.0
"""What a round comes to in a few numbers: heat by tier, the share of accesses that fast memory serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hotpage.placement.plan import ABSENT, Situation
from hotpage.profile.snapshot import PAGE_BYTES

DECADES = tuple(range(-2, 7))
"""Upper edges of the histogram's buckets are 10^d accesses/s, of one base page."""


@dataclass(frozen=True)
class TierHeat:
    """Bytes of one tier by rate: up to each decade and above the last; of unknown rate; and accesses/s."""

    bytes_by_decade: tuple[int, ...]
    unknown_bytes: int
    accesses_hz: float


def heat_by_tier(situation: Situation) -> dict[int, TierHeat]:
    """By tier, of what is looked after and in memory."""
    rows = situation.candidates
    edges = np.array([10.0**decade for decade in DECADES], np.float32)
    decade = np.searchsorted(edges, np.nan_to_num(rows.rate_hz), side="left")
    known = ~np.isnan(rows.rate_hz)
    found = {}
    for tier in sorted({room.tier for room in situation.nodes}):
        nodes = [room.node for room in situation.nodes if room.tier == tier]
        there = np.isin(rows.node, nodes) & (rows.node != ABSENT)
        pages = np.bincount(decade[there & known], rows.pages[there & known], minlength=len(DECADES) + 1)
        rate = rows.rate_hz[there & known].astype(np.float64)
        found[tier] = TierHeat(
            tuple((pages * PAGE_BYTES).astype(np.int64).tolist()),
            int(rows.pages[there & ~known].sum(dtype=np.int64)) * PAGE_BYTES,
            float(rate @ rows.pages[there & known]),
        )
    return found


def fast_share(heat: Mapping[int, TierHeat]) -> float:
    """Share of the accesses, by the estimated rates, that tier 0 serves; NaN without any."""
    every = sum(tier.accesses_hz for tier in heat.values())
    return heat[min(heat)].accesses_hz / every if every else float("nan")
