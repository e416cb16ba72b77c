# SPDX-License-Identifier: Apache-2.0
"""Which pages of a mapping other processes map as well, and arithmetic of page ranges."""

import ctypes
import mmap
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hotpage.machine.sharing import Range, joined, shared_ranges, union, without

PAGES = 16


@st.composite
def disjoint(draw: st.DrawFn) -> list[Range]:
    cuts = sorted(draw(st.sets(st.integers(0, 60), max_size=16)))
    return list(zip(cuts[::2], cuts[1::2], strict=False))


def pages_of(ranges: list[Range]) -> list[int]:
    return [page for start, end in ranges for page in range(start, end)]


@given(start=st.integers(0, 60), length=st.integers(0, 60), left_out=disjoint())
def test_a_range_without_others(start: int, length: int, left_out: list[Range]) -> None:
    rest = list(without(start, start + length, left_out))
    assert all(low < high for low, high in rest)
    assert pages_of(rest) == sorted(set(range(start, start + length)) - set(pages_of(left_out)))


@given(ranges=disjoint(), most=st.integers(1, 9))
def test_joined_ranges_are_few_and_cover_the_same(ranges: list[Range], most: int) -> None:
    found = joined(ranges, most)
    assert len(found) <= most
    assert set(pages_of(ranges)) <= set(pages_of(found))
    if len(ranges) < most:
        assert pages_of(found) == pages_of(ranges)


@given(ranges=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)).map(lambda x: (x[0], sum(x)))))
def test_a_union_covers_the_same_once(ranges: list[Range]) -> None:
    assert pages_of(union(ranges)) == sorted(set(pages_of(ranges)))


def test_pages_of_a_fork_are_shared_until_they_are_written() -> None:
    memory = mmap.mmap(-1, PAGES * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory)) // mmap.PAGESIZE

    def write(*pages: int) -> None:
        for page in pages:
            memory[page * mmap.PAGESIZE] = 1

    def shared() -> list[Range]:
        found = shared_ranges(os.getpid(), [(first, first + PAGES)])
        return [(start - first, end - first) for start, end in found]

    write(*range(10))  # six are in nobody's memory
    assert shared() == []
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    try:
        assert shared() == [(0, 10)]
        write(3, 4, 12)
        assert shared() == [(0, 3), (5, 10)]
    finally:
        os.close(writing)
        os.waitpid(child, 0)
    assert shared() == []


def test_a_process_that_has_gone_shares_nothing(tmp_path: Path) -> None:
    assert shared_ranges(1, [(0, 10)], tmp_path) == []
