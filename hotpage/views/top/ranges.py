# SPDX-License-Identifier: Apache-2.0
"""The tables of a mapping's ranges and of a range's pages: rows are made when they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hotpage.arrays import Int64s
from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.chosen import Wish
from hotpage.placement.movelog import PageMoves
from hotpage.placement.outcome import Result
from hotpage.profile.live.view import LiveView
from hotpage.profile.snapshot import VmaRecord
from hotpage.profile.threshold import HeatClass
from hotpage.views import units
from hotpage.views.top.columns import (
    ALERT,
    FAINT,
    HEAT_STYLES,
    PLAIN,
    Cell,
    Column,
    Context,
    Span,
    log_bar,
)
from hotpage.views.top.feed import Feed
from hotpage.views.top.levels import Level, Order, without_tiers


class _LazyRows(Sequence[Any]):
    """Rows in some order of what ``make`` numbers; each is made when it is looked at."""

    def __init__(self, order: Int64s, make: Callable[[int], Any]) -> None:
        self._order, self._make = order, make

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._make(int(one)) for one in self._order[place]]
        return self._make(int(self._order[place]))


class RangeRow(NamedTuple):
    """Pages of similar rate; addresses in bytes."""

    start: int
    end: int
    rate_hz: float
    relative_error: float
    kind: HeatClass

    @property
    def size_bytes(self) -> int:
        """Length."""
        return self.end - self.start


class RangeLevel(Level):
    """The ranges of a mapping."""

    def __init__(self, process: int, record: VmaRecord) -> None:
        super().__init__()
        self.process, self.record = process, record
        self._span_hz = (1.0, 1.0)

    @property
    def title(self) -> str:
        return f"{self.record.vma.name} {units.address(self.record.vma.start)}"

    def columns(self, view: LiveView) -> list[Column]:
        return [
            Column(
                "address",
                "RANGE",
                25,
                lambda row, _width, _context: (units.address_range(row.start, row.end), PLAIN),
                right=False,
                value=lambda runs: runs.start_vpn,
                descending=False,
            ),
            Column(
                "size",
                "SIZE",
                5,
                lambda row, _width, context: (_length(row.size_bytes, context), PLAIN),
                value=lambda runs: runs.pages,
            ),
            _class_column(),
            Column(
                "accesses",
                "ACC/S",
                6,
                lambda row, _width, _context: (units.rate(_accesses(row)), PLAIN),
                value=lambda runs: runs.rate_hz * runs.pages,
            ),
            Column(
                "rate",
                "A PAGE",
                6,
                lambda row, _width, _context: (units.rate(row.rate_hz), PLAIN),
                value=lambda runs: runs.rate_hz,
            ),
            _error_column(),
            Column("bar", "RATE, LOG", 10, self._bar, right=False, most=80, drop=9),
        ]

    def rows(self, feed: Feed, view: LiveView, words: str) -> Sequence[RangeRow]:
        vma = self.record.vma
        runs = feed.ranges(self.process, vma.start, vma.end)
        known = runs.rate_hz[runs.rate_hz > 0]
        self._span_hz = (float(known.min()), float(known.max())) if len(known) else (1.0, 1.0)
        kinds = view.threshold.classes(runs.rate_hz)

        def make(place: int) -> RangeRow:
            start = int(runs.start_vpn[place])
            return RangeRow(
                start * PAGE_BYTES,
                (start + int(runs.pages[place])) * PAGE_BYTES,
                float(runs.rate_hz[place]),
                float(runs.relative_error[place]),
                HeatClass(kinds[place]),
            )

        return _LazyRows(_order(runs, self.columns(view), self.order), make)

    def identity(self, row: RangeRow) -> int:
        return row.start

    def text_of(self, row: RangeRow) -> str:
        return f"{row.start:x} {row.kind.name}"

    def enter(self, row: RangeRow) -> Level | None:
        return PageLevel(self.process, row.start, row.end)

    def wish(self, row: RangeRow, promote: bool, view: LiveView) -> Wish | str:
        return Wish(units.address_range(row.start, row.end), self.process, promote, row.start, row.end)

    def describe(self, row: RangeRow, view: LiveView) -> str:
        pages = row.size_bytes // PAGE_BYTES
        span = units.address_range(row.start, row.end)
        if pages == 1:
            return f"{span}  one page"
        if np.isnan(row.rate_hz):
            return f"{span}  {pages:,} pages, seen, of unknown rate"
        return f"{span}  {pages:,} pages, their rates within a factor of four"

    def _bar(self, row: RangeRow, width: int, context: Context) -> Cell:
        return log_bar(row.rate_hz, *self._span_hz, width, context.unicode), HEAT_STYLES[row.kind]


class PageRow(NamedTuple):
    """One page."""

    vpn: int
    rate_hz: float
    relative_error: float
    latency_s: float
    kind: HeatClass


class PageLevel(Level):
    """The pages of a range."""

    default = Order("address", False)

    def __init__(self, process: int, start: int, end: int) -> None:
        super().__init__()
        self.process, self.start, self.end = process, start, end
        self._feed: Feed | None = None
        self._nodes: dict[int, int | None] = {}
        self._moves = PageMoves.none()

    @property
    def title(self) -> str:
        return f"pages of {units.address_range(self.start, self.end)}"

    def columns(self, view: LiveView) -> list[Column]:
        found = [
            Column(
                "address",
                "PAGE",
                14,
                lambda row, _width, _context: (units.address(row.vpn * PAGE_BYTES), PLAIN),
                right=False,
                value=lambda pages: pages.vpn,
                descending=False,
            ),
            _class_column(),
            Column(
                "rate",
                "ACC/S",
                7,
                lambda row, _width, _context: (units.rate(row.rate_hz), PLAIN),
                value=lambda pages: pages.rate_hz,
            ),
            _error_column(),
            Column(
                "latency",
                "LATENCY",
                8,
                lambda row, _width, _context: (latency(row.latency_s), PLAIN),
                value=lambda pages: pages.latency_s,
                descending=False,
            ),
            Column("node", "NODE", 5, self._node),
            Column("moved", "LAST MOVE", 12, self._last_move, right=False, most=40),
        ]
        return without_tiers(found, view)

    def rows(self, feed: Feed, view: LiveView, words: str) -> Sequence[PageRow]:
        self._feed, self._nodes = feed, {}
        self._moves = feed.page_moves(self.process, self.start, self.end)
        found = feed.pages(self.process, self.start, self.end)
        kinds = view.threshold.classes(found.rate_hz)

        def make(place: int) -> PageRow:
            return PageRow(
                int(found.vpn[place]),
                float(found.rate_hz[place]),
                float(found.relative_error[place]),
                float(found.latency_s[place]),
                HeatClass(kinds[place]),
            )

        return _LazyRows(_order(found, self.columns(view), self.order), make)

    def identity(self, row: PageRow) -> int:
        return row.vpn

    def text_of(self, row: PageRow) -> str:
        return f"{row.vpn * PAGE_BYTES:x}"

    def enter(self, row: PageRow) -> Level | None:
        return None

    def wish(self, row: PageRow, promote: bool, view: LiveView) -> Wish | str:
        start = row.vpn * PAGE_BYTES
        return Wish(f"page {units.address(start)}", self.process, promote, start, start + PAGE_BYTES)

    def describe(self, row: PageRow, view: LiveView) -> str:
        page = f"page {units.address(row.vpn * PAGE_BYTES)}"
        move = self._moves.newest(row.vpn)
        if move is not None:
            return f"{page}  {move.source} to {move.target}, {units.seconds(move.age_s)} ago: {move.words}"
        if np.isnan(row.rate_hz):
            return f"{page}  seen, its rate is not known"
        return f"{page}  {units.rate(row.rate_hz)} accesses/s ± {units.error(row.relative_error)}"

    def prepare(self, rows: Sequence[PageRow]) -> None:
        """Ask for the nodes of the rows on screen, all at once."""
        missing = [row.vpn for row in rows if row.vpn not in self._nodes]
        if missing and self._feed is not None:
            nodes = self._feed.nodes(self.process, np.array(missing, np.int64))
            self._nodes |= dict(zip(missing, nodes, strict=True))

    def _node(self, row: PageRow, _width: int, _context: Context) -> Span:
        node = self._nodes.get(row.vpn)
        return ("-", FAINT) if node is None else (str(node), PLAIN)

    def _last_move(self, row: PageRow, _width: int, context: Context) -> Span:
        move = self._moves.newest(row.vpn)
        if move is None:
            return "-", FAINT
        way = f"{move.source}{'→' if context.unicode else '>'}{move.target}"
        style = PLAIN if move.result is Result.MOVED else ALERT
        return f"{way} {move.word}, {units.seconds(move.age_s)} ago", style


def latency(duration_s: float) -> str:
    """A time from arming to access as 12 us, 3.4 ms, 1.2 s, 2400 s."""
    if np.isnan(duration_s):
        return "-"
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if duration_s * factor < 999.5:
            return f"{duration_s * factor:.3g} {unit}"
    return f"{duration_s:.3g} s" if duration_s < 999.5 else f"{duration_s:.0f} s"


def _order(found: object, columns: Sequence[Column], order: Order) -> Int64s:
    """The places in ``found``, some arrays, in an order; without such a column by address. Unknown ones come
    last.
    """
    values = {column.key: column.value for column in columns if column.value is not None}
    numbers = values.get(order.key, values["address"])(found).astype(np.float64)
    return np.argsort(
        np.where(np.isnan(numbers), np.inf, -numbers if order.descending else numbers), kind="stable"
    )


def _class_column() -> Column:
    return Column(
        "heat",
        "HEAT",
        7,
        lambda row, _width, _context: (row.kind.name.lower(), HEAT_STYLES[row.kind]),
        right=False,
        value=lambda found: found.rate_hz,
    )


def _error_column() -> Column:
    return Column(
        "error",
        "ERROR",
        5,
        lambda row, _width, _context: (units.error(row.relative_error), FAINT),
        value=lambda found: found.relative_error,
        descending=False,
    )


def _length(count_bytes: int, context: Context) -> str:
    return units.rate(count_bytes / PAGE_BYTES) if context.unit == "pages" else units.size(count_bytes)


def _accesses(row: RangeRow) -> float:
    return row.rate_hz * row.size_bytes / PAGE_BYTES
