# SPDX-License-Identifier: Apache-2.0
"""Where functions of the running kernel lie, from /proc/kallsyms."""

from __future__ import annotations

from pathlib import Path

_PART_BYTES = 1 << 18


def text_range(name: str, path: Path = Path("/proc/kallsyms")) -> tuple[int, int] | None:
    """First address of a kernel function and of whatever follows it; None if unknown or hidden
    (kptr_restrict).
    """
    lines, at = b"", -1
    try:
        with path.open("rb") as file:
            # The kernel makes the text up as it is read, 5-10 MB of it, and functions come early in it.
            while at < 0 and (part := file.read(_PART_BYTES)):
                lines += part + file.readline()
                at = max(lines.find(f" {kind} {name}\n".encode()) for kind in "tT")
            lines += file.read(_PART_BYTES) + file.readline()
    except OSError:
        return None
    if at < 0:
        return None
    line_start = lines.rfind(b"\n", 0, at) + 1
    start = int(lines[line_start:at], 16)
    if start == 0:
        return None
    # The file is in address order, so the next higher address ends the function.
    following = lines.find(b"\n", at) + 1
    while following < len(lines):
        next_line = lines.find(b"\n", following) + 1
        address = int(lines[following : lines.index(b" ", following)], 16)
        if address > start:
            return start, address
        following = next_line or len(lines)
    return None
