# SPDX-License-Identifier: Apache-2.0
"""``hotpage doctor``: what works on this machine, what does not, why, and the exact next command."""

import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hotpage import __version__
from hotpage.cli.formats import print_json
from hotpage.recording.checks import Check
from hotpage.recording.diagnosis import Diagnosis, diagnose

_STYLES = {"ok": "green", "limited": "yellow", "no": "red"}
_INDENT = 10
_LEAST_WIDTH = 40
_SUDO_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # Debian's secure_path


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Say what works on this machine, what does not, why, and what to do.

    Every source is loaded and tested for real, which needs root; nothing on the system is changed. The exit
    status is 0 if rates of accesses can be had, else 1.
    """
    program = how_called(sys.argv[0])
    diagnosis = diagnose(program)
    if json:
        print_json(as_json(diagnosis, program), indent=2)
    else:
        console = Console(highlight=False, soft_wrap=True)
        for line in render(diagnosis, program, max(console.width, _LEAST_WIDTH)):
            console.print(line)
    return int(diagnosis.blocker is not None)


def how_called(word: str) -> str:
    """What to write behind sudo, which looks for programs along a path of its own but keeps the directory."""
    if Path(word).name == "__main__.py":
        return f"{_shortest(sys.executable)} -P -m hotpage"
    found = shutil.which(Path(word).name, path=_SUDO_PATH)
    return Path(word).name if found and Path(found).samefile(word) else _shortest(word)


def _shortest(file: str) -> str:
    relative = os.path.relpath(file)
    return relative if os.sep in relative and len(relative) < len(file) else file


def as_json(diagnosis: Diagnosis, program: str) -> dict[str, Any]:
    """Everything in plain types; keys, and names and states of checks, are kept between versions."""
    blocker = diagnosis.blocker
    return {
        "hotpage_version": __version__,
        "kernel_release": platform.release(),
        "architecture": platform.machine(),
        "main_job": {
            "can_run": blocker is None,
            "blocked_by": blocker.name if blocker else None,
            "why": blocker.finding if blocker else None,
            "next_step": blocker.next_step if blocker else f"sudo {program} record --arm -p PID",
        },
        "self_test_s": diagnosis.self_test_s,
        "checks": [asdict(check) for check in diagnosis.checks],
    }


def render(diagnosis: Diagnosis, program: str, width: int) -> Iterator[Text]:
    """The diagnosis in lines of at most ``width``, commands excepted: those are to be copied whole."""
    yield from _wrapped(
        f"hotpage {__version__} on Linux {platform.release()}, {platform.machine()}", width, ""
    )
    yield Text()
    for check in diagnosis.checks:
        yield from _render_check(check, width)
    yield Text()
    if diagnosis.self_test_s is not None:
        took = f"Sources compiled, attached and tested in {diagnosis.self_test_s:.2f} s."
        yield from _wrapped(took, width, "")
    blocker = diagnosis.blocker
    if blocker is None:
        yield Text("Rates of accesses can be had:")
        yield Text(f"sudo {program} record --arm -p PID", "bold")
        return
    yield from _wrapped(f"No rates of accesses can be had: {blocker.name}: {blocker.finding}", width, "")
    if blocker.next_step:
        yield Text(f"next: {blocker.next_step}", "bold")


def _render_check(check: Check, width: int) -> Iterator[Text]:
    """A way of a source is one line if it fits; everything else says first what it is for."""
    indent = " " * _INDENT
    head = Text(f"{check.state:<{_INDENT}}", _STYLES[check.state])
    if "/" in check.name:
        lines = _wrapped(f"{check.name}: {check.finding}", width - 2, indent + "  ")
        yield head + Text("  ") + next(lines)[_INDENT + 2 :]
        yield from lines
        return
    lines = _wrapped(f"{check.name}: {check.purpose}", width, indent)
    first = next(lines)[_INDENT:]
    first.stylize("bold", 0, len(check.name))
    yield head + first
    yield from lines
    yield from _wrapped(check.finding, width, indent)
    if check.next_step and check.state != "ok":
        yield Text(f"{indent}next: {check.next_step}", "bold")


def _wrapped(text: str, width: int, indent: str) -> Iterator[Text]:
    for line in textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent):
        yield Text(line)
