# SPDX-License-Identifier: Apache-2.0
"""``hotpage auto``: keep pages where they belong, in the foreground or as a service."""

from __future__ import annotations

import sys
from math import inf
from pathlib import Path
from typing import Annotated, Any

import typer

from hotpage.cli.privilege import require_root
from hotpage.cli.targets import (
    CgroupOption,
    CommOption,
    EverythingOption,
    PidsOption,
    count_named,
    parse_pids,
    require,
    require_one,
)
from hotpage.errors import UsageError
from hotpage.machine.cgroups import cgroup_directory, cgroup_mount
from hotpage.service.configtext import defaults_of
from hotpage.service.configuration import DEFAULT_FILE, ConfigError, Configuration, load
from hotpage.service.loop import selection_of
from hotpage.service.running import Given, become, run

_ONCE_LOOK_S = 10.0


def auto(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help=f"Configuration; default: {DEFAULT_FILE} if it is there."
        ),
    ] = None,
    pids: PidsOption = None,
    cgroup: CgroupOption = None,
    comm: CommOption = None,
    everything: EverythingOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan and say so, and move nothing.")] = False,
    once: Annotated[bool, typer.Option("--once", help="One plan, after a look, and its moves.")] = False,
    look_s: Annotated[
        float | None,
        typer.Option(
            "-d",
            "--duration",
            metavar="SECONDS",
            help=f"With --once: how long to look first; default: {_ONCE_LOOK_S:g}.",
        ),
    ] = None,
    explain: Annotated[
        int | None,
        typer.Option(
            "--explain", metavar="PID", help="With --once: why each part of its memory is where it is."
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print a configuration with every default and its meaning.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Check the configuration, and do nothing.")] = False,
) -> int:
    """Keep pages where they belong: look, plan and move, again and again, until told to stop.

    What to look after is named by options or by a configuration file. SIGHUP reads the file again. The exit
    status is 3 on a machine with one tier of memory, where there is nothing to place.
    """
    named = count_named(pids, cgroup, comm, everything)
    if print_config or check:
        asks_more = bool(named or dry_run or once or look_s is not None or explain is not None)
        asks_more |= print_config and (check or config is not None)
        option, with_it = ("--print-config", "") if print_config else ("--check", " but --config")
        require(not asks_more, f"{option} goes with no other option{with_it}", "leave out the others")
    if print_config:
        sys.stdout.write(defaults_of(Configuration))
        return 0
    if check:
        return _check(config or DEFAULT_FILE)
    require_one(named, "name them in a configuration (--print-config)")
    require(once or explain is None, "--explain belongs to one plan", "add --once")
    require(look_s is None or 0 < look_s < inf, f"a look cannot last {look_s} s", "give -d a positive number")
    require(once or look_s is None, "-d belongs to one plan", "add --once")
    has_file = config is not None or DEFAULT_FILE.exists()
    if not has_file and not named:
        raise UsageError(
            "nothing says what to look after",
            f"give -p PID, --cgroup PATH, --comm NAME or -a, or write {DEFAULT_FILE} (--print-config)",
        )
    given = Given(
        config=str(config or DEFAULT_FILE) if has_file else None,
        targets=_targets(pids, cgroup, comm, everything) if named else None,
        dry_run=dry_run,
        once_after_s=(look_s or _ONCE_LOOK_S) if once else None,
        explain=explain,
    )
    configuration = given.read()
    require_root("keeping pages in place")
    selection_of(configuration)  # what is not there is said before anything starts
    if not once:
        become(given)
    run(given, configuration)
    return 0


def _check(path: Path) -> int:
    try:
        load(path)
    except ConfigError as error:
        for problem in error.problems:
            print(f"hotpage: {problem}", file=sys.stderr)
        return error.exit_status
    typer.echo(f"{path}: no problem found")
    return 0


def _targets(pids: str | None, cgroup: str | None, comm: str | None, everything: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"all": everything}
    if pids is not None:
        document["pids"] = parse_pids(pids)
    if comm is not None:
        document["comms"] = [comm]
    if cgroup is not None:
        document["cgroups"] = [{"path": _as_in_proc(cgroup)}]
    return document


def _as_in_proc(cgroup: str) -> str:
    """The path of a cgroup below the mount, for one given by either. Raises TargetError without one."""
    return "/" + str(cgroup_directory(cgroup).relative_to(cgroup_mount().resolve())).removeprefix(".")
