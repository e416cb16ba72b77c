# SPDX-License-Identifier: Apache-2.0
"""Steps that policies are made of, on top of ``Choice``."""

from __future__ import annotations

import numpy as np

from hotpage.arrays import Int64s
from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.choosing import Choice
from hotpage.placement.gate import Gate
from hotpage.placement.plan import Fate


def within(choice: Choice, rows: Int64s) -> Int64s:
    """The first of ``rows`` that ``most_bytes`` of the aim allow."""
    sums = np.cumsum(choice.allotment.sizes(rows), dtype=np.int64)
    return choice.drop(rows, sums * PAGE_BYTES > choice.aim.most_bytes, Fate.NOT_CHOSEN)


def fill_all(choice: Choice, rows: Int64s, victims: Int64s, gate: Gate | None) -> Int64s:
    """Promote ``rows``, in order, to the fast nodes; what had no room."""
    if not choice.aim.promote:
        rows = choice.drop(rows, np.ones(rows.size, np.bool_), Fate.NOT_CHOSEN)
    on = choice.situation.candidates.node.take(victims)
    for node in choice.promotion_order():
        rows = choice.fill(node, rows, victims[on == node], gate)
    return rows


def swap_at_ceilings(choice: Choice, rows: Int64s, victims: Int64s, gate: Gate) -> tuple[Int64s, Int64s]:
    """What a ceiling leaves no room for may change places with colder pages of the same cgroup; what is left.

    Without that the first pages that a cgroup has in fast memory would be its last ones.
    """
    process = choice.situation.candidates.process
    for ceiling in choice.allotment.ceilings() if choice.aim.promote else ():
        mine = rows[np.isin(process.take(rows), ceiling.processes)]
        sums = np.cumsum(choice.allotment.sizes(mine), dtype=np.int64)
        over = mine[sums > ceiling.share_pages]
        if not over.size:
            continue
        half_pages = ceiling.rate_pages / 2  # of what may move, for as much goes as comes
        colder = choice.victims_of(ceiling.processes, int(choice.key[over[0]]))
        over, colder = (_first_pages(choice, some, half_pages) for some in (over, colder))
        on = choice.situation.candidates.node.take(colder)
        for node in choice.promotion_order():
            over = choice.swap(node, over, colder[on == node], gate)
    return choice.unmoved(rows), choice.unmoved(victims)


def _first_pages(choice: Choice, rows: Int64s, most_pages: float) -> Int64s:
    return rows[np.cumsum(choice.allotment.sizes(rows), dtype=np.int64) <= most_pages]


def demote_all(choice: Choice, rows: Int64s) -> None:
    """Demote all ``rows``, in order, from each node to the nearest that has room."""
    on = choice.situation.candidates.node.take(rows)
    for node in sorted(choice.places.fast):
        mine = rows[on == node]
        if mine.size:
            choice.demote(mine, choice.nearest(node, choice.places.demote_to))


def lower_neighbours(choice: Choice, node: int, short: frozenset[int]) -> list[int]:
    """The nodes of the same tier or below by distance, devices and those that are ``short`` left out."""
    tier = {room.node: room.tier for room in choice.situation.nodes}
    ordinary = [room.node for room in choice.situation.nodes if not room.is_device]
    named = choice.aim.demote_to or frozenset(
        other for other in ordinary if tier[other] >= tier.get(node, 0) and other not in short
    )
    return choice.nearest(node, named)
