# SPDX-License-Identifier: Apache-2.0
"""What the service says of its rounds: a line where something happened, the decision log, metrics."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.outcome import FAILURES, Outcome, Result
from hotpage.placement.plan import WORDS, Fate
from hotpage.service.configuration import Configuration
from hotpage.service.figures import fast_share, heat_by_tier
from hotpage.service.keeper import Step
from hotpage.service.loop import Service
from hotpage.service.metrics import Exporter, ServiceMetrics
from hotpage.views.moves import move_document, outcome_lines, plan_lines, why_not_moved
from hotpage.views.units import percent, rate, size

_SAME_LINE_S = 60.0
_LOG, _MOST_LOG_BYTES = "decisions.jsonl", 1 << 20


class Reporter:
    """Sees every round."""

    def __init__(self, say: Callable[[str], None], explain: int | None, is_once: bool) -> None:
        self._say = say
        self._explain = explain
        self._is_once = is_once
        self._said: tuple[str, float] = ("", float("-inf"))
        self._metrics: ServiceMetrics | None = None
        self._exporter: Exporter | None = None
        self._log: Path | None = None

    @contextlib.contextmanager
    def serving(self, service: Service, with_metrics: bool) -> Iterator[None]:
        """Serve metrics of the service meanwhile, where its configuration says."""
        self._log = Path(service.configuration.state_dir) / _LOG
        self._metrics = ServiceMetrics(service)
        self._exporter = Exporter(self._metrics)
        try:
            if with_metrics:
                self._serve(service.configuration)
            yield
        finally:
            self._exporter.close()

    def reconfigure(self, configuration: Configuration) -> None:
        """Serve metrics at the new address. Raises HotpageError if it cannot be had."""
        if not self._is_once:
            self._serve(configuration)

    def _serve(self, configuration: Configuration) -> None:
        exporter, address = self._exporter, configuration.metrics.address
        if exporter is not None and exporter.serve(address) and address:
            host = address.rpartition(":")[0]
            self._say(f"metrics at http://{host}:{exporter.port}/metrics")

    def step(self, step: Step) -> None:
        """Say what a round came to."""
        if self._is_once:
            self._say_all(step)
            return
        heat = self._metrics.note(step) if self._metrics is not None else heat_by_tier(step.situation)
        line = _line(step, fast_share(heat))
        text, said_s = self._said
        is_news = step.outcome is not None or line.split(";")[0] != text.split(";")[0]
        if is_news or time.monotonic() - said_s >= _SAME_LINE_S:
            self._said = line, time.monotonic()
            self._say(line)
        if step.outcome is not None:
            self._write(step)

    def _say_all(self, step: Step) -> None:
        for text in plan_lines(step.plan, step.situation.processes):
            print(text.plain)
        if step.outcome is not None:
            print()
            for text in outcome_lines(step.outcome):
                print(text.plain)
        if step.obstacle:
            print(f"\ncannot move: {step.obstacle}")
        if self._explain is not None:
            print()
            for line in parts_of(step, self._explain):
                print(line)

    def _write(self, step: Step) -> None:
        """Append to the decision log, which starts anew at a mebibyte and keeps the one before."""
        if self._log is None:
            return
        document = {"unix_s": round(time.time(), 3)}
        document |= move_document(step.plan, step.situation.processes, step.outcome)
        with contextlib.suppress(OSError):  # it is a convenience: no reason to end
            if self._log.exists() and self._log.stat().st_size > _MOST_LOG_BYTES:
                self._log.replace(self._log.with_suffix(".jsonl.1"))
            with self._log.open("a") as file:
                file.write(json.dumps(document) + "\n")


def _line(step: Step, share: float) -> str:
    plan, outcome = step.plan, step.outcome
    hot = f"; hot from {rate(plan.hot_hz)}/s" if plan.hot_hz > 0 else ""
    fast = (
        ""
        if math.isnan(share) or len(step.situation.nodes) < 2
        else f"; {percent(share)} of accesses to fast memory"
    )
    if step.obstacle:
        return f"cannot move: {step.obstacle}{hot}{fast}"
    if outcome is None:
        return f"nothing to move: {plan.why_nothing()}{hot}{fast}"
    up = sum(move.size_bytes for move in plan.moves if move.is_promotion)
    return f"{size(up)} up, {size(plan.moved_bytes - up)} down: {_result(outcome)}{hot}{fast}"


def _result(outcome: Outcome) -> str:
    by_result = outcome.bytes_by_result()
    if planned := by_result.get(Result.PLANNED, 0):
        return f"would move {size(planned)}"
    failed = sum(count for kind, count in by_result.items() if kind in FAILURES)
    text = f"moved {size(outcome.moved_bytes)} in {outcome.elapsed_s:.2f} s"
    return text + (f", {size(failed)} not ({why_not_moved(outcome)})" if failed else "")


def parts_of(step: Step, pid: int) -> Iterator[str]:
    """Stretches of a process's memory with one fate on one node: their size, rate, and why they are there."""
    situation, plan = step.situation, step.plan
    index = next((i for i, facts in situation.processes.items() if facts.pid == pid), None)
    if index is None:
        yield f"process {pid} is not looked after, or nothing of it was seen"
        return
    rows = situation.candidates
    low, high = np.searchsorted(rows.process, [index, index + 1])
    vpn, pages = rows.vpn[low:high], rows.pages[low:high]
    fate, node, hz = plan.fate[low:high], rows.node[low:high], np.nan_to_num(rows.rate_hz[low:high])
    breaks = np.flatnonzero((np.diff(fate) != 0) | (np.diff(node) != 0) | (vpn[1:] != vpn[:-1] + pages[:-1]))
    starts = np.concatenate(([0], breaks + 1)) if vpn.size else np.empty(0, np.int64)
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), vpn.size], strict=True):
        count = int(pages[start:end].sum())
        mean_hz = float(hz[start:end] @ pages[start:end]) / count
        words = "moves" if fate[start] == Fate.MOVED else WORDS[Fate(int(fate[start]))]
        where = f"node {node[start]}" if node[start] >= 0 else "nowhere"
        last = int(vpn[end - 1] + pages[end - 1])
        span = f"{vpn[start] << 12:x}-{last << 12:x}"
        yield f"{span} {size(count * PAGE_BYTES):>5} {where:>7} {rate(mean_hz):>6}/s  {words}"
