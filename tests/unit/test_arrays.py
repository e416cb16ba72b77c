# SPDX-License-Identifier: Apache-2.0
"""Steps that numpy lacks, at their edges."""

from dataclasses import dataclass

import numpy as np
import pytest

from hotpage.arrays import Columns, Int32s, Int64s, aranges, find, offsets

NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Pages(Columns):
    vpn: Int64s
    pages: Int32s


@pytest.mark.parametrize("which", [slice(1, 3), np.array([1, 2]), np.array([False, True, True])])
def test_columns_are_taken_and_joined_together(which: slice | Int64s) -> None:
    some = Pages(np.array([3, 5, 9]), np.array([1, 512, 1], np.int32)).take(which)
    assert (len(some), some.nbytes, some.pages.dtype) == (2, 24, np.int32)
    both = Pages.joined([some, Pages(np.array([7]), np.array([2], np.int32))])
    assert [column.tolist() for column in both.columns()] == [[5, 9, 7], [512, 1, 2]]


@pytest.mark.parametrize(
    ("known", "wanted", "found"),
    [([], [5], [False]), ([5], [], []), ([3, 5, 9], [9, 3, 4, 10, 2], [True, True, False, False, False])],
)
def test_wanted_numbers_are_found_where_they_are(
    known: list[int], wanted: list[int], found: list[bool]
) -> None:
    numbers = np.array(known, np.int64)
    place, is_there = find(numbers, np.array(wanted, np.int64))
    assert is_there.tolist() == found
    assert numbers[place[is_there]].tolist() == [one for one in wanted if one in known]


def test_runs_of_numbers_and_where_they_begin() -> None:
    counts = np.array([2, 0, 3], np.int32)
    assert offsets(counts).tolist() == [0, 2, 2]
    assert aranges(np.array([10, 20, 7]), counts).tolist() == [10, 11, 7, 8, 9]
    assert aranges(NOTHING, NOTHING).tolist() == offsets(NOTHING).tolist() == []
