# SPDX-License-Identifier: Apache-2.0
"""A machine with two tiers and one process: the kernel and the heat are ours, and so is the clock."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from profiles import run_info

from hotpage.heat.results import ArmedRanges, Folios
from hotpage.machine.numa import Watermarks
from hotpage.machine.processes import Process
from hotpage.machine.vmas import Residency, Vma
from hotpage.placement.outcome import MoveOutcome, Outcome, Result
from hotpage.placement.plan import Plan, ProcessFacts
from hotpage.profile.snapshot import NodeRecord, ProcessRecord, SourceCounts, Usage, VmaRecord
from hotpage.service.configuration import Configuration, parse
from hotpage.service.heatfeed import Picture
from hotpage.service.keeper import Keeper
from hotpage.service.survey import Surveyor

FAST, SLOW, PAGE = 0, 1, 4096
BASE = 0x7F000000
HEADROOM_PAGES = 512
"""An eighth of the nodes, which have 16 MiB."""


def configuration(text: str = "") -> Configuration:
    return parse(text, "test.toml")


class World:
    """``node``: of each page from BASE on, -1 where there is none; ``rate``: its accesses/s, NaN unknown."""

    def __init__(self, pages: int = 1024, text: str = "", tiers: int = 2, cgroup: str = "/db") -> None:
        self.pid = 2**22 + 77  # that no process can have
        self.cgroup = cgroup
        self.now_is: dict[str, str] = {}
        """What the process has changed since the session saw it first: ``comm``, ``cgroup``."""
        self.vpn = BASE + np.arange(pages, dtype=np.int64)
        self.node = np.full(pages, SLOW if tiers > 1 else FAST)
        self.rate = np.full(pages, 1.0, np.float32)
        self.sizes = np.ones(pages, np.int32)
        self.free_pages = {FAST: HEADROOM_PAGES + pages // 4, SLOW: 1 << 20}
        self.cache_pages = 0
        self.at_hand = dict.fromkeys(self.free_pages, 0)
        self.most_at_hand = 0
        self.now_s = 100.0
        self.events = 0
        self.asked: list[int] = []
        self.refused: dict[int, Result] = {}
        self.obstacle: Exception | None = None
        self.armed: ArmedRanges | None = None
        self.empty_pages = 0
        """Of the mapping, below BASE."""
        self.configuration = configuration(text)
        self.tiers = tiers
        self.limited: set[int | str] = set()
        """What the mover has a rate for."""
        self.surveyor = Surveyor(
            self.configuration,
            self.query,
            read_topology=self.topology,
            read_watermarks=self.watermarks,
            read_facts=self.facts,
            fast_bytes_of=lambda path: None,
        )
        self.keeper = Keeper(self.configuration, self.surveyor, self.make_mover, lambda: self.now_s)

    # The kernel

    def query(self, pid: int, vpn: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
        self.asked += vpn.tolist()
        inside = (vpn >= BASE) & (vpn < BASE + self.node.size)
        return np.where(inside, self.node[np.clip(vpn - BASE, 0, self.node.size - 1)], -2).astype(np.int32)

    def topology(self) -> Any:
        return SimpleNamespace(nodes=[_node(FAST, 0), _node(SLOW, 1)][: self.tiers])

    def watermarks(self) -> Mapping[int, Watermarks]:
        return {
            node: Watermarks(free * PAGE, 0, 0, 0, self.cache_pages * PAGE, self.at_hand[node] * PAGE)
            for node, free in self.free_pages.items()
        }

    def facts(self, record: ProcessRecord) -> ProcessFacts | None:
        one = record.process
        now = {"comm": one.comm, "cgroup": one.cgroup} | self.now_is
        return ProcessFacts(
            one.pid, 99, (1, 2), now["comm"], now["cgroup"], frozenset({FAST, SLOW}), age_s=1e6
        )

    # The mover

    def make_mover(self, rates: Mapping[int | str, object]) -> Any:
        self.limited = set(rates)
        return self

    def run(self, plan: Plan, processes: Mapping[int, ProcessFacts], *_: object) -> Outcome:
        if self.obstacle is not None:
            raise self.obstacle
        outcomes = []
        for move in plan.moves:
            results = np.full(int(move.pages.sum()), Result.MOVED, np.uint8)
            place = 0
            for vpn, size in zip(move.vpn.tolist(), move.pages.tolist(), strict=True):
                if (why := self.refused.get(vpn)) is not None:
                    results[place : place + size] = why
                else:
                    self.node[vpn - BASE : vpn - BASE + size] = move.target
                    self._change_free(move.source, size)
                    self._change_free(move.target, -size)
                place += size
            outcomes.append(MoveOutcome(move, results))
        return Outcome(outcomes, 0.01, 1, 0.01, 0.01)

    def _change_free(self, node: int, pages: int) -> None:
        """The lists of CPUs come first, and have at most ``most_at_hand`` pages."""
        sum_pages = self.at_hand[node] + pages
        self.at_hand[node] = min(max(sum_pages, 0), self.most_at_hand)
        self.free_pages[node] += sum_pages - self.at_hand[node]

    # Heat

    def picture(self, short: Any = None) -> Picture:
        heads = self.sizes > 0
        rate = self.rate[heads]
        folios = Folios(
            self.vpn[heads],
            self.sizes[heads],
            rate,
            rate if short is None else short,
            np.full(rate.size, 0.1, np.float32),
        )
        process = Process(0, self.pid, 99, "worker", "worker", "/bin/worker", 2, self.cgroup, 1)
        mapping = Vma(
            (BASE - self.empty_pages) * PAGE, (BASE + self.node.size) * PAGE, "rw-p", 0, 0, "", "anon"
        )
        there = {FAST: 1, SLOW: 1}
        self.events += 1
        return Picture(
            run_info(),
            50.0,
            {0: ProcessRecord(process, 0.0)},
            {0: folios},
            {0: [VmaRecord(mapping, Residency(PAGE, there, "default"))]},
            {} if self.armed is None else {0: self.armed},
            [NodeRecord(node, node, 1, 1 << 24, 0) for node in range(self.tiers)],
            Usage(sources=(SourceCounts("hint", self.events),)),
        )

    def step(self, after_s: float = 1.0, **more: Any) -> Any:
        self.now_s += after_s
        return self.keeper.step(self.picture(**more))

    def fast_vpns(self) -> set[int]:
        return set((self.vpn[self.node == FAST]).tolist())


def _node(number: int, tier: int) -> Any:
    return SimpleNamespace(
        id=number,
        tier=tier,
        total_bytes=1 << 24,
        free_bytes=0,
        distances={FAST: 10 if number == FAST else 20, SLOW: 20 if number == FAST else 10},
        read_latency_ns=None,
        is_device=False,
    )
