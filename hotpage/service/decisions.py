# SPDX-License-Identifier: Apache-2.0
"""Why a page is where it is: its rate, what the plan made of it, and what became of its last moves."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hotpage.machine.folios import PAGE_BYTES
from hotpage.machine.proc import printable
from hotpage.placement.outcome import RESULT_WORDS, MoveOutcome, Outcome, Result
from hotpage.placement.plan import ABSENT, WORDS, Fate, Plan, Situation
from hotpage.views.units import percent, rate, seconds

MOST_PAGES = 1 << 18
"""Base pages whose last moves are remembered, the newest; 9 to 13 bytes each."""


@dataclass(frozen=True)
class PastMove:
    """What became of a page in one move."""

    time_s: float
    source: int
    target: int
    result: str


class RecentMoves:
    """The outcomes of the last moves; bounded."""

    def __init__(self, most_pages: int = MOST_PAGES) -> None:
        self._most_pages = most_pages
        self._pages = 0
        self._moves: deque[tuple[float, MoveOutcome]] = deque()

    def note(self, outcome: Outcome, now_s: float) -> None:
        """Remember, and forget the oldest."""
        for one in outcome.moves:
            self._moves.append((now_s, one))
            self._pages += one.results.size
        while self._pages > self._most_pages and len(self._moves) > 1:
            self._pages -= self._moves.popleft()[1].results.size

    def of(self, process: int, vpn: int) -> Iterator[PastMove]:
        """What became of a page, the newest first."""
        for time_s, one in reversed(self._moves):
            move = one.move
            if move.process != process:
                continue
            place = int(np.searchsorted(move.vpn, vpn, side="right")) - 1
            if place < 0 or vpn >= move.vpn[place] + move.pages[place]:
                continue
            first = int(move.pages[:place].sum(dtype=np.int64))
            result = one.results[first + vpn - int(move.vpn[place])]
            yield PastMove(time_s, move.source, move.target, RESULT_WORDS[Result(int(result))])


def explain(situation: Situation, plan: Plan, log: RecentMoves, pid: int, address: int) -> dict[str, Any]:
    """What there is to say about a page, for programs; ``lines`` says it for people.

    "problem" stands alone where there is nothing.
    """
    by_pid = {facts.pid: index for index, facts in situation.processes.items()}
    if pid not in by_pid:
        return {"problem": f"process {pid} is not looked after, or nothing of it was seen yet"}
    index, vpn = by_pid[pid], address // PAGE_BYTES
    facts, rows = situation.processes[index], situation.candidates
    low, high = np.searchsorted(rows.process, [index, index + 1])
    row = int(low + np.searchsorted(rows.vpn[low:high], vpn, side="right")) - 1
    past = [
        {
            "ago_s": round(situation.now_s - one.time_s, 1),
            "source": one.source,
            "target": one.target,
            "result": one.result,
        }
        for one in log.of(index, vpn)
    ]
    document: dict[str, Any] = {
        "pid": pid,
        "comm": facts.comm,
        "cgroup": facts.cgroup,
        "address": address,
        "policy": plan.policy,
        "hot_hz": plan.hot_hz if math.isfinite(plan.hot_hz) else None,
        "horizon_s": facts.horizon_s or situation.costs.horizon_s,
        "moves": past,
    }
    if row < low or vpn >= rows.vpn[row] + rows.pages[row]:
        return document | {"reason": "never seen: neither armed nor accessed meanwhile, or not mapped"}
    node = int(rows.node[row])
    tiers = {room.node: room.tier for room in situation.nodes}
    return document | {
        "folio_bytes": int(rows.pages[row]) * PAGE_BYTES,
        "node": None if node == ABSENT else node,
        "tier": tiers.get(node),
        "rate_hz": _number(rows.rate_hz[row]),
        "rate_short_hz": _number(rows.rate_short_hz[row]),
        "relative_error": _number(rows.relative_error[row]),
        "reason": _reason(plan, index, int(rows.vpn[row]), int(plan.fate[row])),
    }


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """``explain`` for people."""
    if "problem" in answer:
        yield str(answer["problem"])
        return
    owner = printable(f"process {answer['pid']} ({answer['comm']}) in {answer['cgroup']}")
    yield f"page      {answer['address']:x} of {owner}"
    if "node" in answer:
        where = "not in memory" if answer["node"] is None else f"node {answer['node']}, tier {answer['tier']}"
        if answer["folio_bytes"] > PAGE_BYTES:
            where += f", part of {answer['folio_bytes'] >> 20} MiB that move as one"
        yield f"where     {where}"
        if answer["rate_hz"] is None:
            yield "rate      unknown"
        else:
            error = percent(answer["relative_error"]) if answer["relative_error"] is not None else "?"
            short = "?" if answer["rate_short_hz"] is None else rate(answer["rate_short_hz"])
            yield f"rate      {rate(answer['rate_hz'])} accesses/s, lately {short}; standard error {error}"
    hot = "none" if answer["hot_hz"] is None else f"hot from {rate(answer['hot_hz'])} accesses/s a page"
    if answer["hot_hz"] == 0:
        hot = "none: everything fits fast memory"
    yield f"threshold {hot}; a move has to pay within {seconds(answer['horizon_s'])}"
    yield f"decision  {answer['reason']}"
    for move in answer["moves"]:
        road = f"node {move['source']} -> {move['target']}"
        yield f"moved     {seconds(move['ago_s'])} ago, {road}: {move['result']}"
    if not answer["moves"]:
        yield "moved     not lately"


def _reason(plan: Plan, process: int, vpn: int, fate: int) -> str:
    if fate != Fate.MOVED:
        return WORDS[Fate(fate)]
    for move in plan.moves:
        if move.process == process and np.isin(vpn, move.vpn, assume_unique=True):
            return f"goes to node {move.target}: {move.reason}"
    return "moves"


def _number(value: np.float32) -> float | None:
    return float(value) if math.isfinite(value) else None
