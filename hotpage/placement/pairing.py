# SPDX-License-Identifier: Apache-2.0
"""Which pages change places: what comes is paired with what goes for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Int64s
from hotpage.placement.allotment import Allotment, accepted
from hotpage.placement.gate import Gate
from hotpage.placement.plan import Fate


@dataclass(frozen=True)
class Swaps:
    """The first ``count`` of ``rows`` need the first ``used`` victims of ``order``; why the rest does not."""

    rows: Int64s
    order: Int64s
    count: int
    used: int
    why_not: Fate


def paired(
    allotment: Allotment,
    rows: Int64s,
    victims: Int64s,
    spare: int,
    node: int,
    gate: Gate | None,
    besides: Int64s,
    most_lost_pages: float = float("inf"),
) -> Swaps:
    """Pair rows with victims: what is surely hot with what is surely cold first, as far as a gate lets.

    ``spare`` pages of the node need no victim. ``besides``: what else comes, and counts for the rates of
    cgroups. ``most_lost_pages``: so many more may go than come, for a victim may be the larger one.
    """
    order = np.arange(victims.size)
    if gate is not None:
        rows, order = gate.surest_first(rows, victims)
    need = np.cumsum(allotment.sizes(rows), dtype=np.int64) - spare
    made = np.cumsum(allotment.sizes(victims[order]), dtype=np.int64)
    partner = np.searchsorted(made, need, side="left")
    count, why_not = int(np.searchsorted(partner, victims.size, side="left")), Fate.ROOM
    if gate is not None and count:
        fates = gate.judge(rows[:count], victims[order[partner[:count]]], node)
        if not accepted(fates).all():
            count = int(np.argmin(accepted(fates)))
            why_not = Fate(int(fates[count]))
    could = allotment.affordable_swaps(besides, rows[:count], victims[order], partner[:count])
    if could < count:
        count, why_not = could, Fate.RATE
    if np.isfinite(most_lost_pages):
        even = np.flatnonzero(made.take(partner[:count]) - need[:count] <= most_lost_pages)
        count = int(even[-1]) + 1 if even.size else 0
    return Swaps(rows, order, count, int(partner[count - 1]) + 1 if count else 0, why_not)
