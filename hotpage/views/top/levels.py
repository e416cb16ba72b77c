# SPDX-License-Identifier: Apache-2.0
"""What a table of top is: rows, columns, their order, and where Enter leads from a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from hotpage.placement.chosen import Wish
from hotpage.profile.live.view import LiveView
from hotpage.views.top.columns import Column
from hotpage.views.top.feed import Feed


class Order(NamedTuple):
    """A column's key, and which end comes first."""

    key: str
    descending: bool = True


class Level(ABC):
    """A table. ``rows`` are made anew at each refresh; what is costly of a row only when it is on screen."""

    default = Order("accesses")
    can_filter = False

    def __init__(self) -> None:
        self.order = self.default

    @property
    @abstractmethod
    def title(self) -> str:
        """Where this is, for the line of headings."""

    @abstractmethod
    def columns(self, view: LiveView) -> list[Column]:
        """All columns, in order."""

    @abstractmethod
    def rows(self, feed: Feed, view: LiveView, words: str) -> Sequence[Any]:
        """The rows in order; ``words`` filter them, where ``can_filter``."""

    @abstractmethod
    def identity(self, row: Any) -> object:
        """What stays the same of a row from one refresh to the next."""

    @abstractmethod
    def enter(self, row: Any) -> Level | None:
        """The table behind a row."""

    @abstractmethod
    def describe(self, row: Any, view: LiveView) -> str:
        """The whole truth about a row, in a line."""

    @abstractmethod
    def wish(self, row: Any, promote: bool, view: LiveView) -> Wish | str:
        """To move the row's memory to faster or slower memory; or why that makes no sense."""

    def prepare(self, rows: Sequence[Any]) -> None:  # noqa: B027 (few have anything to prepare)
        """These rows are about to be shown: ask for what is needed for none but them."""

    def matches(self, row: Any, words: str) -> bool:
        """Whether a search finds the row; ``words`` in lower case, alternatives with ``|`` between."""
        text = self.text_of(row).lower()
        return any(word.strip() in text for word in words.split("|"))

    def text_of(self, row: Any) -> str:
        """What a search looks at."""
        return str(self.identity(row))

    def sorted(self, rows: list[Any], view: LiveView) -> list[Any]:
        """In the order chosen; in the default one from now on if that column is not there."""
        values = {column.key: column.value for column in self.columns(view) if column.value is not None}
        if self.order.key not in values:
            self.order = self.default
        return sorted(rows, key=values[self.order.key], reverse=self.order.descending)


def without_tiers(columns: list[Column], view: LiveView) -> list[Column]:
    """Where all memory is of one kind, nothing can be misplaced, or moved to another."""
    return columns if view.has_tiers else [one for one in columns if one.key not in _OF_TIERS]


_OF_TIERS = ("misplaced", "moves", "moved")


def nodes_of(view: LiveView) -> list[int]:
    """The nodes, if there are several."""
    nodes = sorted(node.node for tier in view.tiers for node in tier.nodes)
    return nodes if len(nodes) > 1 else []
