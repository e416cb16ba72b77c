# SPDX-License-Identifier: Apache-2.0
"""``hotpage record``: profile processes, a cgroup, a command or everything into a directory."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from hotpage.cli.privilege import require_root
from hotpage.errors import UsageError
from hotpage.profile.naming import default_directory
from hotpage.profile.snapshot import RunEnd, RunInfo
from hotpage.profile.store import ProfileWriter
from hotpage.recording.recorder import DEFAULT_BUDGET_PERCENT, DEFAULT_INTERVAL_S, Options, Recorder
from hotpage.recording.selection import Selection
from hotpage.recording.session import Progress

CONTEXT_SETTINGS = {"allow_interspersed_args": False}
"""What follows the first word that is no option belongs to the command, as in perf record."""

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def record(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- CMD ...]", help="Run and profile this.")
    ] = None,
    pids: Annotated[
        str | None,
        typer.Option("-p", "--pid", metavar="PID[,PID]", help="These processes and their children."),
    ] = None,
    cgroup: Annotated[
        str | None, typer.Option("--cgroup", metavar="PATH", help="A cgroup v2 and all below it.")
    ] = None,
    comm: Annotated[
        str | None,
        typer.Option("--comm", metavar="NAME", help="Processes of this command name, also later ones."),
    ] = None,
    everything: Annotated[bool, typer.Option("-a", "--all", help="All processes.")] = False,
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
    arm: Annotated[
        bool,
        typer.Option("--arm", help="Turn NUMA hint faults on for the session: access rates on any machine."),
    ] = False,
    budget_percent: Annotated[
        float,
        typer.Option("--budget", metavar="PCT", help="Slowdown of the target and own CPU time allowed."),
    ] = DEFAULT_BUDGET_PERCENT,
    interval_s: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", help="Time between writes.")
    ] = DEFAULT_INTERVAL_S,
) -> int:
    """Profile processes, a cgroup, a command or everything into a directory.

    Ctrl-C ends the session with a complete profile. With a command, its exit status is passed on.
    """
    started_unix_s = time.time()
    _require(
        duration_s is None or duration_s > 0,
        f"a session cannot last {duration_s} s",
        "give -d a positive number",
    )
    _require(
        0 < budget_percent <= 100,
        f"a budget of {budget_percent} % makes no sense",
        "give more than 0, up to 100",
    )
    _require(interval_s >= 0.1, f"intervals of {interval_s} s are too short", "give --interval at least 0.1")
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
    line = ProgressLine()
    run_info: list[RunInfo] = []

    def open_sink(run: RunInfo) -> ProfileWriter:
        run_info.append(run)
        writer = ProfileWriter(target, run)
        for advice in run.advice:
            print(f"hotpage: {advice}", file=sys.stderr)
        print(f"hotpage: recording {run.target} into {target}; Ctrl-C ends it", file=sys.stderr)
        return writer

    recorder = Recorder(options, open_sink, line.show)
    with stop_on_signals() as stop_reason:
        try:
            end = recorder.run(stop_reason)
        finally:
            line.clear()
    _print_summary(recorder.progress, end, run_info[0], target)
    return end.command_exit_status or 0


def parse_sources(text: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """``hint=kprobe,fault`` -> the names, and the rungs insisted on. Raises UsageError for no name."""
    names, rungs = [], {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, _, rung = word.partition("=")
        names.append(name)
        if rung:
            rungs[name] = rung
    _require(bool(names), "no source is named", "choose from hint, fault, sample")
    return tuple(dict.fromkeys(names)), rungs


def _require(condition: bool, problem: str, remedy: str) -> None:
    if not condition:
        raise UsageError(problem, remedy)


def _selection(
    command: list[str], pids: str | None, cgroup: str | None, comm: str | None, everything: bool
) -> Selection | None:
    given = [bool(command), pids is not None, cgroup is not None, comm is not None, everything]
    _require(
        sum(given) > 0, "nothing to profile", "give one of -p PID, --cgroup PATH, --comm NAME, -a, or -- CMD"
    )
    _require(
        sum(given) == 1,
        "several targets are given",
        "give one of -p PID, --cgroup PATH, --comm NAME, -a, or -- CMD",
    )
    if command:
        return None
    if cgroup is not None:
        return Selection.of_cgroup(cgroup)
    if comm is not None:
        return Selection.of_comm(comm)
    if everything:
        return Selection(everything=True)
    try:
        return Selection.of_pids(int(word) for word in (pids or "").split(","))
    except ValueError:
        raise UsageError(f"'{pids}' is not a list of process ids", "write -p PID or -p PID,PID") from None


class StopReason:
    """Set by a signal, asked by the session."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __call__(self) -> str | None:
        return self.reason


@contextmanager
def stop_on_signals() -> Iterator[StopReason]:
    """The first signal ends the session in good order; a second one of the same kind does what it always
    does. A hang-up that is ignored (nohup) stays so.
    """
    stop = StopReason()
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def note(number: int, _frame: FrameType | None) -> None:
        stop.reason = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ProgressLine:
    """One line on a terminal, rewritten; nothing where standard error is no terminal."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()

    def show(self, progress: Progress) -> None:
        """Rewrite the line."""
        if self._is_terminal:
            received = "  ".join(f"{name} {count:,}" for name, count in progress.received.items())
            lost = sum(progress.lost.values())
            share = 100 * (progress.own_cpu_s + progress.bpf_s) / max(progress.elapsed_s, 1.0)
            text = f"{progress.elapsed_s:6.1f} s  {received}  lost {lost:,}  own CPU {share:.1f} %"
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Make room for other output."""
        if self._is_terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


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
    lines += progress.notes
    if progress.one_in > 1:
        lines.append(f"to stay within the budget, 1 page fault in {progress.one_in} was kept at the end")
    lines.append(f"see it with: hotpage report -i {directory}")
    for text in lines:
        print(f"hotpage: {text}", file=sys.stderr)
