# SPDX-License-Identifier: Apache-2.0
"""Numbers for people: short, with three digits that count, and never two different addresses alike."""

from __future__ import annotations

import math
from typing import Any

from rich.cells import cell_len, chop_cells, set_cell_size

_BINARY = ("", "K", "M", "G", "T", "P", "E")
_DECIMAL = ("", "k", "M", "G", "T")


def size(count_bytes: float) -> str:
    """Bytes as 0, 512, 4K, 12.5M, 1.25G (powers of 1024), at most five characters."""
    return _scaled(count_bytes, 1024, _BINARY)


def rate(per_s: float) -> str:
    """Per second as 0.02, 3.1, 640, 12.5k, 3.2M (powers of 1000); ? when unknown."""
    if math.isnan(per_s):
        return "?"
    if 0 < per_s < 0.01:
        return "<0.01"
    return _scaled(per_s, 1000, _DECIMAL)


def percent(share: float) -> str:
    """A share as 0 %, 0.4 %, 12 %."""
    if math.isnan(share):
        return "?"
    value = share * 100
    if 0 < value < 0.1:
        return "<0.1 %"
    return f"{value:.1f} %" if 0 < value < 10 else f"{value:.0f} %"


def error(relative: float) -> str:
    """A relative standard error as 25%; ? when unknown."""
    if math.isnan(relative):
        return "?"
    return f"{relative * 100:.0f}%" if relative < 9.995 else ">999%"


def seconds(duration_s: float) -> str:
    """A duration as 0.02 s, 12.5 s, 10 min 0 s."""
    if duration_s < 120:
        return f"{duration_s:.3g} s" if duration_s < 10 else f"{duration_s:.1f} s"
    minutes, rest = divmod(round(duration_s), 60)
    return f"{minutes} min {rest} s"


def address(value: int) -> str:
    """The whole address in hexadecimal."""
    return f"{value:x}"


def address_range(start: int, end: int) -> str:
    """As /proc/PID/maps writes it."""
    return f"{start:x}-{end:x}"


def shorten(text: str, width: int, ellipsis: str = "…") -> str:
    """Cut from the middle to ``width`` cells: both ends of a name tell more than its first half."""
    if cell_len(text) <= width:
        return text
    room = width - len(ellipsis)
    if room < 2:
        return set_cell_size(text, width)
    head = text[: room // 2] if text.isascii() else chop_cells(text, room // 2)[0]
    return head + ellipsis + last_cells(text, room - cell_len(head))


def last_cells(text: str, width: int) -> str:
    """The end of a text that fills at most ``width`` cells of a terminal; some characters take two."""
    start = max(len(text) - width, 0)
    while start < len(text) and cell_len(text[start:]) > width:
        start += 1
    return text[start:]


SIZE_ADVICE = "write it as 4096, 64M or 1.5G"


def parse_size(text: str) -> int:
    """Bytes from 4096, 64K, 1.5G, 200MiB; ValueError for anything else."""
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    factor = 1
    if number and number[-1] in _BINARY[1:]:
        factor = 1024 ** _BINARY.index(number[-1])
        number = number[:-1]
    value = float(number)
    if not 0 < value * factor < 2**63:
        raise ValueError(text)
    return round(value * factor)


def without_nan(value: Any) -> Any:
    """JSON has no NaN: unknown is null."""
    if isinstance(value, dict):
        return {key: without_nan(some) for key, some in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(some) for some in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scaled(value: float, base: int, suffixes: tuple[str, ...]) -> str:
    for suffix in suffixes:
        # Three digits; the next unit as soon as these would round up to four.
        if value < 999.5 or suffix == suffixes[-1]:
            digits = 0 if value >= 99.95 or (not suffix and base == 1024) else 1 if value >= 9.995 else 2
            text = f"{value:.{digits}f}"
            return (text.rstrip("0").rstrip(".") if "." in text else text) + suffix
        value /= base
    raise AssertionError
