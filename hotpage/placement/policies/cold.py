# SPDX-License-Identifier: Apache-2.0
"""``cold``: demote only, to have room ahead of need."""

from __future__ import annotations

import numpy as np

from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.choosing import Choice
from hotpage.placement.plan import Aim, Fate, Plan, Situation
from hotpage.placement.ranking import coldest_first
from hotpage.placement.selecting import demote_all, lower_neighbours

REASONS = "the coldest there", ""


def plan(situation: Situation, aim: Aim) -> Plan:
    """Demote the coldest pages of known rate until each node of ``free_bytes`` has that much free, at most
    ``most_bytes`` of them.

    They go to the nearest node of the same tier or below that has room, and is not itself short of it.
    Without ``free_bytes``: all pages of fast memory that are colder than an octave under what fits, or under
    the aim's rate or size.
    """
    choice = Choice(situation, aim)
    if not aim.free_bytes:
        named = choice.key_of_aim()
        _, cold = choice.classify(choice.capacity_key() if named is None else named)
        demote_all(choice, coldest_first(cold, choice.key))
        return choice.plan("cold", REASONS)
    free = {node: room.free_bytes for node, room in situation.room_of.items()}
    rows = choice.known(aim.free_bytes)
    node = situation.candidates.node.take(rows)
    most_pages = aim.most_bytes / PAGE_BYTES
    for short, wanted_bytes in sorted(aim.free_bytes.items()):
        need_pages = int(np.ceil((wanted_bytes - free.get(short, 0)) / PAGE_BYTES))
        targets = lower_neighbours(choice, short, frozenset(aim.free_bytes))
        coldest = coldest_first(rows[node == short], choice.key)
        sums = np.cumsum(choice.allotment.sizes(coldest), dtype=np.int64)
        coldest = choice.drop(coldest, sums > most_pages, Fate.NOT_CHOSEN)
        choice.demote(coldest, targets, need_pages)
        going = np.setdiff1d(coldest, choice.unmoved(coldest), assume_unique=True)
        most_pages -= int(choice.allotment.sizes(going).sum(dtype=np.int64))
    return choice.plan("cold", REASONS, knows_hot=False)
