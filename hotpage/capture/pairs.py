# SPDX-License-Identifier: Apache-2.0
"""A hint fault is a page fault, too. Where function hooks tell hint faults, the page fault source, which only
knows faults, has told of each of them before: its record is left out.

(The rungs that read page tables tell the two apart in the kernel.)
"""

from __future__ import annotations

import numpy as np

from hotpage.capture.events import EventFlag, Events, EventSource

_PAGE_SHIFT = np.uint64(12)
_HUGE_SHIFT = np.uint64(21)


def without_faults_behind_hints(events: Events) -> Events:
    """``events``, in order of time, without each page fault that its thread's next record is a hint fault of.

    A pair torn apart by the end of a batch, a few of many thousands, stays.
    """
    order = np.argsort(events["tid"], kind="stable")
    ordered = events[order]
    first, second = ordered[:-1], ordered[1:]
    is_pair = (first["source"] == EventSource.PAGE_FAULT) & (second["source"] == EventSource.HINT_FAULT)
    is_pair &= first["tid"] == second["tid"]
    shift = np.where(second["flags"] & EventFlag.HUGE, _HUGE_SHIFT, _PAGE_SHIFT)
    is_pair &= first["address"] >> shift == second["address"] >> shift
    if not is_pair.any():
        return events
    keep = np.ones(len(events), bool)
    keep[order[:-1][is_pair]] = False
    return events[keep]
