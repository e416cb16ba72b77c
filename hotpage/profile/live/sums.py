# SPDX-License-Identifier: Apache-2.0
"""Heat added up for a live view: by process, by mapping, by tier.

What is hot, silent and unseen is decided as for a report (profile.summary), with one difference: the
threshold is moved to the nearest edge of the quarter-octave bins by which pages are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Bools, Float64s, Int64s
from hotpage.heat.histogram import (
    BIN_COUNT,
    BINS_PER_OCTAVE,
    LOWEST_EDGE_OCTAVE,
    RateHistogram,
    bin_edges_hz,
    rate_bins,
)
from hotpage.machine.folios import PAGE_BYTES
from hotpage.profile.live.mappings import MappingTable, Silence, Table
from hotpage.profile.live.pages import Bounds, LivePages, key_of
from hotpage.profile.live.view import LiveHeat, LiveTier
from hotpage.profile.sharing import Repeated, repeated
from hotpage.profile.snapshot import NodeRecord
from hotpage.profile.threshold import Threshold, choose_threshold


@dataclass(frozen=True)
class Counted:
    """Which mappings count in sums of all processes, and which of these show the same memory as others."""

    is_counted: Bools
    again: Repeated
    tracked: Int64s
    """The mappings in ``again`` that have tracked pages; ``edges``: where they begin and end."""
    edges: Bounds
    known_pages: Float64s
    """Of the tracked ones, all others 0: pages of known rate."""

    @staticmethod
    def of(pages: LivePages, table: Table, found: Silence, slots: Sequence[int]) -> Counted:
        """Those of some processes."""
        is_one = np.zeros(max(int(table.slot.max(initial=-1)), *slots, -1) + 1, bool)
        is_one[slots] = True
        is_counted = is_one[table.slot]
        has_something = (table.resident_pages > 0) | (found.rows > 0)
        again = repeated(table.memory, is_counted & has_something)
        tracked = np.sort(again.rows[found.rows[again.rows] > 0])
        edges, known = _edges(pages, table, tracked), np.zeros(len(table.slot))
        known[tracked] = _between(edges.known())
        return Counted(is_counted, again, tracked, edges, known)


@dataclass(frozen=True)
class Settled:
    """Of each mapping (float64 arrays): its pages that have no row, now that what is hot has been decided."""

    rows: Float64s
    silent_pages: Float64s  # cold: armed for so long that a warm page would have been accessed
    unseen_pages: Float64s


def choose_hot_bin(
    pages: LivePages, table: Table, found: Silence, counted: Counted, nodes: Sequence[NodeRecord]
) -> tuple[Threshold, int]:
    """What is hot (profile.threshold), moved to the nearest bin edge, and the first bin above that."""
    sizes = pages.histogram().astype(np.float64) * PAGE_BYTES
    is_silent = found.silent_pages > 0
    bins = rate_bins(found.silent_rate_hz[is_silent].astype(np.float32))
    silent_bytes = found.silent_pages[is_silent] * PAGE_BYTES
    sizes += np.bincount(bins, weights=silent_bytes, minlength=BIN_COUNT + 1)
    sizes -= _surplus_by_bin(pages, table, found, counted) * PAGE_BYTES
    unknown_bytes = float(sizes[0] + found.unseen_pages.sum() * PAGE_BYTES)
    edges_hz = bin_edges_hz()
    chosen = choose_threshold(RateHistogram(edges_hz, sizes[1:], unknown_bytes), nodes)
    edge = round((math.log2(chosen.hot_hz) - LOWEST_EDGE_OCTAVE) * BINS_PER_OCTAVE)
    edge = min(max(edge, BINS_PER_OCTAVE), BIN_COUNT - 1)
    return Threshold(float(edges_hz[edge]), chosen.rule), edge + 1


def _surplus_by_bin(pages: LivePages, table: Table, found: Silence, counted: Counted) -> Float64s:
    """Pages of known rate and silent ones that are there more than once, by bin. Most kernels arm no shared
    memory, so that nothing is known of it and this costs nothing.
    """
    is_known = counted.known_pages > 0
    is_known[counted.again.rows] |= found.silent_pages[counted.again.rows] > 0
    known = repeated(table.memory, is_known)
    rows = known.rows
    if not len(rows):
        return np.zeros(BIN_COUNT + 1)
    sizes = pages.bins_between(table.start[rows], table.end[rows])
    silent_bins = rate_bins(found.silent_rate_hz[rows].astype(np.float32))
    sizes[np.arange(len(rows)), silent_bins] += found.silent_pages[rows]
    sizes[:, 0] = 0.0  # what is unknown has no say in what is hot
    return known.surplus_by_class(sizes)


def settle(found: Silence, threshold: Threshold) -> Settled:
    """Tell silent memory that is known to be cold from that armed too shortly ago to know."""
    silent = np.where(threshold.is_told_by(found.silent_rate_hz), found.silent_pages, 0.0)
    return Settled(found.rows, silent, found.unseen_pages + found.silent_pages - silent)


@dataclass(frozen=True)
class Placement:
    """Where heat lies. That of a mapping is shared out over nodes as its bytes are, for nobody says which
    pages of it lie on which node.
    """

    misplaced_pages: Float64s
    """Of each mapping: hot ones on slower tiers."""
    hot_pages: Float64s
    """By node, of the mappings that count, shared memory once; nothing where there is one tier."""
    rate_hz: Float64s
    """The same: accesses/s."""


def place(
    pages: LivePages, table: Table, found: Silence, counted: Counted, nodes: Sequence[NodeRecord]
) -> Placement:
    """Where heat lies. On a machine with one tier that is known, and costs nothing."""
    slow = _slow_places(nodes)
    if not slow:
        return Placement(np.zeros(len(found.rows)), np.zeros(len(nodes)), np.zeros(len(nodes)))
    used = np.flatnonzero(found.rows)  # in most mappings no page is tracked
    edges = _edges(pages, table, used)
    hot_pages, rate_hz = np.zeros((2, *table.shares.shape))
    hot_pages[:, used] = _between(edges.hot()) * table.shares[:, used]
    rate_hz[:, used] = _between(edges.rate_hz()) * table.shares[:, used]
    surplus = counted.again.surplus(hot_pages[:, counted.again.rows].T)
    return Placement(
        hot_pages[slow].sum(axis=0),
        hot_pages[:, counted.is_counted].sum(axis=1) - surplus,
        rate_hz[:, counted.is_counted].sum(axis=1),
    )


def heat_by_slot(
    pages: LivePages,
    mappings: MappingTable,
    settled: Settled,
    placement: Placement,
    nodes: Sequence[NodeRecord],
    slots: int,
) -> list[LiveHeat]:
    """The heat of every process, by slot."""
    table = mappings.table()

    def by_slot(values: Float64s) -> Float64s:
        return np.bincount(table.slot, weights=values, minlength=slots).astype(np.float64)

    def padded(values: Float64s | Int64s) -> Float64s:
        return np.pad(values[:slots].astype(np.float64), (0, max(slots - len(values), 0)))

    hot, warm, cold, unknown = map(padded, pages.by_class())
    return _heats(
        [hot, warm, cold + by_slot(settled.silent_pages), unknown + by_slot(settled.unseen_pages)],
        padded(pages.rate_hz),
        padded(pages.uncertain_hz),
        by_slot(placement.misplaced_pages),
        np.array([by_slot(on_node) for on_node in table.bytes_by_node]),
        nodes,
    )


def heat_of_mappings(
    pages: LivePages, mappings: MappingTable, settled: Settled, nodes: Sequence[NodeRecord], slot: int
) -> list[LiveHeat]:
    """The heat of one process's mappings by address, and last that of its pages outside all of them.

    Without an error: that is known of pages and of processes.
    """
    table = mappings.table()
    low, high = np.searchsorted(table.slot, [slot, slot + 1]).tolist()
    nothing, first = np.zeros(1), np.zeros(1, np.int64)
    starts = np.append(table.start[low:high], key_of(slot, first))
    bounds = pages.bounds(np.concatenate([starts, np.append(table.end[low:high], key_of(slot + 1, first))]))

    def inside(below: Float64s) -> Float64s:
        values = _between(below)
        values[-1] -= values[:-1].sum()
        return values

    rows, known, warm, hot = map(inside, (bounds.pages(), bounds.known(), bounds.warm(), bounds.hot()))
    on_node, shares = (
        np.pad(by_node[:, low:high], ((0, 0), (0, 1))) for by_node in (table.bytes_by_node, table.shares)
    )
    misplaced = hot * shares[_slow_places(nodes)].sum(axis=0)
    silent = np.append(settled.silent_pages[low:high], nothing)
    unseen = np.append(settled.unseen_pages[low:high], nothing)
    counts = [hot, warm - hot, known - warm + silent, rows - known + unseen]
    rate_hz = inside(bounds.rate_hz())
    return _heats(counts, rate_hz, np.full(len(rows), np.nan), misplaced, on_node, nodes)


def total(
    heats: Sequence[LiveHeat],
    table: Table,
    settled: Settled,
    counted: Counted,
    placement: Placement,
    nodes: Sequence[NodeRecord],
) -> LiveHeat:
    """The heat of the processes that count together: the sum of theirs, but shared memory once."""
    every, again = LiveHeat.sum(heats), counted.again
    rows, known = again.rows, counted.known_pages
    warm, hot = np.zeros((2, len(table.slot)))
    warm[counted.tracked] = _between(counted.edges.warm())
    hot[counted.tracked] = _between(counted.edges.hot())
    unknown = settled.rows - known + settled.unseen_pages
    sizes = np.array([unknown, known - warm + settled.silent_pages, warm - hot, hot])[:, rows].T
    more_bytes = (again.surplus_by_class(sizes) * PAGE_BYTES).round().astype(int).tolist()
    unknown_more, cold_more, warm_more, hot_more = more_bytes
    on_node_more = again.surplus(table.bytes_by_node[:, rows].T).astype(int).tolist()
    return every._replace(
        resident_bytes=every.resident_bytes - sum(on_node_more),
        hot_bytes=every.hot_bytes - hot_more,
        warm_bytes=every.warm_bytes - warm_more,
        cold_bytes=every.cold_bytes - cold_more,
        unknown_bytes=every.unknown_bytes - unknown_more,
        misplaced_bytes=float(placement.hot_pages[_slow_places(nodes)].sum()) * PAGE_BYTES,
        bytes_by_node={
            node: every.bytes_by_node.get(node, 0) - more
            for node, more in zip(_node_numbers(nodes), on_node_more, strict=True)
        },
    )


def tiers(every: LiveHeat, placement: Placement, nodes: Sequence[NodeRecord]) -> list[LiveTier]:
    """The tiers, the fastest first, with what the targets have there; ``every`` is their ``total``."""
    numbers = sorted({node.tier for node in nodes})
    found = []
    for tier in numbers:
        places = [place for place, node in enumerate(nodes) if node.tier == tier]
        hot_bytes, rate_hz = float(every.hot_bytes), every.accesses_per_s
        if len(numbers) > 1:
            hot_bytes = float(placement.hot_pages[places].sum()) * PAGE_BYTES
            rate_hz = max(float(placement.rate_hz[places].sum()), 0.0)
        resident_bytes = sum(every.bytes_by_node[nodes[place].node] for place in places)
        found.append(LiveTier(tier, [nodes[place] for place in places], resident_bytes, hot_bytes, rate_hz))
    return found


def _heats(
    counts: list[Float64s],
    rate_hz: Float64s,
    uncertain_hz: Float64s,
    misplaced: Float64s,
    on_node: Float64s,
    nodes: Sequence[NodeRecord],
) -> list[LiveHeat]:
    """Rows of columns; ``counts`` and ``misplaced`` in pages, ``on_node`` in bytes, nodes x rows."""
    names = _node_numbers(nodes)
    by_node = on_node.T.astype(np.int64).tolist()
    columns = (
        on_node.sum(axis=0).astype(np.int64).tolist(),
        *((np.maximum(count, 0.0) * PAGE_BYTES).round().astype(np.int64).tolist() for count in counts),
        np.maximum(rate_hz, 0.0).tolist(),
        np.maximum(uncertain_hz, 0.0).tolist(),
        (np.maximum(misplaced, 0.0) * PAGE_BYTES).tolist(),
    )
    return [
        LiveHeat._make([*values, dict(zip(names, row, strict=True))])
        for *values, row in zip(*columns, by_node, strict=True)
    ]


def _edges(pages: LivePages, table: Table, rows: Int64s) -> Bounds:
    """The starts and the ends of some mappings."""
    return pages.bounds(np.concatenate([table.start[rows], table.end[rows]]))


def _between(below: Float64s) -> Float64s:
    """Of ranges, from what lies below their starts and below their ends."""
    half = len(below) // 2
    difference: Float64s = below[half:] - below[:half]
    return difference


def _node_numbers(nodes: Sequence[NodeRecord]) -> list[int]:
    return [node.node for node in nodes] or [0]


def _slow_places(nodes: Sequence[NodeRecord]) -> list[int]:
    return [place for place, node in enumerate(nodes) if node.tier > 0]
