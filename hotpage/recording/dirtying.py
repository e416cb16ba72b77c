# SPDX-License-Identifier: Apache-2.0
"""Which pages of a process's mapped files are dirty, found out a slice at a time: there may be millions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate

from hotpage.machine.dirty import dirty_ranges
from hotpage.machine.sharing import Range

_AT_ONCE = 1 << 15
"""Pages: some 20 ms, in which no ring is emptied."""
_COST_SHARE = 0.002
"""At most this share of the time, for all processes together."""
_SHORTEST_ROUND_S = 2.0
_LONGEST_ROUND_S = 30.0
"""So old is a dirty page when the kernel writes it (vm.dirty_expire_centisecs)."""


class DirtyPages:
    """One process's, round and round. What a round has no time for, and what has not been read yet, counts as
    dirty as a whole.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._pieces: list[Range] = []
        self._found: dict[Range, list[Range]] = {}
        """Of a piece; the one read last is the last."""
        self._cost_s: dict[Range, float] = {}
        self._due_s = 0.0

    def look_within(self, spans: Sequence[Range]) -> None:
        """From now on within these page ranges only, of mappings that have some."""
        pieces = [
            (low, min(low + _AT_ONCE, end)) for start, end in spans for low in range(start, end, _AT_ONCE)
        ]
        # Small ones first: their rounds take no time.
        self._pieces = sorted(pieces, key=lambda piece: (piece[1] - piece[0], piece))
        known = set(pieces)
        self._found = {piece: found for piece, found in self._found.items() if piece in known}
        self._cost_s = {piece: cost_s for piece, cost_s in self._cost_s.items() if piece in known}

    def read(self, now_s: float, watches: int = 1) -> bool:
        """Read the next slice; False if that is not due, or there is none.

        ``watches``: so many share the time that reading may take.
        """
        if now_s < self._due_s or not self._pieces:
            return False
        costs_s = accumulate(self._cost_s.get(piece, 0.0) * watches / _COST_SHARE for piece in self._pieces)
        kept = {
            piece for piece, cost_s in zip(self._pieces, costs_s, strict=True) if cost_s <= _LONGEST_ROUND_S
        }
        self._found = {piece: found for piece, found in self._found.items() if piece in kept}
        unread = [piece for piece in self._pieces if piece in kept and piece not in self._found]
        turn = unread + list(self._found)
        spent_s = 0.0
        sizes = accumulate(end - start for start, end in turn)
        for piece in [piece for piece, size in zip(turn, sizes, strict=True) if size <= _AT_ONCE]:
            begun_s = time.perf_counter()
            self._found.pop(piece, None)
            self._found[piece] = dirty_ranges(self._pid, [piece])
            self._cost_s[piece] = time.perf_counter() - begun_s
            spent_s += self._cost_s[piece]
        if spent_s * watches / _COST_SHARE > _LONGEST_ROUND_S:  # until it is their turn again that is too old
            self._found = {}
        pause_s = 0.0 if len(self._found) < len(kept) else _SHORTEST_ROUND_S
        self._due_s = now_s + max(pause_s, spent_s * watches / _COST_SHARE)
        return True

    @property
    def found(self) -> list[Range]:
        """Those seen to be dirty, in no order; but of a whole slice it may be that nobody tells."""
        return [part for piece, parts in self._found.items() for part in parts if part != piece]

    @property
    def ranges(self) -> list[Range]:
        """Those that are dirty, or may be, in no order."""
        return [part for piece in self._pieces for part in self._found.get(piece, [piece])]
