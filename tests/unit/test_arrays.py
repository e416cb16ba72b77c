# SPDX-License-Identifier: Apache-2.0
"""Steps that numpy lacks, at their edges."""

import numpy as np
import pytest

from hotpage.arrays import aranges, find, offsets

NOTHING = np.empty(0, np.int64)


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
