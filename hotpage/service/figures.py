# SPDX-License-Identifier: Apache-2.0
"""What a round comes to in a few numbers: heat by tier, the share of accesses that fast memory serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.plan import Situation
from hotpage.placement.ranking import SMALL_CHUNK, chunks

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
    tier_of = {room.node: room.tier for room in situation.nodes}
    tiers = sorted(set(tier_of.values()))
    pages = np.zeros((len(tiers), len(DECADES) + 1), np.int64)
    unknown, accesses_hz = [0] * len(tiers), [0.0] * len(tiers)
    for part in chunks(len(rows), SMALL_CHUNK):
        node, rate_hz, size = rows.node[part], rows.rate_hz[part], rows.pages[part]
        decade = np.searchsorted(edges, np.nan_to_num(rate_hz), side="left")
        is_known = ~np.isnan(rate_hz)
        for place, tier in enumerate(tiers):
            there = np.isin(node, [number for number, its in tier_of.items() if its == tier])
            known = there & is_known
            pages[place] += np.bincount(decade[known], size[known], len(DECADES) + 1).astype(np.int64)
            unknown[place] += int(size[there & ~is_known].sum(dtype=np.int64))
            accesses_hz[place] += float(rate_hz[known].astype(np.float64) @ size[known])
    return {
        tier: TierHeat(
            tuple((pages[place] * PAGE_BYTES).tolist()), unknown[place] * PAGE_BYTES, accesses_hz[place]
        )
        for place, tier in enumerate(tiers)
    }


def fast_share(heat: Mapping[int, TierHeat]) -> float:
    """Share of the accesses, by the estimated rates, that tier 0 serves; NaN without any."""
    every = sum(tier.accesses_hz for tier in heat.values())
    return heat[min(heat)].accesses_hz / every if every else float("nan")
