# SPDX-License-Identifier: Apache-2.0
"""Which pages something happened to since somebody last asked: their keys, while they are few."""

import numpy as np

from hotpage.arrays import Int64s, first_of_runs


class PageLog:
    """Keys of pages, 8 bytes each. Where they are too many, they are given up: ``is_full``."""

    def __init__(self) -> None:
        self.clear()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 8 * self._count

    def clear(self) -> None:
        """Begin anew."""
        self._parts: list[Int64s] = []
        self._count, self._joined = 0, 0
        self.is_full = False

    def add(self, key: Int64s, most: int) -> None:
        """Take keys (ascending, unique, changed by nobody afterwards); of more than ``most`` keep none."""
        if self.is_full:
            return
        self._parts.append(key)
        self._count += key.size
        if self._count > max(2 * self._joined, most):
            self._parts = [self.keys()]
            self._count = self._joined = self._parts[0].size
            if self._count > most:
                self.clear()
                self.is_full = True

    def keys(self) -> Int64s:
        """All of them, ascending, each once."""
        if len(self._parts) == 1:
            return self._parts[0]
        key = np.concatenate([np.empty(0, dtype=np.int64), *self._parts])
        key.sort()
        return key.take(first_of_runs(key))
