# SPDX-License-Identifier: Apache-2.0
"""The service's numbers for Prometheus, over HTTP; docs/auto.md lists them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from hotpage import __version__
from hotpage.errors import HotpageError
from hotpage.placement.plan import Fate
from hotpage.recording.session import resident_bytes
from hotpage.service.configuration import host_and_port
from hotpage.service.figures import DECADES, TierHeat, fast_share, heat_by_tier
from hotpage.service.keeper import Step

if TYPE_CHECKING:
    from hotpage.service.loop import Service


@dataclass(frozen=True)
class _LastPlan:
    """What only a round knows."""

    heat: Mapping[int, TierHeat]
    kept_bytes: Mapping[Fate, int]
    hot_hz: float
    planned_bytes: int
    shortest_horizon_s: float
    processes: int


class ServiceMetrics(Collector):
    """Reads the service when it is scraped; ``note`` takes what only a round knows."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._last: _LastPlan | None = None

    def note(self, step: Step) -> Mapping[int, TierHeat]:
        """Take a round; its heat by tier."""
        plan, processes = step.plan, step.situation.processes
        horizons = (facts.horizon_s for facts in processes.values() if facts.horizon_s is not None)
        heat = heat_by_tier(step.situation)
        self._last = _LastPlan(
            heat,
            dict(plan.kept_bytes),
            plan.hot_hz,
            plan.moved_bytes,
            min(horizons, default=float("nan")),
            len(processes),
        )
        return heat

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client wants it."""
        service = self._service
        yield _gauge("hotpage_info", "What runs.", 1, version=__version__)
        yield _gauge("hotpage_dry_run", "1 if nothing is moved.", float(service.configuration.dry_run))
        yield _counter("hotpage_cpu_seconds", "Own CPU time, all threads.", time.process_time())
        yield _gauge("hotpage_resident_bytes", "Own resident memory.", resident_bytes())
        yield from self._of_session()
        yield from self._of_keeper()
        if (last := self._last) is not None:
            yield from _of_plan(last)

    def _of_session(self) -> Iterator[Metric]:
        session = self._service.session
        if session is None:
            return
        progress = session.progress
        for name, text, counts in (
            ("hotpage_events", "Accesses seen.", progress.received),
            ("hotpage_events_lost", "Accesses lost on the way from the kernel.", progress.lost),
            ("hotpage_missed_runs", "Times the kernel left a program out.", progress.missed_runs),
            ("hotpage_events_sampled_out", "Accesses left out to keep to the budget.", progress.sampled_out),
        ):
            family = CounterMetricFamily(name, text, labels=["source"])
            for source, count in dict(counts).items():
                family.add_metric([source], count)
            yield family
        yield _counter("hotpage_bpf_seconds", "CPU time of the BPF programs.", progress.bpf_s)
        yield _gauge("hotpage_tracked_pages", "Base pages with a state.", progress.tracked_pages)
        yield _gauge("hotpage_arming", "1 while the kernel arms pages.", float(progress.is_arming))
        yield _gauge(
            "hotpage_target_cost_ratio",
            "Slowdown of the targets, estimated.",
            progress.target_cost_percent / 100,
        )

    def _of_keeper(self) -> Iterator[Metric]:
        keeper, budget = self._service.keeper, self._service.configuration.budget
        yield _gauge("hotpage_budget_cpu_ratio", "Slowdown and own CPU allowed.", budget.cpu_percent / 100)
        yield _gauge("hotpage_budget_move_bytes_per_second", "To one node at most.", budget.move_rate)
        yield _counter("hotpage_plans", "Plans made.", keeper.totals.plans)
        yield _counter("hotpage_plan_cpu_seconds", "CPU time of plans.", keeper.totals.plan_s)
        yield _gauge("hotpage_plan_period_seconds", "Between two plans.", keeper.pace.period_s)
        family = CounterMetricFamily(
            "hotpage_moved_bytes", "What became of planned moves.", labels=["direction", "result"]
        )
        for direction, sums in keeper.totals.moved.items():
            for kind, count in dict(sums).items():
                family.add_metric([direction, kind.name.lower()], count)
        yield family
        yield _counter("hotpage_move_seconds", "Time in move_pages.", keeper.totals.call_s)
        yield _counter("hotpage_move_calls", "Calls of move_pages.", keeper.totals.calls)
        yield _counter("hotpage_bounced_pages", "Pages that were moved in vain.", keeper.bounces.total)
        yield _gauge(
            "hotpage_bounce_ratio", "Of the pages moved in the last minute.", keeper.bounces.last.share
        )


class Exporter:
    """Serves the metrics at one address at a time; "" for none."""

    def __init__(self, metrics: ServiceMetrics) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(metrics)
        self._stack = contextlib.ExitStack()
        self._address = ""
        self.port = 0

    def serve(self, address: str) -> bool:
        """Serve there, and no longer elsewhere; whether that is a change.

        Raises HotpageError if the address cannot be had; then it is served where it was before.
        """
        if address == self._address:
            return False
        before = self._address
        self.close()  # first: 0.0.0.0 cannot be had while 127.0.0.1 has the port
        try:
            self._open(address)
        except HotpageError:
            with contextlib.suppress(HotpageError):
                self._open(before)
            raise
        return True

    def _open(self, address: str) -> None:
        if not address:
            return
        host, port = host_and_port(address)
        try:
            server, thread = start_http_server(port, host, self._registry)
        except OSError as error:
            raise HotpageError(
                f"metrics cannot be served at {address} ({error.strerror})", "set another metrics.address"
            ) from error
        self._address, self.port = address, server.server_port
        self._stack.callback(_end, server, thread)

    def close(self) -> None:
        """Serve nothing."""
        self._stack.close()
        self._address = ""


def _end(server: object, thread: threading.Thread) -> None:
    server.shutdown()  # type: ignore[attr-defined]
    server.server_close()  # type: ignore[attr-defined]
    thread.join()


def _of_plan(last: _LastPlan) -> Iterator[Metric]:
    yield _gauge("hotpage_processes", "That are looked after.", last.processes)
    yield _gauge("hotpage_hot_rate_hz", "From which a page is hot, accesses/s.", last.hot_hz)
    yield _gauge("hotpage_planned_bytes", "To move, in the last plan.", last.planned_bytes)
    yield _gauge(
        "hotpage_fast_access_ratio", "Share of accesses to tier 0, estimated.", fast_share(last.heat)
    )
    yield _gauge("hotpage_horizon_seconds", "Shortest P of a process.", last.shortest_horizon_s)
    kept = GaugeMetricFamily("hotpage_kept_bytes", "What the last plan left, by why.", labels=["reason"])
    for fate, count in last.kept_bytes.items():
        kept.add_metric([fate.name.lower()], count)
    yield kept
    rates = GaugeHistogramMetricFamily(
        "hotpage_page_rate", "Bytes by accesses/s of their page.", labels=["tier"]
    )
    unknown = GaugeMetricFamily("hotpage_unknown_bytes", "Never observed.", labels=["tier"])
    accesses = GaugeMetricFamily("hotpage_accesses_hz", "Estimated accesses/s.", labels=["tier"])
    for tier, heat in last.heat.items():
        sums, buckets = 0, []
        for decade, count in zip((*DECADES, None), heat.bytes_by_decade, strict=True):
            sums += count
            buckets.append(("+Inf" if decade is None else f"{10.0**decade:g}", float(sums)))
        rates.add_metric([str(tier)], buckets, heat.accesses_hz)
        unknown.add_metric([str(tier)], heat.unknown_bytes)
        accesses.add_metric([str(tier)], heat.accesses_hz)
    yield from (rates, unknown, accesses)


def _gauge(name: str, text: str, value: float, **labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)
