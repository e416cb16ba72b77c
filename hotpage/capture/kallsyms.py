# SPDX-License-Identifier: Apache-2.0
"""Where functions of the running kernel lie, from /proc/kallsyms."""

from __future__ import annotations

from pathlib import Path


def text_range(name: str, path: Path = Path("/proc/kallsyms")) -> tuple[int, int] | None:
    """First address of a kernel function and of whatever follows it; None if unknown or hidden
    (kptr_restrict).
    """
    try:
        lines = path.read_bytes()
    except OSError:
        return None
    at = max(lines.find(f" {kind} {name}\n".encode()) for kind in "tT")
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
