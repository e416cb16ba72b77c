# SPDX-License-Identifier: Apache-2.0
"""Sections of a configuration as dataclasses, filled from a document with every problem named by its place.

A section's fields are made by ``key``. Its method ``check``, if it has one, raises ValueError for values that
do not go together. (A library for this would be a fifth of the service's resident memory.)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from functools import cache
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

Place = tuple[str | int, ...]

_WORDS = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list"}
_LIMITS: Sequence[tuple[str, str, Callable[[Any, Any], bool]]] = (  # a NaN keeps to none
    ("at_least", "greater than or equal to", operator.ge),
    ("above", "greater than", operator.gt),
    ("at_most", "less than or equal to", operator.le),
)


class Problem(NamedTuple):
    """What is wrong with the value at a place. ``kind``: "unknown", "missing", "type" or "value"."""

    place: Place
    kind: str
    message: str = ""
    value: Any = None


def key(
    default: Any,
    description: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    read: Callable[[Any], Any] = lambda value: value,
    convert: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """A field of a section; ``default`` MISSING: it must be given.

    ``read`` is given what is written, before its type is looked at; ``convert`` what has the right type. Both
    raise ValueError for what it cannot be.
    """
    metadata = {
        "description": description,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "read": read,
        "convert": convert,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def is_required(one: Field[Any]) -> bool:
    """Whether a field has to be given."""
    return one.default is MISSING and one.default_factory is MISSING


def default_of(one: Field[Any]) -> Any:
    """A field's default."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def section_of(kind: Any) -> type | None:
    """The section that a type is, or that it is a list of."""
    inner = get_args(kind)[0] if get_origin(kind) is list else kind
    return inner if isinstance(inner, type) and is_dataclass(inner) else None


@cache
def kinds_of(section: type) -> Mapping[str, Any]:
    """The types of a section's fields."""
    return get_type_hints(section)


def build(kind: Any, value: Any, place: Place, problems: list[Problem]) -> Any:
    """The value of that type; None, with a problem more, for what makes none."""
    if isinstance(kind, type) and is_dataclass(kind):
        return _section(kind, value, place, problems)
    if get_origin(kind) is list:
        if not isinstance(value, list):
            return _wrong(list, value, place, problems)
        (inner,) = get_args(kind)
        return [build(inner, one, (*place, number), problems) for number, one in enumerate(value)]
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        return _wrong(kind, value, place, problems)
    return float(value) if kind is float else value


def _wrong(kind: type, value: Any, place: Place, problems: list[Problem]) -> None:
    problems.append(Problem(place, "type", f"input should be a valid {_WORDS[kind]}", value))


def _section(section: type, value: Any, place: Place, problems: list[Problem]) -> Any:
    if not isinstance(value, dict):
        problems.append(Problem(place, "type", "input should be a table", value))
        return None
    known = {one.name: one for one in fields(section)}
    before = len(problems)
    problems += [Problem((*place, name), "unknown") for name in value if name not in known]
    values = {}
    for name, one in known.items():
        if name in value:
            values[name] = _field(one, kinds_of(section)[name], value[name], (*place, name), problems)
        elif is_required(one):
            problems.append(Problem((*place, name), "missing"))
    if len(problems) > before:
        return None
    made = section(**values)
    try:
        getattr(made, "check", lambda: None)()
    except ValueError as error:
        problems.append(Problem(place, "value", str(error)))
    return made


def _field(one: Field[Any], kind: Any, value: Any, place: Place, problems: list[Problem]) -> Any:
    before, about = len(problems), one.metadata
    if not about:  # a section
        return build(kind, value, place, problems)
    try:
        made = build(kind, about["read"](value), place, problems)
        if len(problems) == before:
            made = about["convert"](made)
    except (ValueError, OverflowError) as error:  # an integer may be too large for a float
        problems.append(Problem(place, "value", str(error)))
    if len(problems) > before:
        return None
    for name, words, holds in _LIMITS:
        limit = about[name]
        if limit is not None and not holds(made, limit):
            problems.append(Problem(place, "type", f"input should be {words} {limit:g}", value))
            return None
    return made
