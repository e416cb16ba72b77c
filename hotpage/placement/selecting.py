# SPDX-License-Identifier: Apache-2.0
"""Steps that policies are made of, on top of ``Choice``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hotpage.arrays import Int64s
from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.allotment import Limited
from hotpage.placement.choosing import Choice
from hotpage.placement.gate import Gate
from hotpage.placement.plan import Fate
from hotpage.placement.ranking import OCTAVE, UNKNOWN_KEY, hottest_first


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
    """Demote the coldest pages of each cgroup that has more in fast memory than its ceiling allows.

    Whatever the age of its processes: the ceiling says that they are to go, not that they are cold.
    """
    for group in choice.allotment.groups():
        coldest = choice.victims_of(group.processes, UNKNOWN_KEY - 1)
        excess = coldest[: choice.until(group.excess_pages, coldest)]
        on = choice.situation.candidates.node.take(excess)
        for node in sorted(choice.places.fast):
            targets = choice.nearest(node, choice.places.demote_to)
            rows, target, _ = choice.demotable(excess[on == node], targets)
            choice.commit(rows, target, is_promotion=False, is_eviction=True)


def swap_at_ceilings(choice: Choice, rows: Int64s, gate: Gate) -> Int64s:
    """What a ceiling leaves no room for may change places with colder pages of the same cgroup; what is left.

    Without that the first pages that a cgroup has in fast memory would be its last ones.
    """
    for group, mine in _by_group(choice, rows):
        sums = np.cumsum(choice.allotment.sizes(mine), dtype=np.int64)
        _swap(choice, group, mine[sums > group.share_pages], gate)
    return choice.unmoved(rows)


def swap_at_floors(choice: Choice, rows: Int64s, gate: Gate) -> None:
    """What found no room may change places with colder pages of the same cgroup that its floor has kept."""
    for group, mine in _by_group(choice, rows):
        if group.has_floor:
            _swap(choice, group, hottest_first(mine, choice.key), gate)


def _by_group(choice: Choice, rows: Int64s) -> Iterator[tuple[Limited, Int64s]]:
    process = choice.situation.candidates.process
    for group in choice.allotment.groups() if choice.aim.promote else ():
        mine = rows[np.isin(process.take(rows), group.processes)]
        if mine.size:
            yield group, mine


def _swap(choice: Choice, group: Limited, rows: Int64s, gate: Gate) -> None:
    """Within a cgroup, as far as it loses nothing that its floor keeps."""
    if not rows.size:
        return
    colder = choice.old_enough(choice.victims_of(group.processes, int(choice.key[rows[0]]) - OCTAVE))
    on = choice.situation.candidates.node.take(colder)
    spare_pages = max(group.spare_pages, 0.0)
    for node in choice.promotion_order():
        rows = choice.swap(node, rows, colder[on == node], gate, spare_pages)
        spare_pages = 0.0


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
