# SPDX-License-Identifier: Apache-2.0
"""A frozen session for top: a feed on a WatchedProfile, which no clock moves."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from profiles import armed, changes, interval, node, process, run_info, vma

from hotpage.errors import ProfileError
from hotpage.heat.results import Changes, Latencies
from hotpage.placement.background import MoveJob, Stage
from hotpage.placement.chosen import Proposal, Wish
from hotpage.placement.movelog import MoveLog, PageMoves
from hotpage.placement.movers.move_pages import MoveProgress
from hotpage.placement.outcome import MoveOutcome, Outcome, Result
from hotpage.placement.plan import Fate, Move, Plan, ProcessFacts
from hotpage.profile.live.view import LiveView
from hotpage.profile.live.watched import WatchedProfile
from hotpage.profile.snapshot import SourceCounts
from hotpage.views.top.feed import Status

HEAP = 0x5581A2000
MAPPED = 0x7F3C00000
LIBRARY = 0x7F3D12000
GIB = 1 << 30


class FakeMoves:
    """Moves the first 3,200 pages of redis's heap, when the test says so; no clock goes on by itself."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.log = MoveLog(lambda: self.now_s)
        self.wishes: list[Wish] = []
        self.is_slow_to_plan = False
        self.has_nothing_to_move = False
        self.problem = ""

    def propose(self, wish: Wish) -> MoveJob:
        self.wishes.append(wish)
        job = MoveJob(wish)
        if self.problem:
            job.problem, job.stage = self.problem, Stage.FAILED
        elif not self.is_slow_to_plan:
            self.plan(job)
        return job

    def plan(self, job: MoveJob) -> None:
        """The plan is there."""
        source, target = (1, 0) if job.wish.promote else (0, 1)
        pages = np.arange(HEAP, HEAP + 3200)
        ones = np.ones(len(pages), np.int32)
        move = Move(
            1, source, target, job.wish.promote, "above the threshold", pages, ones, 3.07, 0.016, 16e3
        )
        kept = {Fate.HOT_IN_PLACE: 20 << 20, Fate.NOT_CHOSEN: 150 << 20, Fate.UNKNOWN: 256 << 10}
        moves = () if self.has_nothing_to_move else (move,)
        outcomes = [MoveOutcome(one, np.full(len(pages), Result.PLANNED, np.uint8)) for one in moves]
        facts = ProcessFacts(4001, 7, (1, 2), "redis-server", "/", frozenset({0, 1}))
        job.proposal = Proposal(Plan("threshold", moves, kept, 8.0), {1: facts}, Outcome(outcomes))
        job.stage = Stage.PROPOSED

    def carry_out(self, job: MoveJob) -> None:
        job.stage = Stage.MOVING

    def go_on(self, job: MoveJob, moved_pages: int) -> None:
        """So many pages of a job have moved by now."""
        before = job.progress.moved_bytes >> 12 if job.progress else 0
        self.log.note_moved(job.wish.process, moved_pages - before)
        job.progress = MoveProgress(3200 << 12, moved_pages << 12, moved_pages << 12)

    def finish(self, job: MoveJob) -> None:
        """All but the last 200 pages could be moved; those were armed."""
        assert job.proposal is not None
        (move,) = job.proposal.plan.moves
        results = np.full(3200, Result.MOVED, np.uint8)
        results[3000:] = Result.ARMED
        job.outcome = Outcome([MoveOutcome(move, results)], 0.25, 3, 0.04, 0.018)
        self.go_on(job, 3000)
        self.log.note(job.outcome)
        job.stage = Stage.DONE


@dataclass
class FrozenFeed:
    """A Feed whose picture changes only when ``profile`` takes another interval."""

    profile: WatchedProfile
    state: Status = field(default_factory=lambda: Status("on", target_cost_percent=1.2))
    asked_nodes: list[int] = field(default_factory=list)
    refuses: bool = False
    moves: "FakeMoves" = field(default_factory=lambda: FakeMoves())

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

    def propose(self, wish: Wish) -> MoveJob:
        return self.moves.propose(wish)

    def carry_out(self, job: MoveJob) -> None:
        self.moves.carry_out(job)

    def moves_per_s(self) -> dict[int, float]:
        return self.moves.log.pages_per_s(2.0)

    def page_moves(self, process: int, start: int, end: int) -> PageMoves:
        return self.moves.log.of(process, start >> 12, end >> 12)

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
