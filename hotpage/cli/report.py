# SPDX-License-Identifier: Apache-2.0
"""``hotpage report``: show a profile."""

from __future__ import annotations

import csv as csv_format
import sys
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from hotpage.cli.formats import print_json, size_option
from hotpage.errors import ProfileError, UsageError
from hotpage.profile.disk.naming import newest_profile
from hotpage.profile.disk.reader import ProfileReader
from hotpage.profile.snapshot import Snapshot
from hotpage.profile.summary import Summary, summarise
from hotpage.views.rows import COLUMNS, check_key, flat_rows, json_document
from hotpage.views.terminal import print_report
from hotpage.views.units import seconds


class By(StrEnum):
    """What one row of the report stands for."""

    PROCESS = "process"
    VMA = "vma"
    RANGE = "range"
    PAGE = "page"
    NODE = "node"


def report(
    directory: Annotated[
        Path | None,
        typer.Option("-i", "--input", metavar="DIR", help="Profile to read; default: the newest here."),
    ] = None,
    by: Annotated[
        By | None,
        typer.Option("--by", help="One table only, of these; default: processes, mappings, ranges."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("-s", "--sort", metavar="KEY", help="Sort by KEY: hot, accesses, unknown, error..."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", metavar="N", min=0, help="Rows of a table; 0: all.")
    ] = None,
    hot_rate: Annotated[
        float | None, typer.Option(metavar="HZ", help="Hot is from so many accesses/s to a page.")
    ] = None,
    hot_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Hot are the hottest SIZE of memory (64M, 1.5G).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="One flat table, by default of mappings.")] = False,
) -> None:
    """Show a profile: hot, warm, cold and unknown memory of processes and mappings.

    Sizes are in powers of 1024 (K, M, G). Unknown memory is resident but was never observed. IN 1S, 10S, 60S:
    bytes expected to be touched within that time. With -s alone, the mappings are shown.
    """
    if json and csv:
        raise UsageError("--json and --csv exclude each other")
    shown = by.value if by else "vma" if sort or csv else None
    if shown is not None:
        check_key(shown, sort)
    hottest_bytes = _hot_bytes(hot_rate, hot_bytes)
    path = directory if directory is not None else newest_profile(Path.cwd())
    snapshot = ProfileReader(path).snapshot()
    for problem in snapshot.problems:
        typer.echo(f"hotpage: warning: {problem}", err=True)
    if not len(snapshot.pages) and not snapshot.armed and not any(c.received for c in snapshot.usage.sources):
        raise _nothing_observed(path, snapshot)
    summary = summarise(snapshot, hot_rate, hottest_bytes)
    if json:
        print_json(json_document(summary, shown, sort, count))
    elif csv and shown is not None:
        _write_csv(summary, shown, check_key(shown, sort), count)
    else:
        print_report(summary, shown, sort, count)


def _hot_bytes(hot_rate: float | None, hot_bytes: str | None) -> int | None:
    if hot_rate is not None and hot_bytes is not None:
        raise UsageError("--hot-rate and --hot-bytes exclude each other")
    if hot_rate is not None and not 0 < hot_rate < float("inf"):
        raise UsageError(f"--hot-rate {hot_rate:g} is no rate", "give accesses/s to a page, more than 0")
    if hot_bytes is None:
        return None
    return size_option("--hot-bytes", hot_bytes)


def _nothing_observed(path: Path, snapshot: Snapshot) -> ProfileError:
    """An empty profile, and the likeliest cure."""
    cure = "record longer, or while the target works"
    if not snapshot.run.sees_rates:
        cure = next(iter(snapshot.run.advice), "record with --arm")
    return ProfileError(f"{path} is empty, no page was observed in {seconds(snapshot.usage.window_s)}", cure)


def _write_csv(summary: Summary, by: str, key: str, count: int | None) -> None:
    rows = flat_rows(summary, by, key, count or None)
    writer = csv_format.DictWriter(sys.stdout, COLUMNS[by], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_field(value) for name, value in row.items()} for row in rows)


def _csv_field(value: object) -> object:
    """Unknown is an empty field; several values are ``0:4096 1:8192``."""
    if isinstance(value, dict):
        return " ".join(f"{name}:{part}" for name, part in value.items())
    return None if isinstance(value, float) and not isfinite(value) else value
