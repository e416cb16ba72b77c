# SPDX-License-Identifier: Apache-2.0
"""Reading a profile directory, finished or not; damaged and foreign parts are named and left out."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hotpage.errors import ProfileError
from hotpage.heat.results import ArmedRanges
from hotpage.profile.disk import schema
from hotpage.profile.fold import PageFold
from hotpage.profile.runs import PageRuns
from hotpage.profile.snapshot import (
    ClearedRange,
    NodeRecord,
    PageTable,
    ProcessRecord,
    RunEnd,
    RunInfo,
    Snapshot,
    Usage,
    VmaRecord,
)

_PART_NAME = re.compile(r"part-(\d{6,})\.parquet")
_LISTINGS = 5  # the writer may merge parts away while they are read: look again, this often


class _PartProblem(Exception):
    """Why a part is left out."""


class ProfileReader:
    """A profile directory. ``problems`` names the parts that the last ``snapshot`` had to leave out.

    Raises ProfileError when the directory is missing, is no profile, or holds no readable interval.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.problems: list[str] = []
        remedy = "name a profile directory with -i DIR"
        try:
            if not directory.is_dir():
                what = "is not a directory" if directory.exists() else "does not exist"
                raise ProfileError(f"{directory} {what}", remedy)
            if not any((directory / name).is_dir() for name in schema.SCHEMAS):
                raise ProfileError(f"{directory} is not a hotpage profile", remedy)
        except PermissionError as error:
            raise ProfileError(f"{directory} cannot be read ({error.strerror})", "ask whose it is") from error

    def snapshot(self, at_s: float | None = None) -> Snapshot:
        """The final state, or the state at a time of the session (the last interval that ended by then)."""
        for _ in range(_LISTINGS):
            self.problems = []
            try:
                return self._snapshot(np.inf if at_s is None else at_s)
            except FileNotFoundError:
                continue
        raise ProfileError(f"{self.directory} changes while it is read", "try again")

    def _snapshot(self, until_s: float) -> Snapshot:
        usage = self._usage(until_s)
        run, end = self._run()
        pages = self._pages(until_s)
        processes = self._processes(until_s)
        if not usage.intervals and not len(pages):
            detail = "; ".join(self.problems) or "the session ended before its first interval"
            raise ProfileError(f"{self.directory} is an empty profile ({detail})", "record again")
        return Snapshot(
            run=run,
            end=end,
            time_s=usage.end_s if usage.intervals else float(pages.time_s.max()),
            usage=usage,
            processes=processes,
            vmas=self._vmas(until_s),
            pages=pages,
            armed=self._armed(until_s),
            nodes=self._nodes(until_s),
            problems=tuple(self.problems),
        )

    def _run(self) -> tuple[RunInfo, RunEnd | None]:
        run, end = _UNKNOWN_RUN, None
        for table in self._parts("run"):
            for row in table.to_pylist():
                run, end = schema.run_of(row)
        if run is _UNKNOWN_RUN:
            self.problems.append("run: no readable part: how the session was recorded is unknown")
        return run, end

    def _usage(self, until_s: float) -> Usage:
        usage = Usage()
        for table in self._parts("intervals"):
            for row in table.to_pylist():
                if row["end_s"] <= until_s:
                    usage = usage.plus(schema.interval_of(row, PageTable.empty()))
        return usage

    def _processes(self, until_s: float) -> dict[int, ProcessRecord]:
        rows = self._newest("processes", until_s).to_pylist()
        return {row["process"]: schema.process_of(row) for row in rows}

    def _vmas(self, until_s: float) -> dict[int, list[VmaRecord]]:
        vmas: dict[int, list[VmaRecord]] = {}
        for row in self._newest("vmas", until_s).to_pylist():
            vmas.setdefault(row["process"], []).append(schema.vma_of(row))
        return {
            process: sorted(records, key=lambda record: record.vma.start) for process, records in vmas.items()
        }

    def _nodes(self, until_s: float) -> list[NodeRecord]:
        nodes = map(schema.node_of, self._newest("nodes", until_s).to_pylist())
        return sorted(nodes, key=lambda node: node.node)

    def _armed(self, until_s: float) -> dict[int, ArmedRanges]:
        columns = _numpy_columns(self._newest("armed", until_s))
        names = ("start_vpn", "end_vpn", "first_s", "last_s", "passes")
        real = columns["end_vpn"] > columns["start_vpn"]
        armed = {}
        for process in np.unique(columns["process"]):
            mine = (columns["process"] == process) & real
            armed[int(process)] = ArmedRanges(*(columns[name][mine] for name in names))
        return armed

    def _newest(self, name: str, until_s: float) -> pa.Table:
        """The rows of the latest ``time_s`` of each process (of the table, where it knows no processes)."""
        table = pa.concat_tables([schema.SCHEMAS[name].empty_table(), *self._parts(name)])
        table = table.filter(table["time_s"].to_numpy() <= until_s)
        if not len(table):
            return table
        group = (
            table["process"].to_numpy() if "process" in table.column_names else np.zeros(len(table), np.int32)
        )
        time_s = table["time_s"].to_numpy()
        members, member = np.unique(group, return_inverse=True)
        latest_s = np.full(len(members), -np.inf)
        np.maximum.at(latest_s, member, time_s)
        return table.filter(time_s == latest_s[member])

    def _pages(self, until_s: float) -> PageTable:
        fold = PageFold()
        rows = [row for table in self._parts("cleared") for row in table.to_pylist()]
        cleared = deque(sorted(((row.pop("time_s"), row) for row in rows), key=itemgetter(0)))
        for table in self._parts("pages"):
            columns = _numpy_columns(table)
            runs = PageRuns(*(columns[name] for name in schema.SCHEMAS["pages"].names[:-1]))
            times = columns["time_s"]
            if until_s < np.inf:
                past = times <= until_s
                runs, times = runs.take(past), times[past]
            fold.add_runs(runs, times)
            latest_s = times.max(initial=-np.inf)
            while cleared and cleared[0][0] <= latest_s:
                time_s, row = cleared.popleft()
                fold.clear(ClearedRange(**row), time_s)
        for time_s, row in cleared:
            if time_s <= until_s:
                fold.clear(ClearedRange(**row), time_s)
        return fold.table()

    def _parts(self, name: str) -> Iterator[pa.Table]:
        """The readable parts of a table, oldest first; the others go to ``problems``."""
        folder = self.directory / name
        covered = 0
        for path in (
            sorted(folder.glob("*.parquet"), key=lambda path: _part_number(path) or 0)
            if folder.is_dir()
            else []
        ):
            if path.name.startswith("."):
                continue
            number = _part_number(path)
            if number is None:
                self.problems.append(f"{name}/{path.name}: not a name that hotpage gives, left out")
                continue
            if number <= covered:
                continue  # the rest of a merge that was cut short
            try:
                table, last = _read_part(path, name)
            except _PartProblem as problem:
                self.problems.append(f"{name}/{path.name}: {problem}")
                continue
            covered = last
            yield table


