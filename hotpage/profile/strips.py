# SPDX-License-Identifier: Apache-2.0
"""The heat along one mapping, in as many cells as a view has room for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hotpage.arrays import Bools, Float32s, Float64s, Int64s
from hotpage.heat.results import ArmedRanges
from hotpage.machine.folios import PAGE_BYTES
from hotpage.profile.coverage import Coverage
from hotpage.profile.snapshot import Snapshot, VmaRecord
from hotpage.profile.summary import MappingHeat


@dataclass(frozen=True)
class HeatStrip:
    """Cells of equal length from the mapping's start to its end; the arrays have one entry per cell."""

    rate_hz: (
        Float64s  # mean accesses/s of the pages of known rate and the silent ones; NaN without the former
    )
    silent: Bools  # no known rate, but armed, so that what is resident there was not accessed


def heat_strip(snapshot: Snapshot, mapping: MappingHeat, cells: int) -> HeatStrip:
    """At most ``cells`` cells (never more than pages); none for pages outside every mapping."""
    if mapping.record is None:
        return HeatStrip(np.empty(0), np.empty(0, np.bool_))
    start = mapping.record.vma.start // PAGE_BYTES
    end = mapping.record.vma.end // PAGE_BYTES
    pages = snapshot.pages.of(mapping.process).between(start, end)
    return strip_of(mapping.record, pages.vpn, pages.rate_hz, snapshot.armed.get(mapping.process), cells)


def strip_of(
    record: VmaRecord,
    vpn: Int64s,
    rate_hz: Float32s,
    armed: ArmedRanges | None,
    cells: int,
    stand_for: float = 1.0,
) -> HeatStrip:
    """The strip of a mapping from its pages, by address, each of which stands for so many."""
    start = record.vma.start // PAGE_BYTES
    end = record.vma.end // PAGE_BYTES
    cells = max(1, min(cells, end - start))
    edges = start + np.arange(cells + 1, dtype=np.int64) * (end - start) // cells
    known = np.isfinite(rate_hz)
    cell = np.searchsorted(edges, vpn[known], side="right") - 1
    counts = np.bincount(cell, minlength=cells) * stand_for
    sums = np.bincount(cell, weights=rate_hz[known], minlength=cells) * stand_for
    armed_pages = np.zeros(cells)
    if armed is not None:
        armed_pages += Coverage(armed).armed_pages(edges[:-1], edges[1:])
    # How many of them are resident is known of the mapping as a whole only; those were not accessed.
    resident_share = (record.resident_bytes or 0) / record.vma.size_bytes
    silent_pages = np.maximum(armed_pages * resident_share - counts, 0)
    mean_hz = np.divide(sums, counts + silent_pages, out=np.full(cells, np.nan), where=counts > 0)
    silent = (armed_pages > 0) & (counts == 0)
    return HeatStrip(mean_hz, silent)
