# SPDX-License-Identifier: Apache-2.0
"""Writing a profile: a folder of Parquet parts per table, a part per interval in which the table has rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hotpage.errors import ProfileError
from hotpage.profile.runs import join_neighbours
from hotpage.profile.snapshot import IntervalData, NodeRecord, RunEnd, RunInfo

if TYPE_CHECKING:
    import pyarrow as pa

    from hotpage.profile.disk.parts import PartWriter

_NOTEWORTHY_SHARE = 0.005
"""Nodes are written again when so much of one's memory has become used or free."""


class ProfileWriter:
    """Writes a session interval by interval; a kill loses at most the interval being written.

    Raises ProfileError when the directory exists and is not empty or cannot be made, and later when writing
    fails (disk full, quota): the intervals before that stay readable.
    """

    def __init__(self, directory: Path, run: RunInfo) -> None:
        self.directory = directory
        self._run = run
        self._tables: dict[str, PartWriter] = {}
        self._interval = 0
        self._end_s = 0.0
        self._nodes: Sequence[NodeRecord] = ()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            occupied = any(directory.iterdir())
            if not occupied:
                (directory / "run").mkdir()
        except OSError as error:
            raise ProfileError(
                f"cannot make the profile directory {directory}: {error.strerror}", "choose another with -o"
            ) from error
        if occupied:
            raise ProfileError(
                f"{directory} exists and is not empty", "remove it, or choose another directory with -o"
            )

    def interval(self, data: IntervalData) -> None:
        """Add one interval; on return it is on the disk."""
        # Arrow costs 45 MB of memory: loaded with the first interval, a recorder waiting for events is small.
        from hotpage.profile.disk import schema

        if data.nodes and _is_noteworthy(self._nodes, data.nodes):
            self._nodes = data.nodes
        else:
            data = replace(data, nodes=())
        tables = schema.record_tables(data)
        runs = join_neighbours(data.changes)
        if len(runs):
            tables["pages"] = schema.pages_table(runs, data.end_s)
        if data.armed:
            tables["armed"] = schema.armed_table(data.armed, data.end_s)
        self._interval += 1
        if self._interval == 1:
            self._append("run", schema.run_table(self._run, None))
        for name, table in schema.in_writing_order(tables):
            self._append(name, table)
        self._end_s = data.end_s

    def close(self, end: RunEnd) -> None:
        """Record how the session ended."""
        from hotpage.profile.disk import schema

        self._interval += 1
        self._append("run", schema.run_table(self._run, end))

    def _append(self, name: str, table: pa.Table) -> None:
        from hotpage.profile.disk.parts import PartWriter

        try:
            if name not in self._tables:
                self._tables[name] = PartWriter(self.directory / name)
            self._tables[name].append(table, self._interval)
        except OSError as error:
            raise ProfileError(
                f"cannot write to {self.directory}: {error.strerror or error}; "
                f"the first {self._end_s:.1f} s are kept and readable",
                "free some space or choose another directory with -o",
            ) from error


def _is_noteworthy(before: Sequence[NodeRecord], now: Sequence[NodeRecord]) -> bool:
    """Whether these nodes are others or something has changed of them; of free memory, more than a little."""
    return len(before) != len(now) or any(
        replace(old, free_bytes=new.free_bytes) != new
        or abs(old.free_bytes - new.free_bytes) > new.total_bytes * _NOTEWORTHY_SHARE
        for old, new in zip(before, now, strict=True)
    )
