# SPDX-License-Identifier: Apache-2.0
"""``hotpage restore``: put back the kernel settings that a killed session changed."""

from dataclasses import asdict
from typing import Annotated

import typer

from hotpage.cli.formats import print_json
from hotpage.machine import knobs


def restore(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Put back the kernel settings that a killed session changed.

    Settings that a running session relies on stay as they are, and so do those that somebody else has set
    since. The exit status is 1 if a setting could not be restored.
    """
    outcomes = knobs.restore()
    in_use = [knob for knob in knobs.pending() if knob.pids]
    if json:
        document = {"restored": list(map(asdict, outcomes)), "in_use": list(map(asdict, in_use))}
        print_json(document, indent=2)
    else:
        for outcome in outcomes:
            typer.echo(str(outcome))
        for knob in in_use:
            users = ", ".join(map(str, knob.pids))
            typer.echo(f"{knob.path}: in use by hotpage (pid {users}), which will restore it to {knob.saved}")
        if not outcomes and not in_use:
            typer.echo("Nothing to restore.")
    return int(any(outcome.result == "failed" for outcome in outcomes))
