# SPDX-License-Identifier: Apache-2.0
"""The heat table: access rates of pages, updated by batches of events and read as arrays.

How the parts fit together:

    observe/touch --> keys.py (process, vpn) -> int64 --> grouping.py one entry per page
                                                              |
                      dense.py  filled chunks, 15 bytes a page | sparse.py  scattered pages, 23 bytes a page
                                both store columns.py and decay a page when it is next seen
    arm, scan ------> arming.py ranges with arm times, no step per page
    sample ---------> sampling.py memory samples, 24 bytes a sampled page
                                                              |
    rates, take_changes, histogram <-- reading.py, estimator.py
                  take_changes <-- written.py  which pages something happened to since the last call

A chunk (2 MiB of addresses) starts sparse and moves to the dense part when 192 of its 512 pages are known.

``observe`` takes batches of any length and works through them 512 Ki events at a time: for a table far
larger than the caches, more events per pass share cache lines; for the sort, fewer are better. A table is
not safe for use by several threads at once.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Bools, Float32s, Float64s, Int32s, Int64s, Ticks
from hotpage.heat.arming import ArmedPages
from hotpage.heat.columns import PageColumns
from hotpage.heat.dense import CHUNK_BITS, DenseChunks
from hotpage.heat.estimator import relative_error
from hotpage.heat.grouping import TICKS_PER_S, Horizon, PageSums, sort_order, sum_by_page
from hotpage.heat.histogram import (
    BIN_COUNT,
    RateHistogram,
    bin_edges_hz,
    rate_bins,
)
from hotpage.heat.keys import VPN_END, PageKeys
from hotpage.heat.listing import list_rates
from hotpage.heat.reading import (
    Piece,
    PieceRates,
    Scatter,
    dense_pieces,
    pieces_of_rows,
    seen_since,
    single_pages,
    sorted_pieces,
)
from hotpage.heat.results import ArmedRanges, Changes, Rates
from hotpage.heat.sampling import SampledPages
from hotpage.heat.sampling import sum_by_page as sum_samples
from hotpage.heat.sparse import ROW_BITS, SparsePages, crowded_chunks
from hotpage.heat.written import PageLog

EVENTS_AT_ONCE = 1 << 19
COOLING_TURNS, COOLING_ROWS, COOLING_CHANGES = 32, 256, 1 << 16
"""Of the rows of 512 pages that nothing happened to, take_changes looks at one in so many, but at least so
many (128 Ki pages), at others each time. It leaves the rest of them for the next time where so many pages
have changed, as when all memory was armed at once.
"""
MOST_LOGGED, MOST_SAMPLED = 128, 16
"""take_changes looks up written and sampled pages one by one, up to one in so many. Where more were written
it looks at the last access of all pages, and where more were sampled at all of all pages.
"""
CHANGE_BINS = 2
"""Quarter octaves by which a rate must have moved to be a change."""
WARMING, NO_LONGER_WARMING = np.float32(4), np.float32(2)
"""A page warms up once its short rate is so many times the long one, until it is less than the other."""
_REPORTED_UNKNOWN, _HIGHEST_REPORTED = np.uint8(127), np.uint8(126)
_BEFORE_REPORTED = 48
"""In ``reported``: 0, not sent; 127, sent without a rate; else its bin less 48, at least 1, at most 126. So
what happens under 2^-12 Hz (once in 68 minutes) and over 2^19.25 Hz is no change."""
_WARMING_BIT = np.uint8(0x80)
_PAGE_BYTES = 4096
_END_S = (2**32 - 2) / TICKS_PER_S
_NEVER = 2**32 - 1

_Update = Callable[[PageColumns, Int64s, PageSums], int]


def _limits_hz() -> tuple[Float32s, Float32s]:
    """By what was reported last: below what rate a page has cooled, and from what rate on it has warmed."""
    code = np.arange(256) & ~_WARMING_BIT
    edge_hz = bin_edges_hz().astype(np.float32)
    upper = code + _BEFORE_REPORTED
    fallen_hz, risen_hz = edge_hz[upper - CHANGE_BINS], edge_hz[upper + CHANGE_BINS - 1]
    fallen_hz[code <= 1], risen_hz[code >= _HIGHEST_REPORTED] = 0, np.inf
    fallen_hz[(code == 0) | (code == _REPORTED_UNKNOWN)] = np.inf  # any rate is news
    return fallen_hz, risen_hz


_FALLEN_HZ, _RISEN_HZ = _limits_hz()


class HeatTable:
    """Access rates of all pages of all processes over a long and a short horizon.

    ``horizons_s`` are the (short, long) half-lives in seconds. Times are seconds since the session's start,
    up to 2^22 s (48 days); ``process`` is the session's process index and ``vpn`` the address divided by
    4096.
    """

    def __init__(self, horizons_s: tuple[float, float] = (2.0, 20.0)) -> None:
        short_s, long_s = horizons_s
        if not 0 < short_s <= long_s:
            raise ValueError("horizons are two half-lives in seconds, 0 < short <= long")
        self._horizons = (Horizon("long", long_s), Horizon("short", short_s))
        self._keys = PageKeys()
        self._dense = DenseChunks()
        self._sparse = SparsePages()
        self._armed: dict[int, ArmedPages] = {}
        self._scanned: dict[int, ArmedPages] = {}
        """Ranges of which some pages or all were not armed."""
        self._sampled: dict[int, SampledPages] = {}
        self._next_row = 0
        # Pages since changes were last taken: those whose ``last`` tells it, and those that were sampled.
        self._written, self._written_tick, self._resampled = PageLog(), _NEVER, PageLog()

    @property
    def tracked_pages(self) -> int:
        """Pages with state: observed or touched, and not forgotten."""
        return self._dense.pages + self._sparse.pages

    @property
    def nbytes(self) -> int:
        """Bytes held between calls, directories and spare room included."""
        apart = sum(pages.nbytes for pages in chain(self._armed.values(), self._scanned.values()))
        apart += sum(pages.nbytes for pages in self._sampled.values())
        apart += self._written.nbytes + self._resampled.nbytes
        return self._dense.nbytes + self._sparse.nbytes + self._keys.nbytes + apart

    def observe(
        self,
        process: npt.ArrayLike,
        vpn: npt.ArrayLike,
        time_s: npt.ArrayLike,
        exposure_s: npt.ArrayLike,
    ) -> None:
        """Count accesses: the page was armed ``exposure_s`` seconds before it was seen accessed at
        ``time_s``.

        Arrays of equal length, or scalars; any order; a page may occur many times. ValueError for impossible
        pages or times, or NaN.
        """
        key, tick = self._keys_and_ticks(process, vpn, time_s)
        exposure = np.broadcast_to(np.asarray(exposure_s, dtype=np.float32), key.shape)
        if exposure.size and np.isnan(exposure.min()):
            raise ValueError("an access of unknown exposure is no observation: note it with touch")
        for low in range(0, key.size, EVENTS_AT_ONCE):
            some = slice(low, low + EVENTS_AT_ONCE)
            sums = sum_by_page(key[some], tick[some], exposure[some], self._horizons)
            self._apply(sums, lambda columns, index, sums: columns.fold(index, sums, self._horizons))

    def sample(
        self,
        process: int,
        vpn: npt.ArrayLike,
        time_s: npt.ArrayLike,
        weight: npt.ArrayLike,
        since_s: float = 0.0,
    ) -> None:
        """Count memory samples of a process, each standing for ``weight`` accesses that missed the caches.

        Any order; a page may occur many times. ``since_s``: when the process began to be sampled, taken from
        its first call. A page sampled after it was armed is no longer silent, whether or not its hint fault
        was seen: give hint faults of the same time first. ValueError for impossible pages or times.
        """
        key, tick = self._keys_and_ticks(process, vpn, time_s)
        if not key.size:
            return
        pages = np.broadcast_to(np.asarray(vpn, dtype=np.int64), key.shape)
        weights = np.broadcast_to(np.asarray(weight, dtype=np.float32), key.shape)
        sums = sum_samples(pages, tick, weights, self._horizons)
        self._sampled.setdefault(process, SampledPages(since_s)).add(sums, self._horizons)
        key = self._keys.encode(np.full(sums.vpn.size, process, dtype=np.int32), sums.vpn)
        order = sort_order(key)
        key, page, tick = key.take(order), sums.vpn.take(order), sums.last.take(order)
        self._resampled.add(key, self.tracked_pages // MOST_SAMPLED)
        last = self._last(key)
        changes = last == 0
        if process in self._armed:
            known = np.flatnonzero(~changes)
            by_page = known[np.argsort(page[known])]
            armed_s = (
                self._armed[process].first_armings(page[by_page], last[by_page]) if known.size else np.inf
            )
            changes[by_page] = armed_s < (tick[by_page] - np.uint32(1)) / TICKS_PER_S
        if changes.any():
            nothing = np.zeros(int(np.count_nonzero(changes)), dtype=np.float32)
            seen = PageSums(key[changes], tick[changes], (nothing, nothing), (nothing, nothing))
            self._apply(seen, lambda columns, index, sums: columns.renew(index, sums.tick, self._horizons))

    def touch(self, process: npt.ArrayLike, vpn: npt.ArrayLike, time_s: npt.ArrayLike) -> None:
        """Note first touches: the pages exist from ``time_s`` on. That says nothing about their rate.

        Of a page already tracked only the time of the last access moves, so that earlier armings no longer
        count as silence.
        """
        key, tick = self._keys_and_ticks(process, vpn, time_s)
        for low in range(0, key.size, EVENTS_AT_ONCE):
            some = slice(low, low + EVENTS_AT_ONCE)
            page, place = np.unique(key[some], return_inverse=True)
            last = np.zeros(page.size, dtype=np.uint32)
            np.maximum.at(last, place, tick[some])
            nothing = np.zeros(page.size, dtype=np.float32)
            sums = PageSums(page, last, (nothing, nothing), (nothing, nothing))
            self._apply(sums, lambda columns, index, sums: columns.touch(index, sums.tick))

    def arm(self, process: int, start_vpn: int, end_vpn: int, time_s: float) -> None:
        """Note that all pages of [start_vpn, end_vpn) were armed; those still armed stay so since then."""
        self._armed.setdefault(process, ArmedPages()).arm(start_vpn, end_vpn, time_s)

    def scan(self, process: int, start_vpn: int, end_vpn: int, time_s: float) -> None:
        """Note that pages of [start_vpn, end_vpn) may have been armed: a hint fault proves that one was, and
        ``armed_at`` tells since when. Their silence tells nothing.
        """
        self._scanned.setdefault(process, ArmedPages()).arm(start_vpn, end_vpn, time_s)

    def disarm(self, process: int, start_vpn: int, end_vpn: int) -> None:
        """Note that pages of [start_vpn, end_vpn) are not armed after all: their silence tells nothing."""
        _forget(self._armed, process, start_vpn, end_vpn)

    def forget_scans(self, process: int, start_vpn: int, end_vpn: int) -> None:
        """Undo ``scan`` for pages that are armed from now on whenever a scan goes over them."""
        _forget(self._scanned, process, start_vpn, end_vpn)

    def forget(self, process: int, start_vpn: int = 0, end_vpn: int = VPN_END) -> None:
        """Drop everything known of a range of a process (exec, exit, munmap); by default of all of it."""
        for start_key, end_key in self._keys.space_range(process, start_vpn, end_vpn):
            self._dense.remove(start_key, end_key)
            self._sparse.remove(start_key, end_key)
        if start_vpn == 0 and end_vpn >= VPN_END:
            self._keys.release(process)
        for known in (self._armed, self._scanned, self._sampled):
            _forget(known, process, start_vpn, end_vpn)

    def rates(self, process: int, now_s: float, current: bool = False) -> Rates:
        """Rates of every tracked page of a process at ``now_s``.

        ``current``: ``rate_hz`` and its error are the short horizon's where that contradicts the long one.
        """
        dense: list[Iterator[Piece]] = []
        sparse: list[Iterator[Piece]] = []
        limit = 0
        for start_key, end_key in self._keys.space_range(process, 0, VPN_END):
            low, high = np.searchsorted(self._dense.chunks, (start_key >> CHUNK_BITS, end_key >> CHUNK_BITS))
            dense.append(dense_pieces(self._dense, self._keys, np.arange(low, high)))
            limit += int(high - low) << CHUNK_BITS
            for part in self._sparse.parts:
                low, high = np.searchsorted(part.key, (start_key, end_key))
                sparse.append(sorted_pieces(part, self._keys, int(low), int(high)))
        return list_rates(
            (self._rates_of(piece, now_s) for piece in chain.from_iterable(dense)),
            limit,
            (self._rates_of(piece, now_s) for piece in chain.from_iterable(sparse)),
            current,
        )

    def armed_ranges(self, process: int) -> ArmedRanges:
        """What was armed of a process, as disjoint ascending ranges."""
        return self._armed.get(process, ArmedPages()).ranges()

    def armed_at(self, process: int, vpn: npt.ArrayLike, time_s: npt.ArrayLike) -> Float64s:
        """When pages now seen accessed were armed, in seconds: by the first arming or scan after the last
        access.

        ``vpn`` and ``time_s`` (equal lengths, in order of time) are accesses not yet observed; of several to
        one page each counts as the last access for the next. NaN where the page was not armed in between.
        """
        pages = np.asarray(vpn, dtype=np.int64)
        times = np.asarray(time_s, dtype=np.float64)
        armed_s = np.full(pages.shape, np.nan)
        armings = [known[process] for known in (self._armed, self._scanned) if process in known]
        if not armings or not pages.size:
            return armed_s
        key, tick = self._keys_and_ticks(process, pages, times)
        order = sort_order(key)
        key, tick = key.take(order), tick.take(order)
        last = self._last(key)
        is_repeat = key[1:] == key[:-1]
        last[1:][is_repeat] = tick[:-1][is_repeat]
        page = pages.take(order)
        first_s = np.minimum.reduce([armed.first_armings(page, last) for armed in armings])
        armed_s[order] = np.where(first_s <= times.take(order), first_s, np.nan)
        return armed_s

    def take_changes(self, now_s: float, everything: bool = False) -> Changes:
        """Pages whose long rate moved by half an octave since they were last taken, or became known; also
        those that begin or cease to warm up, which the short rate shows first.

        A page that was only touched comes once, with a rate of NaN: it is there, and its rate unknown.
        Looks at the pages written since the last call and in turn at a part of all others, where pages cool
        without events; or at ``everything``, as at the end, when those come as well whose short rate is an
        octave off the long one.
        """
        found: list[Changes] = []
        for piece in self._pieces_to_tell(everything, found):
            rates = self._rates_of(piece, now_s)
            rate = rates.long()
            reported = rates.read("reported")
            code = reported.astype(np.intp)
            moved = (rate < _FALLEN_HZ.take(code, mode="clip")) | (rate >= _RISEN_HZ.take(code, mode="clip"))
            is_unknown = np.isnan(rate)
            if is_unknown.any():
                was_unknown = reported & ~_WARMING_BIT == _REPORTED_UNKNOWN
                # What only samples told becomes unknown again, not cold, once they have faded.
                news = np.where(rates.is_sampled, ~was_unknown, reported == 0)
                moved |= is_unknown & news
            # No page but these can begin to warm up, or cease to.
            asked = moved | (rates.last >= self._written_tick) | (reported >= _WARMING_BIT)
            place = np.flatnonzero(asked | everything)
            if not place.size:
                continue
            pages = piece.some(place)
            some = rates.some(place, pages)
            rate, short = rate.take(place), some.short()
            was_warming = reported.take(place) >= _WARMING_BIT
            is_warming = _is_warming(short, rate, was_warming)
            is_news = moved.take(place) | (is_warming != was_warming)
            if everything:
                is_news |= (short >= 2 * rate) | (2 * short <= rate)
            kept = np.flatnonzero(is_news)
            if kept.size < place.size:
                pages = pages.some(kept)
                some = some.some(kept, pages)
                rate, short, is_warming = rate.take(kept), short.take(kept), is_warming.take(kept)
            codes = np.clip(rate_bins(rate), _BEFORE_REPORTED + 1, _BEFORE_REPORTED + _HIGHEST_REPORTED)
            codes -= np.uint8(_BEFORE_REPORTED)
            codes[np.isnan(rate)] = _REPORTED_UNKNOWN
            codes[is_warming] |= _WARMING_BIT
            pages.home.reported[pages.position] = codes
            found.append(Changes(pages.process, pages.vpn, rate, short, relative_error(some.accesses())))
        changes = Changes.joined([Changes.none(), *found])
        return changes.take(_by_process_and_page(changes.process, changes.vpn))

    def histogram(self, now_s: float) -> RateHistogram:
        """Bytes per quarter octave of the long rate, over all tracked pages of all processes."""
        count = np.zeros(BIN_COUNT + 1, dtype=np.int64)
        for piece in self._pieces():
            count += np.bincount(rate_bins(self._rates_of(piece, now_s).long()), minlength=BIN_COUNT + 1)
        size = count.astype(np.float64) * _PAGE_BYTES
        return RateHistogram(bin_edges_hz(), size[1:], float(size[0]))

    def _keys_and_ticks(
        self, process: npt.ArrayLike, vpn: npt.ArrayLike, time_s: npt.ArrayLike
    ) -> tuple[Int64s, Ticks]:
        processes, pages, times = np.broadcast_arrays(
            np.atleast_1d(np.asarray(process, dtype=np.int32)),
            np.asarray(vpn, dtype=np.int64),
            np.asarray(time_s, dtype=np.float64),
        )
        if times.size and not times.max() < _END_S:
            raise ValueError(f"times must lie before {_END_S:.0f} s of session time")
        ticks = np.maximum(times, 0.0) * TICKS_PER_S
        return self._keys.encode(processes, pages), ticks.astype(np.uint32) + np.uint32(1)

    def _apply(self, sums: PageSums, update: _Update) -> None:
        """Update the pages of a batch where they are stored, and store those that are new."""
        if sums.tick.size:
            self._written_tick = min(self._written_tick, int(sums.tick.min()))
            self._written.add(sums.key, self.tracked_pages // MOST_LOGGED)
        position, is_dense = self._dense.locate(sums.key)
        if is_dense.all():
            self._dense.pages += update(self._dense.columns, position, sums)
            return
        crowded = crowded_chunks(sums.key[~is_dense])
        if crowded.size:
            self._promote(crowded)
            position, is_dense = self._dense.locate(sums.key)
        self._dense.pages += update(self._dense.columns, position[is_dense], sums.select(is_dense))
        rest = sums.select(~is_dense)
        for part in self._sparse.parts:
            position, found = part.locate(rest.key)
            if found.any():
                update(part.columns, position[found], rest.select(found))
                rest = rest.select(~found)
        if rest.key.size:
            self._sparse.fresh.insert(rest.key, PageColumns.of(rest))
        if self._sparse.is_due:
            crowded = self._sparse.settle()
            if crowded.size:
                self._promote(crowded)

    def _promote(self, chunks: Int64s) -> None:
        """Make chunks dense, and move their pages there."""
        self._dense.add(chunks)
        for pages in self._sparse.extract(chunks):
            position, _ = self._dense.locate(pages.key)
            self._dense.columns.put(position, pages.columns)
            self._dense.pages += pages.key.size

    def _pieces(self) -> Iterator[Piece]:
        yield from dense_pieces(self._dense, self._keys, np.arange(self._dense.chunks.size))
        for part in self._sparse.parts:
            yield from sorted_pieces(part, self._keys, 0, part.key.size)

    def _rates_of(self, piece: Piece | Scatter, now_s: float) -> PieceRates:
        return PieceRates(piece, now_s, self._horizons, self._armed, self._sampled)

    def _last(self, key: Int64s) -> Ticks:
        """Last access of ascending pages in ticks, 0 where not tracked."""
        last = np.zeros(key.size, dtype=np.uint32)
        for store in (self._dense, *self._sparse.parts):
            position, found = store.locate(key)
            last[found] = store.columns.last[position[found]]
        return last

    def _pieces_to_tell(self, everything: bool, found: Sequence[Changes]) -> Iterator[Piece | Scatter]:
        """Whole rows of 512 pages whose turn it is, then the pages written or sampled elsewhere. ``found``:
        what has come of those before.
        """
        dense, parts = self._dense, self._sparse.parts
        rows = [dense.chunks.size, *(-(-part.key.size >> ROW_BITS) for part in parts)]
        cuts, count = np.cumsum(rows)[:-1], sum(rows)
        if everything or self._resampled.is_full:
            whole = np.ones(count, dtype=np.bool_)
            yield from self._pieces()
        else:
            whole = np.zeros(count, dtype=np.bool_)
            left = min(max(-(-count // COOLING_TURNS), COOLING_ROWS), count)
            step = min(left, COOLING_ROWS)
            while left and (told := sum(map(len, found))) < COOLING_CHANGES:
                if told < COOLING_CHANGES // 4 and whole.any():  # few change: the rest in long pieces
                    step = left
                some = (self._next_row + np.arange(min(left, step))) % count
                self._next_row = int(some[-1]) + 1
                left -= some.size
                turn = np.zeros(count, dtype=np.bool_)
                turn[some] = True
                yield from pieces_of_rows(dense, self._sparse, self._keys, np.split(turn, cuts))
                whole |= turn
        skipped = np.split(whole, cuts)
        if self._written.is_full:
            yield from seen_since(dense, self._sparse, self._keys, self._written_tick, skipped)
        for log in (self._written, self._resampled):
            yield from single_pages(dense, self._sparse, self._keys, log.keys(), skipped)
        self._written.clear()
        self._resampled.clear()
        self._written_tick = _NEVER


def _forget(
    known: dict[int, ArmedPages] | dict[int, SampledPages], process: int, start_vpn: int, end_vpn: int
) -> None:
    if process in known:
        known[process].forget(start_vpn, end_vpn)
        if known[process].is_empty:
            del known[process]


def _is_warming(short_hz: Float32s, rate_hz: Float32s, was_warming: Bools) -> Bools:
    """By a page's short and long rates, and whether it was warming up when it was last sent."""
    return short_hz >= np.where(was_warming, NO_LONGER_WARMING, WARMING) * rate_hz


def _by_process_and_page(process: Int32s, vpn: Int64s) -> Int64s:
    """The order of pages by (process, vpn); quick where most come in long runs of it, as from rows."""
    if not vpn.size:
        return vpn
    bits = int(vpn.max()).bit_length()
    if int(process.max()) >> (63 - bits):
        return np.lexsort((vpn, process))
    return np.argsort(process.astype(np.int64) << bits | vpn, kind="stable")
