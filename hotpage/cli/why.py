# SPDX-License-Identifier: Apache-2.0
"""``hotpage why``: ask the running service why a page is where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hotpage.cli.formats import print_json
from hotpage.cli.privilege import require_root
from hotpage.cli.targets import require
from hotpage.errors import TargetError, UsageError
from hotpage.service.configuration import DEFAULT_FILE, Configuration, load
from hotpage.service.control import ask
from hotpage.service.decisions import lines

_LARGEST_ADDRESS = 1 << 57


def why(
    pid: Annotated[int, typer.Argument(metavar="PID", help="A process that is looked after.")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="In hexadecimal, as report prints it.")],
    state_dir: Annotated[
        Path | None,
        typer.Option("--state-dir", metavar="DIR", help="Of the service; default: as configured."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say why a page is where it is: its rate, the threshold, the last plan's reason, its last moves.

    Asks the ``hotpage auto`` that runs on this machine.
    """
    try:
        number = int(address.removeprefix("0x"), 16)
    except ValueError:
        raise UsageError(f"'{address}' is no address", "write it in hexadecimal, as 7f2a40000000") from None
    require(0 <= number < _LARGEST_ADDRESS, f"'{address}' is no address of a process", "see report --pages")
    require_root("asking the service")
    if state_dir is None:
        configuration = load(DEFAULT_FILE) if DEFAULT_FILE.exists() else Configuration()
        state_dir = Path(configuration.state_dir)
    answer = ask(state_dir, pid, number)
    if json:
        print_json(answer)
    elif "problem" not in answer:
        for line in lines(answer):
            typer.echo(line)
    if "problem" in answer:
        raise TargetError(str(answer["problem"]))
