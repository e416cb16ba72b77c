# SPDX-License-Identifier: Apache-2.0
"""The heat along one mapping, in as many cells as a view has room for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hotpage.profile.coverage import Coverage
from hotpage.profile.snapshot import PAGE_BYTES, Bools, Float64s, Snapshot
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
    cells = max(1, min(cells, end - start))
    edges = start + np.arange(cells + 1, dtype=np.int64) * (end - start) // cells
    pages = snapshot.pages.of(mapping.process).between(start, end)
    known = np.isfinite(pages.rate_hz)
    cell = np.searchsorted(edges, pages.vpn[known], side="right") - 1
    counts = np.bincount(cell, minlength=cells)
    sums = np.bincount(cell, weights=pages.rate_hz[known], minlength=cells)
    armed_pages = np.zeros(cells)
    if (armed := snapshot.armed.get(mapping.process)) is not None:
        armed_pages += Coverage(armed).armed_pages(edges[:-1], edges[1:])
    # How many of them are resident is known of the mapping as a whole only; those were not accessed.
    resident_share = (mapping.record.resident_bytes or 0) / mapping.record.vma.size_bytes
    silent_pages = np.maximum(armed_pages * resident_share - counts, 0)
    rate_hz = np.divide(sums, counts + silent_pages, out=np.full(cells, np.nan), where=counts > 0)
    silent = (armed_pages > 0) & (counts == 0)
    return HeatStrip(rate_hz, silent)
