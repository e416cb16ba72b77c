# SPDX-License-Identifier: Apache-2.0
"""``hotpage demo``: profile a bundled workload whose hot pages are known, and compare."""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import inf
from typing import Annotated

import numpy as np
import typer

from hotpage.cli.formats import print_json
from hotpage.cli.privilege import require_root
from hotpage.cli.running import look, stop_on_signals
from hotpage.errors import UsageError
from hotpage.exerciser import Exerciser
from hotpage.machine.folios import PAGE_BYTES
from hotpage.profile.summary import Summary, summarise
from hotpage.profile.threshold import HeatClass
from hotpage.recording.recorder import Options
from hotpage.recording.selection import Selection
from hotpage.views.terminal import print_report

_RATE_BEARING = "hint"
_BUDGET_PERCENT = 10.0
"""More than record's: a demo is short, and slows down nobody's work."""


class Layout(StrEnum):
    """Where the hot pages lie."""

    BLOCK = "block"
    SCATTERED = "scattered"


@dataclass(frozen=True)
class Verdict:
    """What hotpage called hot, held against the truth. ``seconds``: measured; precision and recall: 0..1."""

    precision: float
    recall: float
    hot_bytes: int
    true_hot_bytes: int
    hot_rate_hz: float
    cold_rate_hz: float
    true_hot_rate_hz: float
    true_cold_rate_hz: float
    events: int
    lost: int
    source: str
    rung: str
    seconds: float
    threads: int


def demo(
    threads: Annotated[int, typer.Option("--threads", metavar="N", help="Threads of the workload.")] = 2,
    duration_s: Annotated[
        float, typer.Option("-d", "--duration", metavar="SECONDS", help="How long to profile.")
    ] = 20.0,
    mib: Annotated[int, typer.Option("--size", metavar="MIB", help="Memory of the workload.")] = 200,
    layout: Annotated[Layout, typer.Option("--layout", help="Where its hot pages lie.")] = Layout.BLOCK,
    budget_percent: Annotated[
        float, typer.Option("--budget", metavar="PCT", help="Slowdown of the workload by arming allowed.")
    ] = _BUDGET_PERCENT,
    json: Annotated[bool, typer.Option("--json", help="The verdict, for programs.")] = False,
) -> None:
    """Profile a bundled workload whose hot pages are known, and compare.

    A tenth of the pages takes nine tenths of the accesses. NUMA hint faults are turned on for the time of the
    demo, as record --arm does.
    """
    if not 1 <= threads <= 1024 or mib < 1 or not 0 < duration_s < inf or not 0 < budget_percent <= 100:
        raise UsageError(
            "the demo cannot run like that",
            "give 1 to 1024 threads, at least 1 MiB, a positive duration, and a budget of up to 100 %",
        )
    require_root("watching the workload")
    with Exerciser.start(mib=mib, threads=threads, layout=layout.value) as workload:
        if not json:
            hot_mib = workload.hot_vpns.size * PAGE_BYTES / (1 << 20)
            print(
                f"hotpage: process {workload.pid} writes to {mib} MiB with {threads} "
                f"thread{'s' if threads > 1 else ''}: 90 % to {hot_mib:.0f} MiB of it. "
                f"Watching for {duration_s:g} s ...",
                file=sys.stderr,
            )
        options = Options(
            selection=Selection.of_pids([workload.pid]),
            duration_s=duration_s,
            arm=True,
            budget_percent=budget_percent,
            command_line=tuple(sys.argv),
        )
        workload.throughput()
        with stop_on_signals() as stop_reason:
            profile, end, progress = look(options, stop_reason)
        true_rates_hz = workload.page_rates_hz(workload.throughput())
        summary = summarise(profile.snapshot())
        verdict = _judge(summary, workload, true_rates_hz, progress.lost.values(), end.end_s, threads)
    if json:
        print_json(asdict(verdict))
        return
    print_report(summary)
    print()
    for text in _comparison(verdict):
        print(text)


def _judge(
    summary: Summary,
    workload: Exerciser,
    true_rates_hz: tuple[float, float],
    lost: Iterable[int],
    seconds: float,
    threads: int,
) -> Verdict:
    snapshot = summary.snapshot
    first = workload.base >> 12
    pages = snapshot.pages.take((snapshot.pages.vpn >= first) & (snapshot.pages.vpn < first + workload.pages))
    called_hot = summary.threshold.classes(pages.rate_hz) == HeatClass.HOT
    is_hot = np.isin(pages.vpn, workload.hot_vpns)
    right = int((called_hot & is_hot).sum())
    counts = {source.source: source for source in snapshot.usage.sources}
    return Verdict(
        precision=right / max(int(called_hot.sum()), 1),
        recall=right / workload.hot_vpns.size,
        hot_bytes=int(called_hot.sum()) * PAGE_BYTES,
        true_hot_bytes=workload.hot_vpns.size * PAGE_BYTES,
        hot_rate_hz=_median(pages.rate_hz[is_hot]),
        cold_rate_hz=_median(pages.rate_hz[~is_hot]),
        true_hot_rate_hz=true_rates_hz[0],
        true_cold_rate_hz=true_rates_hz[1],
        events=sum(source.received for source in counts.values()),
        lost=sum(lost),
        source=_RATE_BEARING,
        rung=snapshot.run.rungs[_RATE_BEARING],
        seconds=seconds,
        threads=threads,
    )


def _median(rates_hz: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    known = rates_hz[np.isfinite(rates_hz)]
    return float(np.median(known)) if len(known) else 0.0


def _comparison(verdict: Verdict) -> list[str]:
    true_mib, called_mib = verdict.true_hot_bytes / (1 << 20), verdict.hot_bytes / (1 << 20)
    true_hz, called_hz = verdict.true_hot_rate_hz, verdict.hot_rate_hz
    true_cold_hz, called_cold_hz = verdict.true_cold_rate_hz, verdict.cold_rate_hz
    return [
        "The truth beside it:",
        f"  hot memory        {true_mib:8.1f} MiB; called hot: {called_mib:.1f} MiB",
        f"  of the hot pages  {100 * verdict.recall:8.1f} % were called hot (recall)",
        f"  called hot        {100 * verdict.precision:8.1f} % rightly (precision)",
        f"  a hot page        {true_hz:8,.0f} accesses/s; found: {called_hz:,.0f} (median; a lower bound)",
        f"  a cold page       {true_cold_hz:8,.0f} accesses/s; found: {called_cold_hz:,.0f}",
    ]
