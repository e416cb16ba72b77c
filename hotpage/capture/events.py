# SPDX-License-Identifier: Apache-2.0
"""The layout of bpfprog/hotpage.h as numpy dtypes and Python enums, read from that file itself.

The header is the only definition. It is a small, regular piece of C, so a few lines read it; what they make
of it is compared with a real compiler twice: by a unit test (cc) and, through ``layout_assertions``, every
time the programs are compiled for the kernel.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hotpage.bpfsources import bpf_source_directory

_SCALARS = {
    "__u8": "u1",
    "__u16": "<u2",
    "__u32": "<u4",
    "__u64": "<u8",
    "char": "S",
}
_FIELD = re.compile(r"^(\w+)\s+(\w+)(?:\[(\d+)\])?;$")

Events = NDArray[np.void]
"""A one-dimensional structured array of dtype EVENT_DTYPE."""


def _body(header: str, kind: str, name: str) -> str:
    match = re.search(rf"^{kind} {name} \{{\n(.*?)^\}};", header, re.S | re.M)
    if match is None:
        raise ValueError(f"hotpage.h defines no {kind} {name}")
    return match.group(1)


def parse_struct(header: str, name: str) -> np.dtype[np.void]:
    """The dtype of ``struct name``: C's natural alignment, fields of an anonymous union overlapping.

    Raises ValueError for C that is beyond this reader.
    """
    names: list[str] = []
    formats: list[object] = []
    offsets: list[int] = []
    offset = largest = 0
    union_bytes: int | None = None
    for line in _body(header, "struct", name).splitlines():
        line = line.strip()
        if line == "union {":
            union_bytes = 0
        elif line == "};" and union_bytes is not None:
            offset, union_bytes = offset + union_bytes, None
        elif line:
            match = _FIELD.match(line)
            if match is None or match.group(1) not in _SCALARS:
                raise ValueError(f"struct {name}: cannot read {line!r}")
            c_type, field, count = match.group(1), match.group(2), int(match.group(3) or 1)
            if c_type == "char":
                dtype: np.dtype[np.generic] = np.dtype(f"S{count}")
                alignment = 1
            else:
                scalar: np.dtype[np.generic] = np.dtype(_SCALARS[c_type])
                alignment = scalar.itemsize
                dtype = np.dtype((scalar, (count,))) if match.group(3) else scalar
            offset = -(-offset // alignment) * alignment
            largest = max(largest, alignment)
            names.append(field)
            formats.append(dtype)
            offsets.append(offset)
            if union_bytes is None:
                offset += dtype.itemsize
            else:
                union_bytes = max(union_bytes, dtype.itemsize)
    size = -(-offset // largest) * largest
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


def parse_enum(header: str, name: str) -> dict[str, int]:
    """The members of ``enum name``, without the HOTPAGE_ prefix."""
    members = re.findall(r"^\tHOTPAGE_(\w+) = (\d+),", _body(header, "enum", name), re.M)
    return {member: int(value) for member, value in members}


def _without_comments(source: str) -> str:
    return re.sub(r"/\*.*?\*/", "", source, flags=re.S)


_HEADER = _without_comments((bpf_source_directory() / "hotpage.h").read_text())


def _constant(name: str) -> int:
    match = re.search(rf"^#define HOTPAGE_{name} (\w+?)u?$", _HEADER, re.M)
    if match is None:
        raise ValueError(f"hotpage.h defines no HOTPAGE_{name}")
    return int(match.group(1), 0)


EVENT_DTYPE = parse_struct(_HEADER, "hotpage_event")
CONFIG_DTYPE = parse_struct(_HEADER, "hotpage_config")
COUNTERS_DTYPE = parse_struct(_HEADER, "hotpage_counters")
_OPAQUE = np.dtype(f"V{EVENT_DTYPE.itemsize}")
UNKNOWN_NODE = _constant("UNKNOWN_NODE")

_sources = parse_enum(_HEADER, "hotpage_source")
_flags = parse_enum(_HEADER, "hotpage_flag")
_targets = parse_enum(_HEADER, "hotpage_target")


class EventSource(enum.IntEnum):
    """What a record tells (enum hotpage_source)."""

    HINT_FAULT = _sources["HINT_FAULT"]
    PAGE_FAULT = _sources["PAGE_FAULT"]
    MEMORY_SAMPLE = _sources["MEMORY_SAMPLE"]
    ARM = _sources["ARM"]
    SCAN = _sources["SCAN"]
    SCAN_END = _sources["SCAN_END"]
    SCAN_SKIP = _sources["SCAN_SKIP"]


class EventFlag(enum.IntFlag):
    """How the page was accessed (enum hotpage_flag)."""

    WRITE = _flags["WRITE"]
    MIGRATED = _flags["MIGRATED"]
    HUGE = _flags["HUGE"]
    KERNEL = _flags["KERNEL"]
    PRESENT = _flags["PRESENT"]


class TargetKind(enum.IntEnum):
    """Whose events the programs emit (enum hotpage_target)."""

    NONE = _targets["TARGET_NONE"]
    ALL = _targets["TARGET_ALL"]
    PIDS = _targets["TARGET_PIDS"]
    CGROUP = _targets["TARGET_CGROUP"]
    COMM = _targets["TARGET_COMM"]


def select(events: Events, rows: NDArray[np.bool_]) -> Events:
    """The rows of a mask: as they are if it selects all, as is usual; else a copy, as items without fields,
    which numpy copies eight times faster.
    """
    return events if rows.all() else events.view(_OPAQUE)[rows].view(EVENT_DTYPE)


def join(batches: Sequence[Events]) -> Events:
    """One array of several: numpy's own concatenation would lay overlapping fields side by side."""
    return np.concatenate([batch.view(_OPAQUE) for batch in batches]).view(EVENT_DTYPE)


def layout_assertions() -> str:
    """C that fails to compile where the compiler lays out a shared struct otherwise than these dtypes."""
    lines = []
    for name, dtype in (
        ("hotpage_event", EVENT_DTYPE),
        ("hotpage_config", CONFIG_DTYPE),
        ("hotpage_counters", COUNTERS_DTYPE),
    ):
        lines.append(f'_Static_assert(sizeof(struct {name}) == {dtype.itemsize}, "size of {name}");')
        assert dtype.fields is not None
        for field, (_, offset, *_rest) in dtype.fields.items():
            lines.append(
                f"_Static_assert(__builtin_offsetof(struct {name}, {field}) == {offset}, "
                f'"offset of {name}.{field}");'
            )
    return "\n".join(lines) + "\n"
