# SPDX-License-Identifier: Apache-2.0
"""What was moved so far, for a view: the newest result of each page, and pages per second."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Int64s
from hotpage.placement.outcome import RESULT_WORDS, MoveOutcome, Outcome, Result

_KEPT_S = 3600.0
_ROW = np.dtype(
    [("vpn", "i8"), ("time_s", "f8"), ("source", "i2"), ("target", "i2"), ("result", "u1")],
)
_Rows = npt.NDArray[Any]


class LastMove(NamedTuple):
    """Of one page."""

    source: int
    target: int
    result: Result
    age_s: float

    @property
    def word(self) -> str:
        """The result in a word or two."""
        return self.result.name.lower().replace("_", " ")

    @property
    def words(self) -> str:
        """The result in full."""
        return RESULT_WORDS[self.result]


@dataclass(frozen=True)
class PageMoves:
    """The newest moves of some pages, those that had any; ``rows`` of the log, ascending by page."""

    rows: _Rows
    now_s: float

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def vpn(self) -> Int64s:
        """The pages."""
        vpn: Int64s = self.rows["vpn"]
        return vpn

    def newest(self, vpn: int) -> LastMove | None:
        """The last move of a page; None if it had none."""
        place = int(np.searchsorted(self.vpn, vpn))
        if place == len(self) or self.vpn[place] != vpn:
            return None
        _, time_s, source, target, result = self.rows[place].tolist()
        return LastMove(source, target, Result(result), self.now_s - time_s)

    @staticmethod
    def none() -> PageMoves:
        """No pages."""
        return PageMoves(np.empty(0, _ROW), 0.0)


class MoveLog:
    """Takes outcomes in one thread and answers in others. 21 bytes a page."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: dict[int, _Rows] = {}
        self._moved: deque[tuple[float, int, int]] = deque()  # when, whose, pages

    def note_moved(self, process: int, pages: int) -> None:
        """So many more pages of a process have moved."""
        now_s = self._clock()
        with self._lock:
            self._moved.append((now_s, process, pages))
            while self._moved[0][0] < now_s - _KEPT_S:
                self._moved.popleft()

    def note(self, outcome: Outcome) -> None:
        """Keep what became of each page that was tried."""
        now_s = self._clock()
        with self._lock:
            for one in outcome.moves:
                new = _rows_of(one, now_s)
                before = self._rows.get(one.move.process, new[:0])
                rows = np.concatenate((before[~np.isin(before["vpn"], new["vpn"])], new))
                self._rows[one.move.process] = rows[np.argsort(rows["vpn"], kind="stable")]

    def of(self, process: int, start_vpn: int, end_vpn: int) -> PageMoves:
        """What became of the pages of a range, those that were to move."""
        with self._lock:
            rows = self._rows.get(process)
        if rows is None:
            return PageMoves.none()
        low, high = np.searchsorted(rows["vpn"], (start_vpn, end_vpn))
        return PageMoves(rows[int(low) : int(high)], self._clock())

    def pages_per_s(self, window_s: float) -> dict[int, float]:
        """Pages moved per second over the last ``window_s``, by process; only those that had any."""
        since_s = self._clock() - window_s
        rates: dict[int, float] = {}
        with self._lock:
            for when_s, process, pages in reversed(self._moved):
                if when_s < since_s:
                    break
                rates[process] = rates.get(process, 0.0) + pages / window_s
        return rates


def _rows_of(outcome: MoveOutcome, now_s: float) -> _Rows:
    """A row for each base page that was tried, in the order of the move."""
    move = outcome.move
    rows = np.empty(len(outcome.results), _ROW)
    rows["vpn"] = move.base_vpn()
    rows["time_s"], rows["result"] = now_s, outcome.results
    rows["source"], rows["target"] = move.source, move.target
    tried: _Rows = rows[outcome.results != Result.UNTRIED]
    return tried
