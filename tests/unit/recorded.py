# SPDX-License-Identifier: Apache-2.0
"""Event records made by hand, for what reads them."""

import numpy as np

from hotpage.capture.events import EVENT_DTYPE, EventFlag, Events, EventSource

MS = 1_000_000
PID = 4242


def record(
    source: EventSource, vpn: int, time_ms: float, *, pages: int = 0, flags: int = 0, pid: int = PID
) -> Events:
    """One record; ``vpn`` is where it begins, ``time_ms`` milliseconds of CLOCK_MONOTONIC."""
    event = np.zeros(1, EVENT_DTYPE)
    event["source"], event["address"], event["time_ns"] = source, vpn << 12, round(time_ms * MS)
    event["tgid"] = event["tid"] = pid
    event["flags"] = flags
    event["pages"] = pages
    return event


def hint(vpn: int, time_ms: float, *, huge: bool = False, pages: int = 0, pid: int = PID) -> Events:
    flags = EventFlag.HUGE if huge else 0
    return record(EventSource.HINT_FAULT, vpn, time_ms, pages=pages, flags=flags, pid=pid)


def fault(vpn: int, time_ms: float, *, pid: int = PID) -> Events:
    return record(EventSource.PAGE_FAULT, vpn, time_ms, pid=pid)


def sample(vpn: int, time_ms: float, *, period: int = 1, pid: int = PID) -> Events:
    return record(EventSource.MEMORY_SAMPLE, vpn, time_ms, pages=period, pid=pid)


def arm(vpn: int, pages: int, time_ms: float, *, pid: int = PID) -> Events:
    return record(EventSource.ARM, vpn, time_ms, pages=pages, pid=pid)


def scan(start_vpn: int, time_ms: float, *, pid: int = PID) -> Events:
    return record(EventSource.SCAN, start_vpn, time_ms, pid=pid)


def skip(vpn: int, pages: int, time_ms: float, *, reason: int = 1, pid: int = PID) -> Events:
    return record(EventSource.SCAN_SKIP, vpn, time_ms, pages=pages, flags=reason, pid=pid)


def scan_end(vpn: int, time_ms: float, *, pid: int = PID) -> Events:
    return record(EventSource.SCAN_END, vpn, time_ms, pid=pid)


def batch(*records: Events) -> Events:
    """Joined, as read from a ring."""
    joined: Events = np.concatenate([r.view("V32") for r in records]).view(EVENT_DTYPE)
    return joined
