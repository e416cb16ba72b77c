# SPDX-License-Identifier: Apache-2.0
"""A frozen session for top: a feed on a WatchedProfile, which no clock moves."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from profiles import armed, changes, interval, node, process, run_info, vma

from hotpage.errors import ProfileError
from hotpage.heat.results import Changes, Latencies
from hotpage.profile.liveview import LiveView
from hotpage.profile.snapshot import SourceCounts
from hotpage.profile.watched import WatchedProfile
from hotpage.views.top.feed import Status

HEAP = 0x5581A2000
MAPPED = 0x7F3C00000
LIBRARY = 0x7F3D12000
GIB = 1 << 30


@dataclass
class FrozenFeed:
    """A Feed whose picture changes only when ``profile`` takes another interval."""

    profile: WatchedProfile
    state: Status = field(default_factory=lambda: Status("on", target_cost_percent=1.2))
    asked_nodes: list[int] = field(default_factory=list)
    refuses: bool = False

    @property
    def view(self) -> LiveView | None:
        return self.profile.view

    def status(self) -> Status:
        return self.state

    def __getattr__(self, name: str):
        return getattr(self.profile, name)

    def nodes(self, process: int, vpn: Sequence[int]) -> list[int | None]:
        self.asked_nodes += [int(page) for page in vpn]
        return [None if page % 7 == 0 else int(page) % 2 for page in vpn]

    def record(self) -> None:
        if self.refuses:
            raise ProfileError("cannot make the profile directory", "choose another")
        self.state = replace(self.state, recording=Path("hotpage-20260102-030405"), recorded_s=3.0)

    def stop_recording(self) -> None:
        self.state = replace(self.state, recording=None)


def redis_rows(scale: float = 1.0) -> Changes:
    """A heap that is hot at its start and cools off, a large mapping that is slow; two more processes."""
    heap = np.arange(HEAP, HEAP + 12_800)
    heap_hz = scale * 4000.0 * np.exp2((heap - HEAP) // 1600 * -2.0)
    mapped = MAPPED + np.arange(0, 40_000, 4)
    library = np.arange(LIBRARY, LIBRARY + 64)
    other = np.arange(HEAP, HEAP + 600)
    vpn = np.concatenate([heap, mapped, library, other, other[:300]])
    rate = np.concatenate(
        [
            heap_hz,
            np.full(len(mapped), 0.02),
            np.full(64, np.nan),
            np.full(600, 900 * scale),
            np.full(300, 0.5),
        ]
    ).astype(np.float32)
    owner = np.repeat([1, 1, 1, 2, 3], [len(heap), len(mapped), 64, 600, 300]).astype(np.int32)
    error = np.where(rate > 1, 0.125, 0.75).astype(np.float32)
    return Changes(owner, vpn, rate, rate, error)


def frozen_feed(nodes: int = 1, **run: object) -> FrozenFeed:
    """A machine with one node or with two tiers, five processes in three cgroups, ten intervals."""
    profile = WatchedProfile(run_info(target="all processes", **run))
    memory = [
        replace(node(n, n, (4 if n == 0 else 16) * GIB), free_bytes=(1 + 9 * n) * GIB) for n in range(nodes)
    ]
    records = [
        process(1, "redis-server"),
        process(2, "postgres"),
        process(3, "bash"),
        process(4, "node"),
        process(5, "python3"),
    ]
    cgroups = [
        "/system.slice/redis.service",
        "/system.slice/postgresql.service",
        "/user.slice",
        "/user.slice",
    ]
    records = [
        replace(record, process=replace(record.process, cgroup=cgroup))
        for record, cgroup in zip(records, [*cgroups, "/"], strict=True)
    ]

    def on(first: int, second: int) -> dict[int, int]:
        return {0: first << 20, 1: second << 20} if nodes > 1 else {0: (first + second) << 20}

    for number in range(1, 11):
        first = number == 1
        rows = redis_rows(1 + number % 3) if number < 10 else redis_rows()
        data = interval(
            number,
            rows,
            processes=records if first else (),
            vmas={
                1: [
                    vma(HEAP, HEAP + 12_800, on(30, 20)),
                    vma(MAPPED, MAPPED + 51_200, on(50, 150), "/var/lib/redis/appendonly.aof"),
                    vma(LIBRARY, LIBRARY + 512, on(2, 0), "/usr/lib/libc.so.6"),
                ],
                2: [vma(HEAP, HEAP + 25_600, on(100, 0), "")],
                3: [vma(HEAP, HEAP + 300, {0: 300 << 12})],
                4: [vma(HEAP, HEAP + 9000, on(35, 0))],
            }
            if first
            else {},
            armed={1: armed(MAPPED, MAPPED + 51_200, 0.5), 2: armed(HEAP, HEAP + 20_000, 0.5)},
            nodes=memory,
            sources=[SourceCounts("hint", 12_345, 7 * (number == 10), 0), SourceCounts("fault", 678)],
            bpf_s=0.004,
            own_cpu_s=0.012,
        )
        pages = np.arange(HEAP, HEAP + 100)
        seen = Latencies(np.ones(100, np.int32), pages, np.exp2(pages % 16 - 15.0).astype(np.float32))
        profile.interval(replace(data, latencies=seen))
    return FrozenFeed(profile)


def busy_feed(processes: int) -> FrozenFeed:
    """Many processes with a page each."""
    profile = WatchedProfile(run_info(target="all processes"))
    rows = [(index, 1000 + index, float(index + 1)) for index in range(processes)]
    profile.interval(
        interval(1, changes(*rows), processes=[process(index, f"job{index}") for index in range(processes)])
    )
    return FrozenFeed(profile)
