# SPDX-License-Identifier: Apache-2.0
"""What a Textual application shows, as plain text: read from its screenshot, the one public way to see it."""

import re
from html import unescape
from typing import Any

from textual.app import App

_TEXT = re.compile(r'<text[^>]* x="([\d.]+)"[^>]*clip-path="url\(#[\w-]*line-(\d+)\)"[^>]*>([^<]*)</text>')
_CHARACTER_WIDTH = 12.2  # of rich's SVG


def screen_text(app: App[Any]) -> str:
    """The lines of the screen, without blanks at their ends."""
    rows: dict[int, str] = {}
    for x, line, content in sorted(
        (
            (float(x), int(line), unescape(content))
            for x, line, content in _TEXT.findall(app.export_screenshot())
        )
    ):
        at = round(x / _CHARACTER_WIDTH)
        rows[line] = rows.get(line, "").ljust(at) + content.replace("\xa0", " ")
    return "".join(rows.get(line, "").rstrip() + "\n" for line in range(app.size.height))
