# SPDX-License-Identifier: Apache-2.0
"""The terminal heat strip: one character per cell, its height the rate's distance from the threshold."""

from __future__ import annotations

import numpy as np

from hotpage.profile.strips import HeatStrip
from hotpage.profile.threshold import Threshold

UNICODE_LEVELS = "·▁▂▃▄▅▆▇█"
ASCII_LEVELS = ".,:-=+*#@"
UNKNOWN = " "
_WARM_LEVEL = 5
_HOT_LEVEL = 6
_STYLES = ("dim", "blue", "blue", "cyan", "cyan", "yellow", "dark_orange", "red", "bold red")


def levels(strip: HeatStrip, threshold: Threshold) -> list[int | None]:
    """Level of each cell: None unknown, 0 silent, 1-4 cold (two octaves each), 5 warm, 6-8 hot (likewise)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.log2(strip.rate_hz / threshold.hot_hz)  # octaves above hot
    hot = np.clip(_HOT_LEVEL + np.floor(above / 2), _HOT_LEVEL, 8)
    cold = np.clip(_WARM_LEVEL + np.floor((above + 1) / 2), 1, _WARM_LEVEL - 1)
    level = np.where(above >= 0, hot, np.where(above >= -1, _WARM_LEVEL, cold))
    known = np.isfinite(strip.rate_hz)
    return [
        int(number) if is_known else 0 if silent else None
        for number, is_known, silent in zip(
            np.where(known, level, 0).tolist(), known.tolist(), strip.silent.tolist(), strict=True
        )
    ]


def characters(cells: list[int | None], unicode: bool) -> str:
    """The strip as text; ASCII where the output's encoding has no blocks."""
    signs = UNICODE_LEVELS if unicode else ASCII_LEVELS
    return "".join(UNKNOWN if level is None else signs[level] for level in cells)


def styles(cells: list[int | None]) -> list[str]:
    """Colour of each cell, as rich names them."""
    return ["dim" if level is None else _STYLES[level] for level in cells]