def _part_number(path: Path) -> int | None:
    """The interval that a part begins with; None for a file that is none of ours."""
    match = _PART_NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def _read_part(path: Path, name: str) -> tuple[pa.Table, int]:
    """A part's rows and the last interval that it covers."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            stated = {
                key.decode(): value.decode(errors="replace")
                for key, value in (file.schema_arrow.metadata or {}).items()
            }
            if stated.get("format") != schema.FORMAT_MAGIC:
                raise _PartProblem("not a hotpage part, left out")
            version = stated.get("format_version", "")
            if version != str(schema.FORMAT_VERSION):
                raise _PartProblem(
                    f"format version {version}, this hotpage reads {schema.FORMAT_VERSION}; left out"
                )
            if stated.get("table") != name or not file.schema_arrow.equals(schema.SCHEMAS[name]):
                raise _PartProblem(f"a part of another table ({stated.get('table')}), left out")
            last = int(json.loads(stated["intervals"])[1])
            table = file.read()
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise _PartProblem(f"damaged, left out ({str(error).splitlines()[0]})") from error
    if name == "pages" and not _plausible_pages(table):
        raise _PartProblem("damaged, left out (page runs out of range)")
    return table, last


def _plausible_pages(table: pa.Table) -> bool:
    """Whether the runs can be addresses: a run of nonsense length must not be expanded."""
    if not len(table):
        return True
    columns = _numpy_columns(table)
    ends = columns["start_vpn"] + columns["pages"]
    return bool(
        columns["start_vpn"].min() >= 0 and columns["pages"].min() >= 1 and ends.max() <= 1 << schema.VPN_BITS
    )


def _numpy_columns(table: pa.Table) -> dict[str, Any]:
    return {name: table.column(name).to_numpy() for name in table.column_names}


_UNKNOWN_RUN = RunInfo(
    hotpage_version="unknown",
    command_line=(),
    target="unknown",
    started_unix_s=0.0,
    origin_monotonic_ns=0,
    hostname="unknown",
    kernel_release="unknown",
    boot_id="",
    architecture="unknown",
    interval_s=0.0,
    armed=True,  # claims nothing about missing rates
    numa_balancing=None,
    rungs={"hint": "unknown"},
    horizons_s=(0.0, 0.0),
    prior_count=1.0,
    prior_exposure_s=1.0,
)
