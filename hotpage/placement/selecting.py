# SPDX-License-Identifier: Apache-2.0
"""Steps that policies are made of, on top of ``Choice``."""

from __future__ import annotations

import numpy as np

from hotpage.arrays import Int64s
from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.choosing import Choice
from hotpage.placement.gate import Gate
from hotpage.placement.plan import Fate
from hotpage.placement.ranking import OCTAVE, UNKNOWN_KEY


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


def heed_ceilings(choice: Choice) -> None:
    """Demote the coldest pages of each cgroup that has more in fast memory than its ceiling allows."""
    for group in choice.allotment.groups():
        if group.share_pages < 0:
            coldest = choice.victims_of(group.processes, UNKNOWN_KEY - 1)
            demote_all(choice, coldest[: choice.until(-group.share_pages, coldest)])


def swap_in_groups(choice: Choice, rows: Int64s, victims: Int64s, gate: Gate) -> tuple[Int64s, Int64s]:
    """What a cgroup's limits leave no other way may change places with colder pages of it; what is left.

    That is, what its ceiling leaves no room for; and what finds no room that is free, if by its floor the
    cgroup may lose nothing. Without that the first pages that it has in fast memory would be its last ones.
    """
    process = choice.situation.candidates.process
    free_pages = sum(max(choice.allotment.room[node], 0) for node in choice.promotion_order())
    is_late = np.cumsum(choice.allotment.sizes(rows), dtype=np.int64) > free_pages
    for group in choice.allotment.groups() if choice.aim.promote else ():
        is_mine = np.isin(process.take(rows), group.processes)
        mine = rows[is_mine]
        is_over = np.cumsum(choice.allotment.sizes(mine), dtype=np.int64) > group.share_pages
        if group.spare_pages < 1:
            is_over |= is_late[is_mine]
        over = mine[is_over]
        if not over.size:
            continue
        colder = choice.victims_of(group.processes, int(choice.key[over[0]]) - OCTAVE)
        over, colder = (_first_pages(choice, some, group.swap_pages) for some in (over, colder))
        on = choice.situation.candidates.node.take(colder)
        for node in choice.promotion_order():
            over = choice.swap(node, over, colder[on == node], gate)
    return choice.unmoved(rows), choice.unmoved(victims)


def _first_pages(choice: Choice, rows: Int64s, most_pages: float) -> Int64s:
    return rows[np.cumsum(choice.allotment.sizes(rows), dtype=np.int64) <= most_pages]


def demote_all(choice: Choice, rows: Int64s) -> None:
    """Demote all ``rows`` that ``most_bytes`` of the aim allow, in order, from each node to the nearest that
    has room.
    """
    rows = within(choice, rows)
    on = choice.situation.candidates.node.take(rows)
    for node in sorted(choice.places.fast):
        mine = rows[on == node]
        if mine.size:
            choice.demote(mine, choice.nearest(node, choice.places.demote_to))


def lower_neighbours(choice: Choice, node: int, short: frozenset[int]) -> list[int]:
    """The nodes of the same tier or below by distance, devices and those that are ``short`` left out."""
    tier = {node: room.tier for node, room in choice.situation.room_of.items()}
    ordinary = [room.node for room in choice.situation.nodes if not room.is_device]
    named = choice.aim.demote_to or frozenset(
        other for other in ordinary if tier[other] >= tier.get(node, 0) and other not in short
    )
    return choice.nearest(node, named)
