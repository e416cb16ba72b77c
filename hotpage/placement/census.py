# SPDX-License-Identifier: Apache-2.0
"""How hot how many pages are, and where: the rank key and the place of each candidate, and pages by both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Float32s, Float64s, Int64s, Uint8s, Uint16s, find
from hotpage.placement.allotment import Allotment
from hotpage.placement.history import pages_of
from hotpage.placement.plan import ABSENT, Aim, NodeRoom, Situation
from hotpage.placement.ranking import CHUNK, KEY_COUNT, OCTAVE, UNKNOWN_KEY, UPPER_HALF, chunks, rank_keys

ELSEWHERE, GONE, FAST, SLOW = range(4)
"""Places of a row: on a node that is left alone, not in memory, on a fast node, on a slow one."""


@dataclass(frozen=True)
class Places:
    """The nodes' parts: targets and sources of promotion and demotion."""

    fast: frozenset[int]
    slow: frozenset[int]
    demote_to: frozenset[int]


def places(nodes: Iterable[NodeRoom], aim: Aim) -> Places:
    """Fast is the first tier, slow the rest, devices left out, unless the aim names targets."""
    ordinary = [room for room in nodes if not room.is_device]
    everywhere = frozenset(room.node for room in ordinary)
    first = min((room.tier for room in ordinary), default=0)
    fast = frozenset(room.node for room in ordinary if room.tier == first)
    if aim.promote_to is not None:
        fast = aim.promote_to
    elif aim.demote_to is not None:
        fast = everywhere - aim.demote_to
    return Places(fast, everywhere - fast, (everywhere if aim.demote_to is None else aim.demote_to) - fast)


class Census:
    """Of all candidates.

    ``key``: each row's rank key, where a cgroup of weight w ranks as if its pages were accessed w times as
    often; ``weight``, float32, by process. ``place``: each row's. ``pages``: base pages by place and key,
    float64[4, KEY_COUNT]. ``fast_by_key`` and ``slow_by_key``: those of known rate.
    """

    def __init__(self, situation: Situation, nodes: Places, allotment: Allotment) -> None:
        self._candidates, self._allotment = situation.candidates, allotment
        self.weight = _weights(situation)
        self.key = _weighted_keys(situation, self.weight)
        self.place: Uint8s = np.full(len(situation.candidates), ELSEWHERE, np.uint8)
        self.pages = np.zeros((4, KEY_COUNT))
        self._count(nodes)
        self.fast_by_key, self.slow_by_key = self.pages[FAST].copy(), self.pages[SLOW].copy()
        self.fast_by_key[UNKNOWN_KEY:] = self.slow_by_key[UNKNOWN_KEY:] = 0

    def _count(self, nodes: Places) -> None:
        code = np.empty(CHUNK, np.uint32)
        halves = code.view(np.uint16)
        places_of = {ABSENT: GONE} | dict.fromkeys(nodes.slow, SLOW) | dict.fromkeys(nodes.fast, FAST)
        for part in chunks(self.place.size):
            node, place = self._candidates.node[part], self.place[part]
            for number, what in places_of.items():  # a comparison takes a fraction of a look-up
                place += (node == number) * np.uint8(what)
            halves[UPPER_HALF : 2 * node.size : 2] = place
            halves[1 - UPPER_HALF : 2 * node.size : 2] = self.key[part]
            weights = None if self._allotment.all_single else self._candidates.pages[part]
            counts = np.bincount(code[: node.size], weights, self.pages.size)
            self.pages += counts.reshape(self.pages.shape)

    def by_key(self, rows: Int64s) -> Float64s:
        """Pages of some rows, by key; 0 for keys of no rate."""
        by_key = np.bincount(self.key.take(rows), self._allotment.sizes(rows), KEY_COUNT).astype(np.float64)
        by_key[UNKNOWN_KEY:] = 0
        return by_key

    def rows_of(self, processes: Iterable[int], *places: int) -> Int64s:
        """The rows of some processes in some places."""
        found = [np.empty(0, np.int64)]
        for process in processes:
            mine = self._slice(process)
            found.append(np.flatnonzero(np.isin(self.place[mine], places)) + mine.start)
        return np.concatenate(found)

    def rows_at(self, keys: Int64s, *places: int) -> Int64s:
        """The rows of pages (history.page_keys) that begin in some places."""
        found = [np.empty(0, np.int64)]
        process, vpn = pages_of(keys)
        for one in np.unique(process).tolist():
            mine = self._slice(one)
            row, is_there = find(self._candidates.vpn[mine], vpn[process == one])
            found.append(row[is_there] + mine.start)
        rows = np.concatenate(found)
        return rows[np.isin(self.place.take(rows), places)]

    def _slice(self, process: int) -> slice:
        return slice(*np.searchsorted(self._candidates.process, (process, process + 1)).tolist())


def _weights(situation: Situation) -> Float32s:
    weight = np.ones(situation.process_count, np.float32)
    for index, process in situation.processes.items():
        if process.cgroup in situation.limits:
            weight[index] = situation.limits[process.cgroup].weight
    return weight


def _weighted_keys(situation: Situation, weight: Float32s) -> Uint16s:
    candidates = situation.candidates
    key = rank_keys(candidates.rate_hz)
    if (weight == 1).all():
        return key
    shift = np.round(OCTAVE * np.log2(weight)).astype(np.int32)
    known = key < UNKNOWN_KEY
    moved = np.clip(key + shift.take(candidates.process), 0, UNKNOWN_KEY - 1)
    return np.where(known, moved, key).astype(np.uint16)
