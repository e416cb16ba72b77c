# SPDX-License-Identifier: Apache-2.0
"""``hotpage top``: the live view of a session, on the terminal, in a browser, or as lines for scripts."""

from __future__ import annotations

import gc
import os
import sys
import time
from contextlib import nullcontext
from math import inf
from typing import Annotated

import typer

from hotpage.cli.privilege import AS_MODULE, require_root
from hotpage.cli.running import stop_on_signals
from hotpage.cli.targets import (
    ArmOption,
    BudgetOption,
    CgroupOption,
    CommOption,
    PidsOption,
    count_named,
    parse_selection,
    require_budget,
    require_one,
)
from hotpage.cli.topfeed import SessionFeed, TopMoves
from hotpage.errors import MissingDependencyError, UsageError
from hotpage.machine.capabilities import Capability, keep_only
from hotpage.machine.signals import Orders
from hotpage.profile.live.view import LiveView
from hotpage.recording.background import BackgroundSession
from hotpage.recording.recorder import DEFAULT_BUDGET_PERCENT, DEFAULT_INTERVAL_S, Options
from hotpage.recording.selection import Selection
from hotpage.views.terminal import shows_blocks
from hotpage.views.top.levels import Order

_SHORTEST_REFRESH_S = 0.1
_LOOK_S = 0.05
_COLLECT_AFTER = 10_000
_NEEDED_TO_SHOW = (Capability.DAC_OVERRIDE, Capability.DAC_READ_SEARCH, Capability.SYS_PTRACE)
"""Of the thread that draws: a profile may go into somebody's directory, and nodes of pages are asked for."""


def top(
    pids: PidsOption = None,
    cgroup: CgroupOption = None,
    comm: CommOption = None,
    everything: Annotated[bool, typer.Option("-a", "--all", help="All processes (the default).")] = False,
    arm: ArmOption = False,
    budget_percent: BudgetOption = DEFAULT_BUDGET_PERCENT,
    refresh_s: Annotated[
        float, typer.Option("-d", "--delay", metavar="SECONDS", help="Time between refreshes.")
    ] = DEFAULT_INTERVAL_S,
    batch: Annotated[bool, typer.Option("-b", "--batch", help="Print tables, for scripts.")] = False,
    count: Annotated[
        int | None, typer.Option("-n", "--count", metavar="N", min=1, help="With -b: stop after so many.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="With -b: a JSON object a line.")] = False,
    sort: Annotated[
        str, typer.Option("-s", "--sort", metavar="KEY", help="Sort by: accesses, hot, rss, pid, command...")
    ] = "accesses",
    tree: Annotated[bool, typer.Option("-t", "--tree", help="Processes as a tree of their cgroups.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Serve it to a browser on this machine.")] = False,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="With --web; 0: any that is free.")
    ] = 0,
) -> int:
    """Watch processes, a cgroup or everything: which memory is hot, and where it lies.

    Press F1 for the keys, F10 or q to quit. Nothing is written anywhere unless you press R.
    """
    from hotpage.views.top.batch import check_key

    require_budget(budget_percent)
    if not _SHORTEST_REFRESH_S <= refresh_s < inf:
        raise UsageError(
            f"a refresh every {refresh_s} s makes no sense",
            f"give -d at least {_SHORTEST_REFRESH_S}",
        )
    if (json or count is not None) and not batch:
        raise UsageError("--json and -n belong to batch mode", "add -b")
    if web and batch:
        raise UsageError("--web and -b exclude each other")
    order = check_key(sort)
    selection = _selection(pids, cgroup, comm, everything)
    require_root("watching")
    if web:
        return _serve(port)
    if not batch and not _has_screen():
        raise UsageError("top needs a terminal", "use -b to print tables")
    options = Options(
        selection=selection,
        arm=arm,
        budget_percent=budget_percent,
        interval_s=refresh_s,
        command_line=tuple(sys.argv),
        keep_latencies=not batch,
    )
    with stop_on_signals() as stop:
        session = BackgroundSession(options, stop)
        moves = None if batch else TopMoves(session)
        with session.running(), moves.running() if moves is not None else nullcontext():
            keep_only(_NEEDED_TO_SHOW)
            feed = SessionFeed(session, moves)
            if batch:
                _print_batches(feed, stop, order.key, count, json)
            else:
                _run_app(feed, stop, order, tree)
    return 0


def calm_collector() -> None:
    """What is loaded by now stays: no refresh has to wait for the garbage collector to look through it. Most
    of what a refresh makes goes without the collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def _print_batches(feed: SessionFeed, stop: Orders, key: str, count: int | None, json: bool) -> None:
    from hotpage.views.top.batch import json_line, text_block

    shown: LiveView | None = None
    printed = 0
    while (count is None or printed < count) and stop() is None:
        view, is_over = feed.view, not feed.is_running
        if view is None or view is shown:
            if is_over:
                return
            time.sleep(_LOOK_S)
            continue
        shown = view
        status = feed.status()
        text = json_line(view, status, key) if json else text_block(view, status, key, again=printed > 0)
        sys.stdout.write(text)
        sys.stdout.flush()
        printed += 1


def _run_app(feed: SessionFeed, stop: Orders, order: Order, tree: bool) -> None:
    from hotpage.views.top.app import TopApp

    calm_collector()
    for name in ("COLUMNS", "LINES"):  # exported, they would hide that the terminal changes its size
        os.environ.pop(name, None)

    def should_stop() -> str | None:
        return stop() or (None if feed.error is None else "error")

    app = TopApp(feed, should_stop, shows_blocks(), order, tree)
    app.run()
    if app.return_code:
        raise SystemExit(app.return_code)


def _serve(port: int) -> int:
    try:
        from hotpage.views.top.web import serve
    except ImportError:
        raise MissingDependencyError(
            "--web needs textual-serve", f"{sys.executable} -P -m pip install textual-serve"
        ) from None
    words = [word for word in sys.argv[1:] if word != "--web"]
    if "--port" in words:
        place = words.index("--port")
        del words[place : place + 2]
    words = [word for word in words if not word.startswith("--port=")]
    return serve([*AS_MODULE, *words], port)


def _has_screen() -> bool:
    """A terminal, or the browser behind textual-serve."""
    return bool(os.environ.get("TEXTUAL_DRIVER")) or all(
        stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)
    )


def _selection(pids: str | None, cgroup: str | None, comm: str | None, everything: bool) -> Selection:
    named = count_named(pids, cgroup, comm, everything)
    require_one(named, "give one of -p PID, --cgroup PATH, --comm NAME or -a")
    return parse_selection(pids, cgroup, comm, everything=everything or not named)
