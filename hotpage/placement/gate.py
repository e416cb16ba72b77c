# SPDX-License-Identifier: Apache-2.0
"""Whether a move is worth what it costs, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from hotpage.arrays import Bools, Float32s, Float64s, Int16s, Int32s, Int64s, Uint8s, Uint16s
from hotpage.placement.allotment import accepted
from hotpage.placement.plan import Fate, Situation, horizons_s
from hotpage.placement.ranking import KEY_COUNT, OCTAVE, UNKNOWN_KEY, rank_keys

_NO_IDEA = 9.0
"""Relative error where none is known."""
_BOUND_ERRORS, _LONE_ERRORS = 1.25, 2.0
"""Standard errors from a rate to its bounds: in a swap, and of a page that was hardly seen."""
_NOT_SEEN = 0.85
"""Relative error from which on a page was seen less than once lately."""
_HARDLY_SEEN = 0.65
"""Relative error from which on a page was seen accessed less than about twice lately."""
_SAMPLE_ROWS, _LEAST_ROWS, _LEAST_SPREAD = 1 << 16, 64, 1e-6
_Values = TypeVar("_Values", Float32s, Float64s, Bools)


def _log_variance(error: Float32s) -> Float32s:
    """Variance of the logarithm of a rate with a relative error of 1/√(n + 1/2): about 1/(n - 1/2)."""
    squared = error * error
    variance: Float32s = squared / (1 - squared)
    return variance


def _was_seen(rate_hz: Float32s, error: Float32s) -> Bools:
    """Which pages were; of others only an upper limit of the rate is known."""
    seen: Bools = (error < _NOT_SEEN) & (rate_hz > 0)
    return seen


def _bound_hz(rate_hz: Float32s, error: Float32s, errors: float) -> Float32s:
    """So many standard errors away from the rate, on the logarithmic scale."""
    bound: Float32s = rate_hz * np.exp(np.float32(errors) * error)
    return bound


def _some_known(key: Uint16s) -> Int64s:
    """A sample of the rows whose rate is known; any, where there are any."""
    rows = np.arange(0, key.size, max(key.size // _SAMPLE_ROWS, 1))
    known = rows[key.take(rows) < UNKNOWN_KEY]
    if known.size < _LEAST_ROWS:  # they are few, or lie between those: look at all
        known = np.flatnonzero(key < UNKNOWN_KEY)
        known = known[:: max(known.size // _SAMPLE_ROWS, 1)]
    return known


class Gate:
    """Is a move worth it, and sure enough? docs/placement.md, "fit"; all per base page.

    A swap needs a page at least an octave hotter than the one it drives out (hysteresis), the bounds of both
    rates apart, and a gain above the cost of both moves. All that on the logarithmic scale on which rates
    spread, and with what is believed of them: of many pages with the same rate some always seem far hotter
    than others, so a rate is drawn towards the mean of its process, the more the larger its error is beside
    the spread of the process's rates that errors do not explain.
    """

    def __init__(
        self,
        situation: Situation,
        slow: Iterable[int],
        gaps_ns: Callable[[int], Float64s],
        weight: Float32s,
    ) -> None:
        """``slow``: nodes that pages may come from. ``gaps_ns(target)``: what an access gains, by node.

        ``weight``, by process: what an access to its pages counts against others'.
        """
        self._candidates = situation.candidates
        self._costs = situation.costs
        self._gaps_ns = gaps_ns
        self._slow = sorted(slow)
        self._processes = list(situation.processes)
        self._weight = weight
        self._mean_log, self._spread = self._population()
        self._will_be_surer = np.zeros(situation.process_count, np.bool_)
        for process, facts in situation.processes.items():
            self._will_be_surer[process] = facts.will_be_surer
        self._horizon_s = horizons_s(situation)

    def worth_promoting(self, rows: Int64s, target: int) -> Bools:
        """Whether a promotion into free room gains more than it costs."""
        gain_s = self._gain_s(rows, target, self._candidates.rate_hz.take(rows))
        return gain_s > self._costs.margin * self._costs.promotion_s

    def judge(self, rows: Int64s, victims: Int64s, target: int) -> Uint8s:
        """``Fate.MOVED`` for each promotion at the expense of that victim that is worth it, else why not."""
        (hot_hz, hot_error), (cold_hz, cold_error) = self._believed(rows), self._believed(victims)
        weight = self._weights(rows)
        # Between two of one weight it says nothing about what a swap is worth.
        faster_hz = (hot_hz - cold_hz) / np.where(weight == self._weights(victims), weight, np.float32(1))
        sure = _bound_hz(hot_hz, hot_error, -_BOUND_ERRORS) > _bound_hz(cold_hz, cold_error, _BOUND_ERRORS)
        cost_s = self._costs.promotion_s + self._costs.demotion_s
        worth = self._gain_s(rows, target, faster_hz) > self._costs.margin * cost_s
        fates = np.where(worth & (hot_hz >= 2 * cold_hz), Fate.MOVED, Fate.NOT_WORTH_IT).astype(np.uint8)
        fates[accepted(fates) & ~sure] = Fate.UNCERTAIN
        return fates

    def surest_first(self, rows: Int64s, victims: Int64s) -> tuple[Int64s, Int64s]:
        """``rows`` by descending lower bounds, and the order of victims by ascending upper ones."""
        lower = np.uint16(KEY_COUNT - 1) - rank_keys(_bound_hz(*self._believed(rows), -_BOUND_ERRORS))
        upper = rank_keys(_bound_hz(*self._believed(victims), _BOUND_ERRORS))
        return rows.take(np.argsort(lower, kind="stable")), np.argsort(upper, kind="stable")

    def is_hot_for_sure(self, rows: Int64s, key: Uint16s, hot_key: int) -> Bools:
        """Whether a page was seen more than once, or its rate's lower bound is hot as well.

        Or no pass over its process is waited for that would make it surer.
        """
        error = self._errors(rows)
        waits = self._of(self._will_be_surer, self._processes, self._candidates.process, rows)
        lower = key.take(rows) - error * np.float32(_LONE_ERRORS * OCTAVE / np.log(2))
        sure: Bools = (error < _HARDLY_SEEN) | (lower >= hot_key) | ~waits
        return sure

    def is_cooling(self, rows: Int64s, key: Uint16s, hot_key: int, least_hz: float) -> Bools:
        """By the short horizon, which has seen less than half of what the long one has, it is not hot.

        As many pages are hot by the short horizon as by the long one, but none under ``least_hz``. So when a
        process, or the machine, has stood still for a moment, for then the rates of all hot pages fall alike.
        """
        short_hz = self._candidates.rate_short_hz
        falling: Bools = short_hz.take(rows) < self._candidates.rate_hz.take(rows) / 2
        if falling.any():
            known = _some_known(key)
            rates_hz = np.sort(np.nan_to_num(short_hz.take(known) * self._weights(known)))
            hot = int(np.count_nonzero(key.take(known) >= hot_key))
            least_hz = max(float(rates_hz[-max(hot, 1)]), least_hz)
            falling &= short_hz.take(rows) * self._weights(rows) < least_hz
        return falling

    def _weights(self, rows: Int64s) -> Float32s:
        return self._of(self._weight, self._processes, self._candidates.process, rows)

    def _errors(self, rows: Int64s) -> Float32s:
        return np.nan_to_num(self._candidates.relative_error.take(rows), nan=_NO_IDEA)

    def _population(self) -> tuple[Float32s, Float32s]:
        """By process: the mean logarithm of its rates, and the variance that their errors do not explain.

        Of a sample of the pages that were seen. Infinite where they are too few to say.
        """
        count = self._weight.size
        mean, spread = np.zeros(count, np.float32), np.full(count, np.inf, np.float32)
        both = np.array([[one, one + 1] for one in self._processes], np.int32).reshape(-1, 2)
        bounds = np.searchsorted(self._candidates.process, both)
        for process, (low, high) in zip(self._processes, bounds.tolist(), strict=True):
            rows = np.arange(low, high, max((high - low) // _SAMPLE_ROWS, 1))
            rate_hz, error = self._candidates.rate_hz.take(rows), self._errors(rows)
            seen = _was_seen(rate_hz, error)
            if np.count_nonzero(seen) >= _LEAST_ROWS:
                logs = np.log(rate_hz[seen].astype(np.float64))
                noise = _log_variance(error[seen]).mean(dtype=np.float64)
                mean[process], spread[process] = logs.mean(), max(logs.var() - noise, _LEAST_SPREAD)
        return mean, spread

    def _believed(self, rows: Int64s) -> tuple[Float32s, Float32s]:
        """Weighted rates and their errors with regard to the process's (empirical Bayes on logarithms)."""
        rate_hz, error = self._believed_alone(rows)
        return rate_hz * self._weights(rows), error

    def _believed_alone(self, rows: Int64s) -> tuple[Float32s, Float32s]:
        rate_hz, error = self._candidates.rate_hz.take(rows), self._errors(rows)
        seen = np.flatnonzero(_was_seen(rate_hz, error))
        some = rows.take(seen)
        spread = self._of(self._spread, self._processes, self._candidates.process, some)
        if not np.isfinite(spread).any():
            return rate_hz, error
        mean = self._of(self._mean_log, self._processes, self._candidates.process, some)
        weight = 1 / (1 + _log_variance(error.take(seen)) / spread)
        rate_hz[seen] = np.exp(mean + weight * (np.log(rate_hz.take(seen)) - mean))
        error[seen] *= np.sqrt(weight)
        return rate_hz, error

    def _gain_s(self, rows: Int64s, target: int, faster_hz: Float32s | Float64s) -> Float64s:
        worth_s = self._of(self._gaps_ns(target) * 1e-9, self._slow, self._candidates.node, rows)
        worth_s = worth_s * self._of(self._horizon_s, self._processes, self._candidates.process, rows)
        gain: Float64s = faster_hz * worth_s
        return gain

    @staticmethod
    def _of(values: _Values, possible: list[int], index: Int16s | Int32s, rows: Int64s) -> _Values:
        """``values`` by the index of each of ``rows``; one for all where all that are possible are equal.

        That is most often so, and reading in the order of heat misses the caches.
        """
        first = values[possible[:1]]
        return first if (values[possible] == first).all() else values.take(index.take(rows))
