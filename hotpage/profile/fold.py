# SPDX-License-Identifier: Apache-2.0
"""The newest row of every page, from any number of intervals in the memory that the pages themselves need."""

from __future__ import annotations

import numpy as np

from hotpage.arrays import Float64s, Int32s, Int64s, aranges
from hotpage.heat.results import Changes
from hotpage.profile.runs import PageRuns
from hotpage.profile.snapshot import ClearedRange, PageTable

# Rows waiting to be sorted into the state, 32 bytes each: many, for each sort passes over the state as well.
_BATCH_ROWS = 8_000_000


class PageFold:
    """Folds intervals, oldest first, into a ``PageTable``: the latest row of a (process, page) wins."""

    def __init__(self) -> None:
        self._state = PageTable.empty()
        self._waiting: list[PageTable] = []
        self._waiting_rows = 0
        self._cleared: list[tuple[ClearedRange, float]] = []

    def clear(self, cleared: ClearedRange, time_s: float) -> None:
        """Drop the range's rows older than ``time_s``, of which none may be added later."""
        self._cleared.append((cleared, time_s))

    def add_pages(self, changes: Changes, time_s: float) -> None:
        """Add one row per page."""
        times = np.full(len(changes.vpn), time_s)
        self._add(
            PageTable(
                changes.process,
                changes.vpn,
                changes.rate_hz,
                changes.rate_short_hz,
                changes.relative_error,
                times,
            )
        )

    def add_runs(self, runs: PageRuns, time_s: Float64s) -> None:
        """Add runs of pages, each with its own time."""
        pages = runs.pages
        if (pages == 1).all():
            vpn = runs.start_vpn
            row: slice | Int64s = slice(None)
        else:
            vpn = aranges(runs.start_vpn, pages)
            row = np.repeat(np.arange(len(pages)), pages)
        self._add(
            PageTable(
                runs.process[row],
                vpn,
                runs.rate_hz[row],
                runs.rate_short_hz[row],
                runs.relative_error[row],
                time_s[row],
            )
        )

    def table(self) -> PageTable:
        """The state so far."""
        self._settle()
        return self._state

    def _add(self, rows: PageTable) -> None:
        if len(rows):
            self._waiting.append(rows)
            self._waiting_rows += len(rows)
        if self._waiting_rows >= max(_BATCH_ROWS, len(self._state) // 2):
            self._settle()

    def _settle(self) -> None:
        if self._waiting:
            tables = [self._state, *self._waiting]
            self._waiting, self._waiting_rows = [], 0
            merged = PageTable.joined(tables)
            del tables
            keys = _keys(merged.process, merged.vpn)
            # numpy's stable sort is timsort here: it finds each interval sorted already and only merges
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            last = np.ones(len(keys), np.bool_)
            last[:-1] = keys[1:] != keys[:-1]
            self._state = merged.take(order[last])
        if self._cleared:
            self._drop_cleared()

    def _drop_cleared(self) -> None:
        keep = np.ones(len(self._state), np.bool_)
        for cleared, time_s in self._cleared:
            first, past = np.searchsorted(self._state.process, [cleared.process, cleared.process + 1])
            vpns = self._state.vpn[first:past]
            low, high = np.searchsorted(vpns, [cleared.start_vpn, cleared.end_vpn]) + first
            keep[low:high] &= self._state.time_s[low:high] >= time_s
        self._cleared = []
        if not keep.all():
            self._state = self._state.take(keep)


def _keys(process: Int32s, vpn: Int64s) -> Int64s:
    """One integer per row that sorts by (process, vpn)."""
    vpn_bits = int(vpn.max()).bit_length()
    if int(process.max()).bit_length() + vpn_bits > 63:
        process = np.unique(process, return_inverse=True)[1].astype(np.int32)
    keys: Int64s = (process.astype(np.int64) << vpn_bits) | vpn
    return keys
