# SPDX-License-Identifier: Apache-2.0
"""Part files: each written whole under a temporary name, synced, renamed; small neighbours merged later.

A reader at any moment, or after a kill at any moment, finds only complete parts. ``part-000017.parquet``
begins with interval 17; its metadata says with which interval it ends. Merging replaces the first of the
merged parts in one rename and then removes the others: until they are gone they are recognised as covered by
the first.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hotpage.profile.disk import schema

# A day of one-second intervals leaves ~300 files a table instead of 86,400; parts past the size are left
# alone.
MERGE_PARTS = 32
MERGE_BYTES = 4 << 20


@dataclass(frozen=True)
class Part:
    """A part on disk and the intervals it covers."""

    path: Path
    first_interval: int
    last_interval: int
    size_bytes: int
    merges: int  # 0: as first written


class PartWriter:
    """Appends parts to one table's folder. OSErrors pass through; what was written before stays as it was."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: list[Part] = []
        folder.mkdir(exist_ok=True)

    def append(self, table: pa.Table, interval: int) -> None:
        """Write one interval's rows as a part, then merge the newest parts if enough have gathered."""
        self._parts.append(self._write(table, interval, interval, merges=0))
        # Merging is tidying: where it fails (no room for both copies) the parts stay as they are, complete.
        with contextlib.suppress(OSError, pa.ArrowException):
            while len(mergeable := self._mergeable()) == MERGE_PARTS:
                self._merge(mergeable)

    def _mergeable(self) -> list[Part]:
        newest = self._parts[-MERGE_PARTS:]
        same = [part for part in newest if part.merges == newest[-1].merges]
        return same if sum(part.size_bytes for part in same) <= MERGE_BYTES else []

    def _merge(self, parts: list[Part]) -> None:
        table = pa.concat_tables(_read(part.path) for part in parts)
        merged = self._write(table, parts[0].first_interval, parts[-1].last_interval, parts[0].merges + 1)
        self._parts[-len(parts) :] = [merged]
        for part in parts[1:]:
            part.path.unlink()

    def _write(self, table: pa.Table, first_interval: int, last_interval: int, merges: int) -> Part:
        path = self._folder / f"part-{first_interval:06d}.parquet"
        content = encode(table, self._folder.name, first_interval, last_interval)
        write_whole(path, content)
        return Part(path, first_interval, last_interval, len(content), merges)


def _read(path: Path) -> pa.Table:
    """A small part; by this thread alone: a recorder has no use for Arrow's pools of threads."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        return file.read(use_threads=False)


def encode(table: pa.Table, name: str, first_interval: int, last_interval: int) -> memoryview:
    """The bytes of a part; encoded in memory, so that writing can only fail as a file."""
    encodings = dict(schema.ENCODINGS.get(name, {}))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema.with_metadata(schema.metadata(name, first_interval, last_interval)),
        compression="zstd",
        compression_level=schema.COMPRESSION_LEVEL,
        use_dictionary=[column for column in _leaf_columns(table.schema) if column not in encodings],
        column_encoding=encodings or None,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
    return memoryview(sink.getvalue())


def write_whole(path: Path, content: memoryview) -> None:
    """Write, sync and rename; on any failure the temporary file is gone and ``path`` is as before."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _leaf_columns(fields: pa.Schema) -> list[str]:
    return [field.name for field in fields if not pa.types.is_nested(field.type)]
