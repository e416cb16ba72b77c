# SPDX-License-Identifier: Apache-2.0
"""The newest rate of every page, changed in place: what a live view adds up at every refresh.

Pages lie in blocks of 64 neighbours, found through a sorted directory. Each block keeps running sums, so that
the heat of any set of address ranges costs a step per block and range, not per page. A page takes 9 bytes in
a full block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Bools, Columns, Float32s, Float64s, Int32s, Int64s, aranges, first_of_runs
from hotpage.heat.halves import narrowed, widened
from hotpage.heat.histogram import BIN_COUNT, rate_bins

_BLOCK_BITS = 6
_BLOCK = 1 << _BLOCK_BITS
_VPN_BITS = 44  # user addresses have at most 56 bits (x86-64 with five levels)
MAX_SLOTS = 1 << (63 - _VPN_BITS)
_ABSENT, _UNKNOWN, _LOWEST = 0, 1, 2
"""In ``_bins``, which holds rate_bins of known rates; the lowest, open bin joins its neighbour."""
_LEVELS = 4
_PRESENT, _KNOWN, _WARM, _HOT = range(_LEVELS)
_OCTAVE_BINS = 4
_IN_CACHE = 1 << 15  # pages replaced in one step
_AT_ONCE = 4096  # blocks copied, counted or cleared in one step: a quarter of a million pages
_SHIFTS = np.array([1, 2, 4, 56], np.uint64)
_MASKS = np.array([0x55, 0x33, 0x0F, 0x01], np.uint64) * np.uint64(0x0101010101010101)
"""To count bits of 64-bit words in pairs, fours and bytes, and those together."""

Bins = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int8]
Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class PageRows(Columns):
    """Pages of one process in order of address."""

    vpn: Int64s
    rate_hz: Float32s  # NaN: the page is there, its rate unknown
    relative_error: Float32s
    latency_s: Float32s  # from arming to the last access seen; NaN: none was


class LivePages:
    """Pages by (slot, vpn); a slot is a small number that stands for a process. Not for several threads."""

    def __init__(self) -> None:
        self._directory = np.empty(0, np.int64)  # block keys, ascending
        self._row = np.empty(0, np.int64)  # of each in the directory: where the block is stored
        self._spare: list[Int64s] = []
        self._used = 0
        self._rate = np.empty(0, np.float32)
        self._error = np.empty(0, np.float16)
        self._latency_s = np.empty(0, np.float16)  # steps of 0.06 us or 0.1 %, up to 18 hours
        self._bins: Bins = np.empty(0, np.uint8)
        # By block: pages present, of known rate, warm or hot, hot; and the sum of known rates.
        self._counts: Counts = np.zeros((_LEVELS, 0), np.int8)
        self._rates = np.zeros(0)
        self._present_upto: Float64s | None = None  # while no page comes or goes
        self._hot_bin = BIN_COUNT
        self._by_bin = np.zeros((0, BIN_COUNT + 1), np.int64)  # by slot: pages that have this in ``_bins``
        self.rate_hz = np.zeros(0)
        """By slot: sum of known rates."""
        self.uncertain_hz = np.zeros(0)
        """By slot: sum of rate x relative error."""

    def __len__(self) -> int:
        return int(self._counts[_PRESENT].sum())

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        arrays = (self._directory, self._row, self._rate, self._error, self._latency_s, self._bins)
        return sum(array.nbytes for array in (*arrays, self._counts, self._rates, self._by_bin))

    @property
    def hot_bin(self) -> int:
        """Pages from this bin on are hot, from an octave below on warm."""
        return self._hot_bin

    def histogram(self) -> Int64s:
        """Pages per bin of heat.histogram, in bin 0 those of unknown rate."""
        count: Int64s = self._by_bin.sum(axis=0)
        count[0], count[_UNKNOWN] = count[_UNKNOWN], 0
        return count

    def by_class(self) -> tuple[Int64s, Int64s, Int64s, Int64s]:
        """By slot: pages that are hot, warm, cold, and of unknown rate."""
        (_, warm), (_, hot) = self._lowest_bins()
        limits = ((hot, BIN_COUNT + 1), (warm, hot), (_LOWEST, warm), (_UNKNOWN, _LOWEST))
        one, two, three, four = (self._by_bin[:, low:past].sum(axis=1) for low, past in limits)
        return one, two, three, four

    def set_hot_bin(self, hot_bin: int) -> None:
        """Change what is hot; costs a pass over all pages if it differs."""
        if hot_bin == self._hot_bin:
            return
        self._hot_bin = hot_bin
        bins = self._bins.reshape(-1, _BLOCK)
        for first in range(0, len(bins), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            for level, lowest in self._lowest_bins():
                self._counts[level, part] = _ones(bins[part] >= lowest)

    def update(self, slot: Int64s, vpn: Int64s, rate_hz: Float32s, relative_error: Float32s) -> None:
        """Take new rates; of several rows of a page, which lie side by side, the last counts."""
        if not len(vpn):
            return
        self._reserve_slots(int(slot.max()) + 1)
        for low in range(0, len(vpn), _IN_CACHE):
            piece = slice(low, low + _IN_CACHE)
            self._update(slot[piece], vpn[piece], rate_hz[piece], relative_error[piece])

    def note_latencies(self, slot: Int64s, vpn: Int64s, latency_s: Float32s) -> None:
        """Take the latencies of accesses in order of time; pages that are not tracked are passed over."""
        place, found = self._locate(key_of(slot, vpn) >> _BLOCK_BITS)
        at = (self._row[place[found]] << _BLOCK_BITS) + (vpn[found] & (_BLOCK - 1))
        self._latency_s[at] = np.minimum(latency_s[found], np.finfo(np.float16).max)

    def clear(self, slot: int, start_vpn: int = 0, end_vpn: int = 1 << _VPN_BITS) -> None:
        """Forget the pages of a range; by default all of the slot's."""
        low, high, start, end = self._span(slot, start_vpn, end_vpn)
        if low == high:
            return
        for first in range(low, high, _AT_ONCE):
            keys, at = self._stored(np.arange(first, min(first + _AT_ONCE, high)), start, end)
            nothing = np.zeros(len(keys), np.float32)
            self._replace(np.full(len(keys), slot), at, np.zeros(len(keys), np.uint8), nothing, nothing)
            self._latency_s[at] = np.nan
        rows = self._row[low:high]
        is_empty = self._counts[_PRESENT, rows] == 0
        if is_empty.any():
            self._rates[rows[is_empty]] = 0.0
            self._spare.append(rows[is_empty])
            keep = np.ones(len(self._directory), bool)
            keep[low:high] = ~is_empty
            self._directory, self._row = self._directory[keep], self._row[keep]

    def pages(self, slot: int, start_vpn: int, end_vpn: int) -> PageRows:
        """A copy of what is known of an address range."""
        return self.sample(slot, start_vpn, end_vpn, 1 << 62)[0]

    def sample(self, slot: int, start_vpn: int, end_vpn: int, blocks: int) -> tuple[PageRows, float]:
        """Pages of at most ``blocks`` evenly picked blocks of a range, and how many each stands for."""
        low, high, start, end = self._span(slot, start_vpn, end_vpn)
        step = max(1, -(-(high - low) // blocks))
        picked = np.arange(low, high, step)
        return self._copy(*self._stored(picked, start, end)), (high - low) / max(len(picked), 1)

    def part(self, after_block: int) -> tuple[int, Int64s, PageRows]:
        """A copy of the pages of the next few thousand blocks with keys above ``after_block`` (at first -1):
        the last key to go on from (-1: that was all), the slot of each page, and the pages.
        """
        low = int(np.searchsorted(self._directory, after_block, side="right"))
        places = np.arange(low, min(low + _AT_ONCE, len(self._directory)))
        keys, at = self._stored(places, 0, np.iinfo(np.int64).max)
        last = int(self._directory[places[-1]]) if len(places) else -1
        return last, keys >> _VPN_BITS, self._copy(keys, at)

    def bounds(self, keys: Int64s) -> Bounds:
        """Addresses to ask about (see ``key_of``); valid until pages change, whatever is called hot."""
        return Bounds(self, keys)

    def bins_between(self, start: Int64s, end: Int64s) -> Float64s:
        """Pages per bin (ranges x bins, the bins of ``histogram``) of ranges of keys; a step per page."""
        count = np.zeros((len(start), BIN_COUNT + 1))
        low = np.searchsorted(self._directory, start >> _BLOCK_BITS)
        blocks = np.searchsorted(self._directory, (end - 1) >> _BLOCK_BITS, side="right") - low
        owner = np.repeat(np.arange(len(start)), blocks)
        place = aranges(low, blocks)
        bins = self._bins.reshape(-1, _BLOCK)
        for first in range(0, len(owner), _AT_ONCE):
            part, of = place[first : first + _AT_ONCE], owner[first : first + _AT_ONCE]
            key = (self._directory[part, None] << _BLOCK_BITS) + np.arange(_BLOCK)
            inside = (key >= start[of, None]) & (key < end[of, None])
            at = bins[self._row[part]] + of[:, None] * (BIN_COUNT + 1)
            np.add.at(count.reshape(-1), at[inside], 1.0)
        count[:, 0] = count[:, _UNKNOWN]
        count[:, _UNKNOWN] = 0.0
        return count

    # Inside

    def _upto(self, by_block: Counts | Float64s, places: Int64s) -> Float64s:
        """What lies in all blocks before some places of the directory."""
        blocks = len(self._row)
        cuts = np.unique(np.append(places, 0))
        inside = cuts[cuts < blocks]
        sums = np.zeros(len(inside) + 1)
        if blocks:
            values = by_block.take(self._row)
            np.cumsum(np.add.reduceat(values, inside, dtype=np.float64), out=sums[1:])
        return sums.take(np.searchsorted(cuts, places))

    def _present_below(self, places: Int64s) -> Float64s:
        """The same of pages, whatever their rate."""
        if self._present_upto is None:
            self._present_upto = np.zeros(len(self._row) + 1)
            np.cumsum(self._counts[_PRESENT].take(self._row), out=self._present_upto[1:])
        return self._present_upto.take(places)

    def _lowest_bins(self) -> tuple[tuple[int, int], ...]:
        return (_WARM, max(self._hot_bin - _OCTAVE_BINS, _LOWEST)), (_HOT, max(self._hot_bin, _LOWEST))

    def _update(self, slot: Int64s, vpn: Int64s, rate_hz: Float32s, relative_error: Float32s) -> None:
        keys = key_of(slot, vpn)
        last = np.append(keys[1:] != keys[:-1], True)
        if not last.all():
            keys, slot, rate_hz, relative_error = keys[last], slot[last], rate_hz[last], relative_error[last]
        new = np.maximum(rate_bins(rate_hz), _LOWEST).astype(np.uint8)
        new[np.isnan(rate_hz)] = _UNKNOWN
        self._replace(slot, self._positions(keys), new, rate_hz, relative_error)

    def _replace(
        self, slot: Int64s, at: Int64s, new: Bins, rate_hz: Float32s, relative_error: Float32s
    ) -> None:
        """Put other values in the place of pages (each once), and correct all sums by the difference."""
        old = self._bins.take(at)
        block = at >> _BLOCK_BITS
        for level, lowest in ((_PRESENT, _UNKNOWN), (_KNOWN, _LOWEST), *self._lowest_bins()):
            is_in = new >= lowest
            moved = np.flatnonzero(is_in != (old >= lowest))
            if len(moved):
                if level == _PRESENT:
                    self._present_upto = None
                step = np.where(is_in[moved], np.int8(1), np.int8(-1))
                np.add.at(self._counts[level], block[moved], step)
        counts, row = self._by_bin.reshape(-1), slot * (BIN_COUNT + 1)
        np.add.at(counts, row + old, -1)
        np.add.at(counts, row + new, 1)
        self._by_bin[:, _ABSENT] = 0
        error = narrowed(relative_error)
        rate, uncertain = _weights(new, rate_hz, error)
        old_rate, old_uncertain = _weights(old, self._rate.take(at), self._error.take(at))
        rate -= old_rate
        uncertain -= old_uncertain
        np.add.at(self._rates, block, rate)
        first = first_of_runs(slot)
        np.add.at(self.rate_hz, slot[first], np.add.reduceat(rate, first))
        np.add.at(self.uncertain_hz, slot[first], np.add.reduceat(uncertain, first))
        self._bins[at], self._rate[at], self._error[at] = new, rate_hz, error

    def _reserve_slots(self, count: int) -> None:
        have = len(self._by_bin)
        if count > have:
            more = max(count, 2 * have) - have
            self._by_bin = np.pad(self._by_bin, ((0, more), (0, 0)))
            self.rate_hz = np.pad(self.rate_hz, (0, more))
            self.uncertain_hz = np.pad(self.uncertain_hz, (0, more))

    def _locate(self, block: Int64s) -> tuple[Int64s, Bools]:
        """Places in the directory, and whether the blocks are there."""
        place = np.searchsorted(self._directory, block)
        if not len(self._directory):
            return place, np.zeros(len(block), bool)
        found: Bools = self._directory.take(place, mode="clip") == block
        return place, found

    def _positions(self, keys: Int64s) -> Int64s:
        """Where pages are stored, with new blocks for those that had none."""
        block = keys >> _BLOCK_BITS
        first = first_of_runs(block)
        blocks = block[first]
        place, found = self._locate(blocks)
        if not found.all():
            missing = np.unique(blocks[~found])
            rows = self._take_rows(len(missing))
            at = np.searchsorted(self._directory, missing)
            self._directory = np.insert(self._directory, at, missing)
            self._row = np.insert(self._row, at, rows)
            place, _ = self._locate(blocks)
        positions = np.repeat(self._row[place] << _BLOCK_BITS, np.diff(first, append=len(keys)))
        positions |= keys & (_BLOCK - 1)
        return positions

    def _take_rows(self, count: int) -> Int64s:
        rows = np.concatenate([*self._spare, np.empty(0, np.int64)])
        if len(rows) < count:
            new = count - len(rows)
            rows = np.concatenate([rows, np.arange(self._used, self._used + new)])
            self._used += new
            self._reserve_rows(self._used)
        self._spare = [rows[count:]] if len(rows) > count else []
        return rows[:count]

    def _reserve_rows(self, count: int) -> None:
        have = len(self._rates)
        if count <= have:
            return
        more = max(count, have + have // 2) - have
        pages = more << _BLOCK_BITS
        self._rate = np.concatenate([self._rate, np.empty(pages, np.float32)])
        self._error = np.concatenate([self._error, np.empty(pages, np.float16)])
        self._latency_s = np.concatenate([self._latency_s, np.full(pages, np.nan, np.float16)])
        self._bins = np.concatenate([self._bins, np.zeros(pages, np.uint8)])
        self._counts = np.pad(self._counts, ((0, 0), (0, more)))
        self._rates = np.pad(self._rates, (0, more))

    def _span(self, slot: int, start_vpn: int, end_vpn: int) -> tuple[int, int, int, int]:
        """A range's part of the directory, and its first key and the last one."""
        start, end = (slot << _VPN_BITS) | start_vpn, (slot << _VPN_BITS) + end_vpn - 1
        low = int(np.searchsorted(self._directory, start >> _BLOCK_BITS))
        high = int(np.searchsorted(self._directory, end >> _BLOCK_BITS, side="right"))
        return low, high, start, end

    def _stored(self, places: Int64s, first_key: int, last_key: int) -> tuple[Int64s, Int64s]:
        """Keys of the pages in some blocks, within limits, and where they are stored."""
        key = ((self._directory[places, None] << _BLOCK_BITS) + np.arange(_BLOCK)).ravel()
        at = ((self._row[places, None] << _BLOCK_BITS) + np.arange(_BLOCK)).ravel()
        wanted = (self._bins[at] != _ABSENT) & (key >= first_key) & (key <= last_key)
        return key[wanted], at[wanted]

    def _copy(self, key: Int64s, at: Int64s) -> PageRows:
        error, latency_s = self._error[at].astype(np.float32), self._latency_s[at].astype(np.float32)
        return PageRows(key & ((1 << _VPN_BITS) - 1), self._rate[at], error, latency_s)


class Bounds:
    """Addresses, looked up in the directory once for several questions about what lies below each."""

    def __init__(self, pages: LivePages, keys: Int64s) -> None:
        self._pages = pages
        self._place, found = pages._locate(keys >> _BLOCK_BITS)
        column = keys & (_BLOCK - 1)
        self._cut = np.flatnonzero(found & (column > 0))
        self._rows = pages._row[self._place[self._cut]]
        self._below = np.arange(_BLOCK) < column[self._cut][:, None]
        self._bins = pages._bins.reshape(-1, _BLOCK).take(self._rows, axis=0)

    def pages(self) -> Float64s:
        """Pages below each address, those of unknown rate included."""
        return self._upto(_PRESENT)

    def known(self) -> Float64s:
        """Of them, those of known rate."""
        return self._upto(_KNOWN)

    def warm(self) -> Float64s:
        """Of them, those that are warm or hot."""
        return self._upto(_WARM)

    def hot(self) -> Float64s:
        """Of them, the hot ones."""
        return self._upto(_HOT)

    def rate_hz(self) -> Float64s:
        """Sum of the known rates below each address."""
        pages = self._pages
        upto = pages._upto(pages._rates, self._place)
        is_below = self._below & (self._bins >= _LOWEST)
        rate_hz = pages._rate.reshape(-1, _BLOCK).take(self._rows, axis=0)
        upto[self._cut] += np.where(is_below, rate_hz, np.float32(0)).sum(axis=1, dtype=np.float64)
        return upto

    def _upto(self, level: int) -> Float64s:
        pages = self._pages
        if level == _PRESENT:
            upto = pages._present_below(self._place)
        else:
            upto = pages._upto(pages._counts[level], self._place)
        lowest = {_PRESENT: _UNKNOWN, _KNOWN: _LOWEST, **dict(pages._lowest_bins())}[level]
        upto[self._cut] += _ones(self._below & (self._bins >= lowest))
        return upto


def _weights(bins: Bins, rate_hz: Float32s, error: Halves) -> tuple[Float64s, Float64s]:
    """What pages add to the sums of rate and of rate x relative error: nothing where the rate is unknown."""
    rate = np.where(bins >= _LOWEST, rate_hz, np.float32(0)).astype(np.float64)
    return rate, rate * widened(error)


def _ones(flags: Bools) -> Int64s:
    """How many of each row of 64 flags are set."""
    words: npt.NDArray[np.uint64] = np.packbits(flags.ravel()).view(np.uint64)
    words = words - (words >> _SHIFTS[0] & _MASKS[0])
    words = (words & _MASKS[1]) + (words >> _SHIFTS[1] & _MASKS[1])
    words = (words + (words >> _SHIFTS[2])) & _MASKS[2]
    count: Int64s = (words * _MASKS[3] >> _SHIFTS[3]).astype(np.int64)
    return count


def key_of(slot: Int64s | Int32s | int, vpn: Int64s) -> Int64s:
    """One integer for a page, ascending by (slot, vpn)."""
    keys: Int64s = (np.asarray(slot, np.int64) << _VPN_BITS) | vpn
    return keys
