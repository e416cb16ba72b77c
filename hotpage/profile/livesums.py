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

from hotpage.heat.histogram import (
    BIN_COUNT,
    BINS_PER_OCTAVE,
    LOWEST_EDGE_OCTAVE,
    RateHistogram,
    bin_edges_hz,
    rate_bins,
)
from hotpage.profile.livemappings import MappingTable, Silence
from hotpage.profile.livepages import LivePages, key_of
from hotpage.profile.liveview import LiveHeat, LiveTier
from hotpage.profile.snapshot import PAGE_BYTES, Float64s, Int64s, NodeRecord
from hotpage.profile.threshold import Threshold, choose_threshold


@dataclass(frozen=True)
class Settled:
    """Of each mapping (float64 arrays): its pages that have no row, now that what is hot has been decided."""

    rows: Float64s
    silent_pages: Float64s  # cold: armed for so long that a warm page would have been accessed
    unseen_pages: Float64s


def choose_hot_bin(pages: LivePages, found: Silence, nodes: Sequence[NodeRecord]) -> tuple[Threshold, int]:
    """What is hot (profile.threshold), moved to the nearest bin edge, and the first bin above that."""
    sizes = pages.histogram().astype(np.float64) * PAGE_BYTES
    is_silent = found.silent_pages > 0
    bins = rate_bins(found.silent_rate_hz[is_silent].astype(np.float32))
    silent_bytes = found.silent_pages[is_silent] * PAGE_BYTES
    sizes += np.bincount(bins, weights=silent_bytes, minlength=BIN_COUNT + 1)
    unknown_bytes = float(sizes[0] + found.unseen_pages.sum() * PAGE_BYTES)
    edges_hz = bin_edges_hz()
    chosen = choose_threshold(RateHistogram(edges_hz, sizes[1:], unknown_bytes), nodes)
    edge = round((math.log2(chosen.hot_hz) - LOWEST_EDGE_OCTAVE) * BINS_PER_OCTAVE)
    edge = min(max(edge, BINS_PER_OCTAVE), BIN_COUNT - 1)
    return Threshold(float(edges_hz[edge]), chosen.rule), edge + 1


def settle(found: Silence, threshold: Threshold) -> Settled:
    """Armed so shortly ago that even a warm page could have stayed silent: nothing is known yet."""
    is_known = found.silent_rate_hz < threshold.warm_hz
    silent = np.where(is_known, found.silent_pages, 0.0)
    return Settled(found.rows, silent, found.unseen_pages + found.silent_pages - silent)


@dataclass(frozen=True)
class Placement:
    """Where heat lies. That of a mapping is shared out over nodes as its bytes are, for nobody says which
    pages of it lie on which node.
    """

    misplaced_pages: Float64s
    """Of each mapping: hot ones on slower tiers."""
    hot_pages: Float64s
    """By node; where there is one tier, of all nodes together."""
    rate_hz: Float64s
    """The same: accesses/s."""


def place(pages: LivePages, mappings: MappingTable, found: Silence, nodes: Sequence[NodeRecord]) -> Placement:
    """Where heat lies. On a machine with one tier only the sums have a meaning, and cost nothing."""
    slow = _slow_places(nodes)
    if not slow:
        hot, _, _, _ = pages.by_class()
        nowhere = np.zeros(len(found.rows))
        return Placement(nowhere, np.array([hot.sum()], np.float64), np.array([pages.rate_hz.sum()]))
    table = mappings.table()
    used = np.flatnonzero(found.rows)  # in most mappings no page is tracked
    edges = pages.bounds(np.concatenate([table.start[used], table.end[used]]))
    shares = table.shares[:, used]
    hot_pages = _between(edges.hot()) * shares
    rate_hz = _between(edges.rate_hz()) * shares
    misplaced = np.zeros(len(found.rows))
    misplaced[used] = hot_pages[slow].sum(axis=0)
    return Placement(misplaced, hot_pages.sum(axis=1), rate_hz.sum(axis=1))


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


def tiers(mappings: MappingTable, placement: Placement, nodes: Sequence[NodeRecord]) -> list[LiveTier]:
    """The tiers, the fastest first, with what the targets have there."""
    resident = mappings.table().bytes_by_node.sum(axis=1)
    hot, rate_hz = placement.hot_pages, placement.rate_hz
    found = []
    for tier in sorted({node.tier for node in nodes}):
        places = [place for place, node in enumerate(nodes) if node.tier == tier]
        has_all = len(hot) == 1
        found.append(
            LiveTier(
                tier,
                [nodes[place] for place in places],
                float(resident[places].sum()),
                float(hot.sum() if has_all else hot[places].sum()) * PAGE_BYTES,
                max(float(rate_hz.sum() if has_all else rate_hz[places].sum()), 0.0),
            )
        )
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
    names = [node.node for node in nodes] or [0]
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


def _between(below: Float64s) -> Float64s:
    """Of ranges, from what lies below their starts and below their ends."""
    half = len(below) // 2
    difference: Float64s = below[half:] - below[:half]
    return difference


def _slow_places(nodes: Sequence[NodeRecord]) -> list[int]:
    return [place for place, node in enumerate(nodes) if node.tier > 0]
