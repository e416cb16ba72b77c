# SPDX-License-Identifier: Apache-2.0
"""``hotpage move``: hot pages to fast memory, cold ones out of it; from a profile or a short live look."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from hotpage.cli.formats import print_json, size_option
from hotpage.cli.privilege import require_root
from hotpage.cli.running import ProgressLine, look, stop_on_signals
from hotpage.cli.targets import (
    BudgetOption,
    CgroupOption,
    CommOption,
    EverythingOption,
    PidsOption,
    count_named,
    parse_selection,
    require,
    require_budget,
    require_one,
)
from hotpage.errors import INTERRUPTED, HotpageError, UsageError
from hotpage.machine.folios import PAGE_BYTES
from hotpage.machine.knobs import KnobSession
from hotpage.machine.numa import MovePages, read_watermarks
from hotpage.machine.signals import Orders
from hotpage.machine.tiering import KernelTiering
from hotpage.machine.topology import Topology
from hotpage.placement.budget import free_wanted, room_bytes
from hotpage.placement.movers import MoveProgress, Mover
from hotpage.placement.movers.dry_run import DryRunMover
from hotpage.placement.movers.kernel import KernelMover
from hotpage.placement.movers.move_pages import MovePagesMover
from hotpage.placement.plan import Aim, Plan, Situation
from hotpage.placement.policies import policy
from hotpage.placement.situation import gather
from hotpage.profile.disk.naming import newest_profile
from hotpage.profile.disk.reader import ProfileReader
from hotpage.profile.snapshot import Snapshot
from hotpage.profile.summary import summarise
from hotpage.recording.recorder import DEFAULT_BUDGET_PERCENT, Options
from hotpage.recording.selection import Selection
from hotpage.views.moves import move_document, outcome_lines, plan_lines, why_not_moved
from hotpage.views.units import percent, size

_LOOK_S = 10.0
_MOVERS = ("kernel", "move_pages")
_PROMOTING = ("fit", "random")
"""Policies that demote for the sake of promotions alone."""
_BAR_WIDTH = 30


class NothingMovedError(HotpageError):
    """There was nothing to move, or nothing could be."""


class LookStoppedError(HotpageError):
    """A signal ended the look: a plan by what was seen until then would be a poor one."""

    exit_status = INTERRUPTED


def move(
    directory: Annotated[
        Path | None,
        typer.Option("-i", "--input", metavar="DIR", help="Profile to go by; default: the newest here."),
    ] = None,
    pids: PidsOption = None,
    cgroup: CgroupOption = None,
    comm: CommOption = None,
    everything: EverythingOption = False,
    duration_s: Annotated[
        float,
        typer.Option(
            "-d",
            "--duration",
            metavar="SECONDS",
            help="How long to look at live processes, and for how long the mover kernel may promote.",
        ),
    ] = _LOOK_S,
    budget_percent: BudgetOption = DEFAULT_BUDGET_PERCENT,
    promote: Annotated[bool, typer.Option("--promote", help="Hot pages to fast memory.")] = False,
    demote: Annotated[bool, typer.Option("--demote", help="Cold pages out of fast memory.")] = False,
    pressure: Annotated[
        bool, typer.Option("--pressure", help="The coldest pages off nodes near their low watermark, only.")
    ] = False,
    to: Annotated[
        int | None, typer.Option("--to", metavar="NODE", help="Where to, rather than by tier.")
    ] = None,
    hot: Annotated[
        str | None,
        typer.Option("--hot", metavar="N%|SIZE|RATE/s", help="Hot is this; default: what fits and pays."),
    ] = None,
    policy_name: Annotated[
        str | None,
        typer.Option(
            "--policy", metavar="NAME", help="fit, threshold, cold or random; default: by the others."
        ),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            "--limit",
            metavar="SIZE",
            help="Promote at most so much; with --demote or --pressure, demote at most so much.",
        ),
    ] = None,
    mover_name: Annotated[
        str,
        typer.Option(
            "--mover",
            metavar="NAME",
            help="move_pages, or kernel: promotion and demotion by the kernel, which chooses the pages.",
        ),
    ] = "move_pages",
    seed: Annotated[int, typer.Option("--seed", help="Of the policy random.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would move, and move nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Plan and result, for programs.")] = False,
) -> None:
    """Move hot pages to fast memory, and what they drive out to slow memory.

    By default both ways: what fits fast memory, where a move gains more than it costs. With -p, --cgroup,
    --comm or -a it looks at live processes first (as record --arm does), else it goes by a profile. The exit
    status is 1 if nothing could be moved, and 130 if a signal ended the look.
    """
    live = count_named(pids, cgroup, comm, everything)
    require_one(live, "give one of -p PID, --cgroup PATH, --comm NAME or -a")
    require(not (live and directory), "a profile and a live target exclude each other", "give one of them")
    require(0 < duration_s < inf, f"a look cannot last {duration_s} s", "give -d a positive number")
    require_budget(budget_percent)
    require(
        not (pressure and (promote or hot or policy_name)),
        "--pressure demotes whatever is coldest",
        "leave out --promote, --hot and --policy",
    )
    require(not (policy_name == "cold" and promote), "the policy cold only demotes", "leave out --promote")
    require(
        promote or not demote or policy_name not in _PROMOTING,
        f"the policy {policy_name} demotes only what makes room for promotions",
        "give --promote as well, or --policy cold or threshold",
    )
    require(mover_name in _MOVERS, f"there is no mover '{mover_name}'", f"choose from {', '.join(_MOVERS)}")
    demote |= pressure or policy_name == "cold"
    wanted = _parse_hot(hot)
    most_bytes = size_option("--limit", limit) if limit is not None else inf
    name = policy_name or ("threshold" if hot else "cold" if demote and not promote else "fit")
    make_plan = policy(name)
    require_root("moving pages of other processes")
    topology = Topology.read()
    nodes = {node.id for node in topology.nodes if node.tier is not None}
    require(to is None or to in nodes, f"there is no memory on node {to}", f"choose from {sorted(nodes)}")
    if len(nodes) < 2 and to is None:
        raise NothingMovedError("this machine has one memory node", "there is nowhere to move pages to")
    short = free_wanted(read_watermarks()) if pressure else {}
    if pressure and not short:
        raise NothingMovedError("no node is near its low watermark", "see /proc/zoneinfo")
    with stop_on_signals() as stop_reason:
        if live:
            selection = parse_selection(pids, cgroup, comm, everything)
            snapshot = _look(selection, duration_s, budget_percent, stop_reason)
        else:
            snapshot = ProfileReader(directory or newest_profile(Path.cwd())).snapshot()
        kernel = MovePages()
        gathered = gather(snapshot, kernel, topology)
        for gone in gathered.gone:
            print(f"hotpage: process {gone} has gone, or is another program now", file=sys.stderr)
        aim = Aim(
            promote=promote or not demote,
            demote=demote,
            promote_to=frozenset({to}) if to is not None and not demote else None,
            demote_to=frozenset({to}) if to is not None and demote else None,
            most_bytes=most_bytes,
            free_bytes=short,
            seed=seed,
        )
        plan = make_plan(gathered.situation, _with_hot(aim, wanted, gathered.situation, snapshot, name))
        if not plan.moves:
            if json:
                print_json(move_document(plan, gathered.situation.processes, None))
            else:
                _print_plan(plan, gathered.situation)
            raise NothingMovedError(f"nothing to move: {plan.why_nothing()}")
        if not json:
            _print_plan(plan, gathered.situation)
        if dry_run and mover_name == "kernel":  # not entered, the session of knobs changes nothing
            kernel_mover = KernelMover(KernelTiering(KnobSession(), topology), duration_s)
            kernel_mover.require(plan, gathered.situation.processes)
        line = ProgressLine()
        with _open_mover("dry-run" if dry_run else mover_name, topology, duration_s) as mover:
            outcome = mover.run(
                plan, gathered.situation.processes, stop_reason, lambda progress: line.say(_bar(progress))
            )
        line.clear()
    if json:
        print_json(move_document(plan, gathered.situation.processes, outcome))
    else:
        print()
        for text in outcome_lines(outcome):
            print(text.plain)
    if not dry_run and not outcome.moved_bytes:
        raise NothingMovedError(f"nothing was moved: {why_not_moved(outcome)}")


@contextmanager
def _open_mover(name: str, topology: Topology, promotion_s: float) -> Iterator[Mover]:
    if name == "dry-run":
        yield DryRunMover()
    elif name == "kernel":
        with KnobSession() as knobs:
            yield KernelMover(KernelTiering(knobs, topology), promotion_s)
    else:
        yield MovePagesMover(room_bytes=room_bytes)


def _look(selection: Selection, duration_s: float, budget_percent: float, stop_reason: Orders) -> Snapshot:
    """Profile live processes for a while, with hint faults on. Raises LookStoppedError."""
    options = Options(
        selection=selection,
        duration_s=duration_s,
        arm=True,
        budget_percent=budget_percent,
        command_line=tuple(sys.argv),
    )
    profile, _, progress = look(options, stop_reason)
    if stop_reason() is not None:
        raise LookStoppedError("stopped while looking: nothing was moved")
    for note in (*profile.snapshot().run.advice, *progress.notes):
        print(f"hotpage: {note}", file=sys.stderr)
    return profile.snapshot()


def _parse_hot(text: str | None) -> tuple[str, float] | None:
    """``20%``, ``64M`` or ``100/s`` as its kind and value. Raises UsageError."""
    if text is None:
        return None
    for suffix, kind in (("%", "percent"), ("/s", "rate")):
        if text.endswith(suffix):
            try:
                value = float(text.removesuffix(suffix))
            except ValueError:
                break
            if 0 < value < inf and (kind == "rate" or value <= 100):
                return kind, value
            break
    else:
        return "bytes", size_option("--hot", text)
    raise UsageError(f"--hot {text} makes no sense", "write it as 20%, 64M or 100/s")


def _with_hot(
    aim: Aim, wanted: tuple[str, float] | None, situation: Situation, snapshot: Snapshot, name: str
) -> Aim:
    """The aim with what hot means; for the policy cold by default what ``report`` calls hot."""
    if wanted is None:
        return replace(aim, hot_rate_hz=summarise(snapshot).threshold.hot_hz) if name == "cold" else aim
    kind, value = wanted
    if kind == "rate":
        return replace(aim, hot_rate_hz=value)
    if kind == "percent":
        value *= PAGE_BYTES / 100 * float(situation.candidates.pages.sum(dtype="int64"))
    return replace(aim, hot_bytes=value)


def _bar(progress: MoveProgress) -> str:
    share = progress.settled_bytes / max(progress.requested_bytes, 1)
    filled = round(share * _BAR_WIDTH)
    return (
        f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {percent(share)}  {size(progress.moved_bytes)} moved"
    )


def _print_plan(plan: Plan, situation: Situation) -> None:
    for text in plan_lines(plan, situation.processes):
        print(text.plain)
