# SPDX-License-Identifier: Apache-2.0
"""``hotpage record``: profile processes, a cgroup, a command or everything into a directory."""

import sys
import time
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from hotpage.cli.privilege import require_root
from hotpage.cli.running import run_session, stop_on_signals
from hotpage.cli.targets import (
    ArmOption,
    BudgetOption,
    CgroupOption,
    CommOption,
    EverythingOption,
    PidsOption,
    count_named,
    parse_selection,
    parse_sources,
    require,
    require_budget,
    require_one,
)
from hotpage.profile.disk.naming import default_directory
from hotpage.profile.disk.store import ProfileWriter
from hotpage.profile.snapshot import RunEnd, RunInfo
from hotpage.recording.recorder import DEFAULT_BUDGET_PERCENT, DEFAULT_INTERVAL_S, Options
from hotpage.recording.selection import Selection
from hotpage.recording.session import Progress

CONTEXT_SETTINGS = {"allow_interspersed_args": False}
"""What follows the first word that is no option belongs to the command, as in perf record."""


def record(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- CMD ...]", help="Run and profile this.")
    ] = None,
    pids: PidsOption = None,
    cgroup: CgroupOption = None,
    comm: CommOption = None,
    everything: EverythingOption = False,
    duration_s: Annotated[
        float | None, typer.Option("-d", "--duration", metavar="SECONDS", help="Stop after so long.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Where to [default: hotpage-<date>-<time>]."),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="NAME[,NAME]",
            help="hint, fault, sample, or several; NAME=RUNG insists on a rung (see doctor).",
        ),
    ] = "hint,fault",
    arm: ArmOption = False,
    budget_percent: BudgetOption = DEFAULT_BUDGET_PERCENT,
    interval_s: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", help="Time between writes.")
    ] = DEFAULT_INTERVAL_S,
) -> int:
    """Profile processes, a cgroup, a command or everything into a directory.

    Ctrl-C ends the session with a complete profile. With a command, its exit status is passed on.
    """
    started_unix_s = time.time()
    require(
        duration_s is None or 0 < duration_s < inf,
        f"a session cannot last {duration_s} s",
        "give -d a positive number",
    )
    require_budget(budget_percent)
    require(
        0.1 <= interval_s < inf,
        f"intervals of {interval_s} s make no sense",
        "give --interval a number of at least 0.1",
    )
    require(
        not (pids and command and all(word.isdecimal() for word in command)),
        "process ids are separated by commas",
        f"write -p {','.join([pids or '', *(command or ())])}",
    )
    sources, rungs = parse_sources(source)
    require_root("recording")
    options = Options(
        selection=_selection(command or [], pids, cgroup, comm, everything),
        command=tuple(command or ()),
        duration_s=duration_s,
        sources=sources,
        forced_rungs=rungs,
        arm=arm,
        budget_percent=budget_percent,
        interval_s=interval_s,
        command_line=tuple(sys.argv),
    )
    target = directory or default_directory(started_unix_s)
    run_info: list[RunInfo] = []

    def open_sink(run: RunInfo) -> ProfileWriter:
        run_info.append(run)
        writer = ProfileWriter(target, run)
        for advice in run.advice:
            print(f"hotpage: {advice}", file=sys.stderr)
        print(f"hotpage: recording {run.target} into {target}; Ctrl-C ends it", file=sys.stderr)
        return writer

    with stop_on_signals() as stop_reason:
        end, progress = run_session(options, open_sink, stop_reason)
    _print_summary(progress, end, run_info[0], target)
    return end.command_exit_status or 0


def _selection(
    command: list[str], pids: str | None, cgroup: str | None, comm: str | None, everything: bool
) -> Selection | None:
    given = bool(command) + count_named(pids, cgroup, comm, everything)
    remedy = "give one of -p PID, --cgroup PATH, --comm NAME, -a, or -- CMD"
    require(given > 0, "nothing to profile", remedy)
    require_one(given, remedy)
    return None if command else parse_selection(pids, cgroup, comm, everything)


def _print_summary(progress: Progress, end: RunEnd, run: RunInfo, directory: Path) -> None:
    received = ", ".join(
        f"{count:,} {name}" for name, count in progress.received.items() if name in run.rungs
    )
    lost = sum(progress.lost.values())
    lines = [
        f"{end.status}: {end.end_s:.1f} s measured, {received} events received, {lost:,} lost"
        if end.status != "complete"
        else f"{end.end_s:.1f} s measured, {received} events received, {lost:,} lost",
        f"own CPU {100 * progress.own_cpu_s / end.end_s:.2f} % of one CPU after "
        f"{progress.start_up_cpu_s:.1f} s to start, BPF programs {100 * progress.bpf_s / end.end_s:.2f} %"
        + (f", target slowed by about {progress.target_cost_percent:.2f} %" if run.armed else ""),
    ]
    if progress.stands_for:
        mean = progress.stands_for / progress.received["sample"]
        lines.append(
            f"a sample stands for {mean:,.0f} accesses; dropped as of no use: "
            f"{progress.without_address:,} without an address, {progress.cache_hits:,} of cache hits"
        )
    missed = sum(progress.missed_runs.values())
    if missed:
        lines.append(
            f"the kernel left out hotpage's programs {missed:,} times, for one was active on that CPU: "
            "at most so many accesses, of whoever, were not seen"
        )
    lines += progress.notes
    if progress.one_in > 1:
        lines.append(f"to stay within the budget, 1 page fault in {progress.one_in} was kept at the end")
    lines.append(f"see it with: hotpage report -i {directory}")
    for text in lines:
        print(f"hotpage: {text}", file=sys.stderr)
