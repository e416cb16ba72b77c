# SPDX-License-Identifier: Apache-2.0
"""The array types that are passed around (of one dimension, unless said otherwise) and steps numpy lacks."""

from collections.abc import Iterable, Sequence
from dataclasses import Field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Uint8s = npt.NDArray[np.uint8]
Uint16s = npt.NDArray[np.uint16]
Uint32s = npt.NDArray[np.uint32]
Int16s = npt.NDArray[np.int16]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float16s = npt.NDArray[np.float16]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Ticks = npt.NDArray[np.uint32]
"""Times in 1/1024 s since the session's start, plus one: 0 means "never"."""


class Columns:
    """A dataclass of arrays of one length: what stands at a place of one belongs to that of the others."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns())

    def columns(self) -> tuple[npt.NDArray[Any], ...]:
        """All of them, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def take(self, which: slice | Bools | Int64s) -> Self:
        """The rows at some places, or of a mask; copied, but for a slice."""
        if isinstance(which, np.ndarray) and which.dtype != np.bool_:  # take is faster than an index
            return self.with_columns(column.take(which) for column in self.columns())
        return self.with_columns(column[which] for column in self.columns())

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One after the other; at least one."""
        by_column = zip(*(part.columns() for part in parts), strict=True)
        return parts[0].with_columns(np.concatenate(column) for column in by_column)

    def with_columns(self, columns: Iterable[npt.NDArray[Any]]) -> Self:
        """These in place of its columns, in the order of the fields."""
        return replace(self, **dict(zip((field.name for field in fields(self)), columns, strict=True)))


def find(known: Int64s, wanted: Int64s) -> tuple[Int64s, Bools]:
    """(place, found) of each wanted number in ``known``, which ascends; a place not found is any."""
    if not known.size:
        return np.zeros(wanted.size, dtype=np.int64), np.zeros(wanted.size, dtype=np.bool_)
    place = np.searchsorted(known, wanted)
    np.minimum(place, known.size - 1, out=place)
    return place, known.take(place) == wanted


def first_of_runs(values: Int32s | Int64s) -> Int64s:
    """Where each run of equal neighbours begins."""
    is_first = np.empty(len(values), bool)
    is_first[:1] = True
    np.not_equal(values[1:], values[:-1], out=is_first[1:])
    return np.flatnonzero(is_first)


def offsets(counts: Int32s | Int64s) -> Int64s:
    """Where each of parts of these sizes begins, one after the other."""
    before: Int64s = np.cumsum(counts, dtype=np.int64)
    before -= counts
    return before


def aranges(first: Int64s, counts: Int32s | Int64s) -> Int64s:
    """As many numbers as ``counts`` says from each ``first`` on, one after the other."""
    numbers: Int64s = np.repeat(first - offsets(counts), counts)
    numbers += np.arange(numbers.size)
    return numbers
