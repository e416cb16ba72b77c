# SPDX-License-Identifier: Apache-2.0
"""What verbs share that watch processes: the options that name them, and which sources to use."""

from typing import Annotated

import typer

from hotpage.errors import UsageError
from hotpage.recording.selection import Selection

PidsOption = Annotated[
    str | None,
    typer.Option("-p", "--pid", metavar="PID[,PID]", help="These processes and their children."),
]
CgroupOption = Annotated[
    str | None, typer.Option("--cgroup", metavar="PATH", help="A cgroup v2 and all below it.")
]
CommOption = Annotated[
    str | None,
    typer.Option("--comm", metavar="NAME", help="Processes of this command name, also later ones."),
]
EverythingOption = Annotated[bool, typer.Option("-a", "--all", help="All processes.")]
ArmOption = Annotated[
    bool,
    typer.Option("--arm", help="Turn NUMA hint faults on for the session: access rates on any machine."),
]
BudgetOption = Annotated[
    float,
    typer.Option(
        "--budget",
        metavar="PCT",
        help="Slowdown of the target by arming, and CPU time for events (of one CPU), allowed each.",
    ),
]


def require(condition: bool, problem: str, remedy: str) -> None:
    """Raise UsageError unless the condition holds."""
    if not condition:
        raise UsageError(problem, remedy)


def count_named(pids: str | None, cgroup: str | None, comm: str | None, everything: bool) -> int:
    """How many of the target options are given."""
    return sum((pids is not None, cgroup is not None, comm is not None, everything))


def require_one(named: int, remedy: str) -> None:
    """Raise UsageError for more than one target."""
    require(named <= 1, "several targets are given", remedy)


def require_budget(budget_percent: float) -> None:
    """Raise UsageError for a ``--budget`` that makes no sense."""
    require(
        0 < budget_percent <= 100,
        f"a budget of {budget_percent} % makes no sense",
        "give more than 0, up to 100",
    )


def parse_sources(text: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """``hint=kprobe,fault`` -> the names, and the rungs insisted on. Raises UsageError for no name."""
    names, rungs = [], {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, _, rung = word.partition("=")
        names.append(name)
        if rung:
            rungs[name] = rung
    require(bool(names), "no source is named", "choose from hint, fault, sample")
    return tuple(dict.fromkeys(names)), rungs


def parse_selection(pids: str | None, cgroup: str | None, comm: str | None, everything: bool) -> Selection:
    """Whom exactly one of the target options names. Raises UsageError and TargetError."""
    if cgroup is not None:
        return Selection.of_cgroup(cgroup)
    if comm is not None:
        return Selection.of_comm(comm)
    if everything:
        return Selection(everything=True)
    return Selection.of_pids(parse_pids(pids or ""))


def parse_pids(pids: str) -> list[int]:
    """``PID[,PID]`` as numbers. Raises UsageError."""
    try:
        return [int(word) for word in pids.split(",")]
    except ValueError:
        raise UsageError(f"'{pids}' is not a list of process ids", "write -p PID or -p PID,PID") from None
