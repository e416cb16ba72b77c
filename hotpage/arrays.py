# SPDX-License-Identifier: Apache-2.0
"""The array types that are passed around (of one dimension, unless said otherwise) and steps numpy lacks."""

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
