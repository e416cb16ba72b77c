# SPDX-License-Identifier: Apache-2.0
"""TOML as text: on which line a field stands, and a section's defaults with their comments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from hotpage.service.sections import Place, default_of, is_required, kinds_of, section_of

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_WORD = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_WIDTH = 100


def line_of(text: str, place: Place) -> int:
    """The line (from 1) of a field, or of what it is in where it is not written by itself; 0 if nowhere.

    ``place``: keys, and numbers within arrays, from the top. Values that span lines are passed over as far
    as they do not look like keys.
    """
    lines: dict[Place, int] = {}
    table: Place = ()
    counts: dict[Place, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _words(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                lines.setdefault(table, number)
                table = (*table, counts[table])
            elif table[:-1] in counts:
                table = (*table[:-1], counts[table[:-1]], table[-1])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, *_words(key[1])), number)
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 0)


def _words(dotted: str) -> Place:
    return tuple(word.strip("\"'") for word in _WORD.findall(dotted))


def defaults_of(section: type) -> str:
    """A TOML document with every key of the section at its default, each below its description."""
    return "\n".join([*_section(section, ""), ""])


def _section(section: type, name: str) -> Iterator[str]:
    kinds = kinds_of(section)
    inner = {one.name: kinds[one.name] for one in fields(section) if not one.metadata}
    if name:
        yield from ("", *_comment(section.__doc__ or ""), f"[{name}]")
    for one in fields(section):
        if one.name in inner:
            continue
        yield from _comment(one.metadata["description"])
        yield f"{one.name} = {_toml(default_of(one))}"
        if table := section_of(kinds[one.name]):
            yield from _example(table, f"{name}.{one.name}")
    for key, kind in inner.items():
        yield from _section(kind, f"{name}.{key}".lstrip("."))


def _example(table: type, name: str) -> Iterator[str]:
    """What an array of tables holds; in comments, for an empty array is the default."""
    yield f"# Instead of this line, at the end of the file: [[{name}]] for each, with"
    for one in fields(table):
        value = "..." if is_required(one) else _toml(default_of(one))
        yield f"#   {one.name} = {value}    {one.metadata['description']}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and value >= 1024 and value % 2**20 == 0:
        return f'"{int(value) >> 20}M"'
    return repr(value)
