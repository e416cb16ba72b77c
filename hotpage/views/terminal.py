# SPDX-License-Identifier: Apache-2.0
"""Standard output as it is: a terminal with its width and colours, or a pipe that wants plain text."""

from __future__ import annotations

import shutil
import sys

from rich.console import Console

from hotpage.profile.summary import Summary
from hotpage.views.report import Report
from hotpage.views.strip import UNICODE_LEVELS

_NARROWEST = 60


def print_report(
    summary: Summary, by: str | None = None, key: str | None = None, count: int | None = None
) -> None:
    """Print the report, or one table of it (views.report.Report), as wide as the terminal."""
    width = max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST)
    view = Report(summary, width, shows_blocks(), by, key, count)
    if not sys.stdout.isatty():
        sys.stdout.writelines(line.plain + "\n" for line in view.lines())
        return
    console = Console(width=width, highlight=False)
    for line in view.lines():
        console.print(line, soft_wrap=True)


def shows_blocks() -> bool:
    """Whether the output's encoding has the strip's block characters."""
    try:
        UNICODE_LEVELS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
