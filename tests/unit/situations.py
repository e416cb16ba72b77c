# SPDX-License-Identifier: Apache-2.0
"""Situations for policies: small ones by hand, and any at all by hypothesis."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hotpage.placement.history import History, page_keys
from hotpage.placement.plan import (
    ABSENT,
    Aim,
    Candidates,
    GroupLimits,
    NodeRoom,
    ProcessFacts,
    Situation,
)

PAGE = 4096


def candidates(
    rows: Sequence[tuple[int, int, int, int, float]], error: float = 0.1, **columns: Any
) -> Candidates:
    """Rows (process, vpn, pages, node, rate_hz), in order."""
    process, vpn, pages, node, rate = zip(*rows, strict=True) if rows else ((),) * 5
    rate_hz = np.array(rate, np.float32)
    values: dict[str, Any] = {
        "process": np.array(process, np.int32),
        "vpn": np.array(vpn, np.int64),
        "pages": np.array(pages, np.int32),
        "node": np.array(node, np.int16),
        "rate_hz": rate_hz,
        "rate_short_hz": rate_hz,
        "relative_error": np.full(len(rate_hz), error, np.float32),
    }
    return Candidates(**(values | columns))


def facts(
    pid: int = 100, cgroup: str = "/", allowed: Sequence[int] = (0, 1), age_s: float = 1e9
) -> ProcessFacts:
    return ProcessFacts(pid, 7, (1, 2), "worker", cgroup, frozenset(allowed), age_s)


def room(
    node: int, free_pages: int, tier: int | None = None, headroom_pages: int = 0, **more: Any
) -> NodeRoom:
    """Node 0 is the fast one; distances grow with the difference of the numbers."""
    return NodeRoom(
        node,
        min(node, 1) if tier is None else tier,
        1 << 30,
        free_pages * PAGE,
        headroom_pages * PAGE,
        {other: 10 + 10 * abs(other - node) for other in range(8)},
        **more,
    )


_RATES = st.one_of(
    st.floats(0.0078125, 1e6, width=32), st.sampled_from([0.0, 1.0, 100.0, 1e4]), st.just(float("nan"))
)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Up to three processes and cgroups, up to four nodes in two or three tiers, base and huge pages."""
    node_count = draw(st.integers(1, 4))
    nodes = [
        room(
            node,
            draw(st.integers(0, 40)),
            tier=draw(st.integers(0, 2)) if node else 0,
            headroom_pages=draw(st.integers(0, 10)),
            rate_bytes=draw(st.sampled_from([float("inf"), 0.0, 5 * PAGE, 17 * PAGE])),
            is_device=bool(node) and draw(st.integers(0, 5)) == 0,
            watermark_bytes=draw(st.integers(0, 3)) * PAGE,
        )
        for node in range(node_count)
    ]
    processes = {}
    rows = []
    for process in range(draw(st.integers(1, 3))):
        allowed = draw(st.sets(st.integers(0, node_count - 1), min_size=1))
        age_s = draw(st.sampled_from([1e9, 3.0]))
        processes[process] = facts(100 + process, f"/g{draw(st.integers(0, 2))}", sorted(allowed), age_s)
        vpn = 1000
        for _ in range(draw(st.integers(0, 25))):
            pages = draw(st.sampled_from([1, 1, 1, 8]))
            node = draw(st.integers(ABSENT, node_count))  # also one that nobody knows
            rows.append((process, vpn, pages, node, draw(_RATES)))
            vpn += pages + draw(st.integers(0, 3))
    table = candidates(rows)
    errors = draw(st.lists(st.sampled_from([0.1, 0.8, 1.4]), min_size=len(rows), max_size=len(rows)))
    short = draw(st.lists(st.sampled_from([0.2, 1.0, 3.0]), min_size=len(rows), max_size=len(rows)))
    table = candidates(
        rows,
        relative_error=np.array(errors, np.float32),
        rate_short_hz=table.rate_hz * np.array(short, np.float32),
    )
    limits = {
        f"/g{number}": GroupLimits(
            floor_bytes=draw(st.sampled_from([0.0, 6.0 * PAGE])),
            ceiling_bytes=draw(st.sampled_from([float("inf"), 10.0 * PAGE])),
            weight=draw(st.sampled_from([1.0, 4.0, 0.25])),
            rate_bytes=draw(st.sampled_from([float("inf"), 4.0 * PAGE])),
        )
        for number in draw(st.sets(st.integers(0, 2)))
    }
    keys = page_keys(table.process, table.vpn)
    marks = draw(st.lists(st.integers(0, 9), min_size=len(rows), max_size=len(rows)))
    mark = np.array(marks, np.int64)
    history = History().noting(keys[mark == 0], keys[mark == 1], 100.0)
    return Situation(table, processes, nodes, history, limits, now_s=110.0)


@st.composite
def aims(draw: st.DrawFn, node_count: int) -> Aim:
    """Any wish."""
    some_nodes = st.one_of(st.none(), st.sets(st.integers(0, node_count - 1), min_size=1, max_size=1))
    up, down = draw(some_nodes), draw(some_nodes)
    return Aim(
        promote=draw(st.booleans()),
        demote=draw(st.booleans()),
        promote_to=frozenset(up) if up else None,
        demote_to=frozenset(down) if down else None,
        hot_rate_hz=draw(st.sampled_from([None, 10.0])),
        hot_bytes=draw(st.sampled_from([None, 20.0 * PAGE])),
        most_bytes=draw(st.sampled_from([float("inf"), 7.0 * PAGE])),
        free_bytes=draw(st.sampled_from([{}, {0: 30.0 * PAGE}])),
        seed=draw(st.integers(0, 3)),
    )
