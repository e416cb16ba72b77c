# SPDX-License-Identifier: Apache-2.0
"""One frozen session, rich enough for every part of a report."""

import numpy as np
from profiles import armed, interval, node, process, run_info, vma

from hotpage.heat.results import Changes
from hotpage.profile.inmemory import InMemoryProfile
from hotpage.profile.snapshot import RunEnd, Snapshot, SourceCounts

HEAP = 0x5581A2000
MAPPED = 0x7F3C00000
LIBRARY = 0x7F3D12000


def frozen_snapshot(nodes: int = 1, rates: bool = True, **run: object) -> Snapshot:
    """redis-server with a hot stretch, a cooling one, silent and unobserved memory; a shell that exited.

    Without ``rates`` the same pages were only seen.
    """
    live = InMemoryProfile(run_info(**run))
    heap = np.arange(HEAP, HEAP + 12_800)  # 50 MiB, hot at its start, cooling off
    heap_hz = 4000.0 * np.exp2((heap - HEAP) // 1600 * -2.0)
    mapped = MAPPED + np.arange(0, 40_000, 4)  # every fourth page of 156 MiB, slow
    library = np.arange(LIBRARY, LIBRARY + 64)
    vpn = np.concatenate([heap, mapped, library, [HEAP]])
    rate_hz = np.concatenate([heap_hz, np.full(len(mapped), 0.02), np.full(64, np.nan), [3.0]]).astype(
        np.float32
    )
    if not rates:
        rate_hz[:] = np.nan
    index = np.concatenate([np.full(len(vpn) - 1, 1), [2]]).astype(np.int32)
    error = np.where(rate_hz > 1, 0.125, 0.75).astype(np.float32)
    by_node = [{0: 200 << 20}] if nodes == 1 else [{0: 150 << 20, 1: 50 << 20}]
    where = "/srv/data/with a name so long that it must be shortened in the middle.rdb"
    live.interval(
        interval(
            10,
            Changes(index, vpn, rate_hz, rate_hz * 2, error),
            start_s=0.5,
            processes=[process(1, "redis-server"), process(2, "sh", exited_s=4.0)],
            vmas={
                1: [
                    vma(HEAP, HEAP + 12_800, {0: 50 << 20}),
                    vma(MAPPED, MAPPED + 51_200, by_node[0], where),
                    vma(LIBRARY, LIBRARY + 512, {0: 2 << 20}, "/usr/lib/libc.so.6"),
                ],
                2: [vma(HEAP, HEAP + 16, {0: 16 << 12})],
            },
            armed={1: armed(MAPPED, MAPPED + 51_200, first_s=1.0)} if rates else {},
            nodes=[node(number, number) for number in range(nodes)],
            sources=[SourceCounts("hint", 123_456, 789, 10_000, 4), SourceCounts("fault", 64)],
        )
    )
    live.close(RunEnd(10.0, "complete", 0))
    return live.snapshot()
