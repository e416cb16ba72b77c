# SPDX-License-Identifier: Apache-2.0
"""Which slices of mapped files are looked at for dirty pages, and when."""

from collections.abc import Callable

import pytest

from hotpage.machine.sharing import Range, union
from hotpage.recording import dirtying
from hotpage.recording.dirtying import DirtyPages

SLICE = 1 << 15
BIG = (1_000_000, 1_000_000 + 80 * SLICE)  # 10 GiB


class Kernel:
    """The first page of whatever is asked for is dirty; a page takes ``page_s`` to read."""

    def __init__(self, page_s: float) -> None:
        self.page_s = page_s
        self.now_s = 0.0
        self.asked: list[Range] = []

    def dirty_ranges(self, pid: int, spans: list[Range]) -> list[Range]:
        self.asked += spans
        self.now_s += self.page_s * sum(end - start for start, end in spans)
        return [(start, start + 1) for start, _ in spans]

    def run(self, mine: DirtyPages, seconds: float, watches: int = 1) -> float:
        """The most time that one reading took."""
        worst_s, begun_s, now_s = 0.0, self.now_s, 0.0
        while now_s < seconds:
            before_s = self.now_s
            mine.read(begun_s + now_s, watches)
            worst_s = max(worst_s, self.now_s - before_s)
            now_s += 0.1
        return worst_s


@pytest.fixture
def kernel_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Kernel]:
    def make(page_s: float) -> Kernel:
        kernel = Kernel(page_s)
        monkeypatch.setattr(dirtying, "dirty_ranges", kernel.dirty_ranges)
        monkeypatch.setattr(dirtying.time, "perf_counter", lambda: kernel.now_s)
        return kernel

    return make


def test_small_mappings_are_read_together_and_again(kernel_of: Callable[[float], Kernel]) -> None:
    kernel, mine = kernel_of(1e-7), DirtyPages(7)
    assert not mine.read(0.0) and mine.ranges == []
    mine.look_within([(100, 120), (200, 210)])
    assert union(mine.ranges) == [(100, 120), (200, 210)], "nothing is known yet"
    assert mine.read(0.0)
    assert union(mine.ranges) == [(100, 101), (200, 201)]
    assert not mine.read(1.9) and mine.read(2.1)
    assert sorted(kernel.asked) == [(100, 120), (100, 120), (200, 210), (200, 210)]
    mine.look_within([(200, 210), (300, 310)])
    assert union(mine.ranges) == [(200, 201), (300, 310)]


@pytest.mark.parametrize(("watches", "most_slices"), [(1, 2), (10, 0)])
def test_a_mapping_too_large_to_keep_up_with_is_taken_for_dirty(
    kernel_of: Callable[[float], Kernel], watches: int, most_slices: int
) -> None:
    """A slice of 25 ms may be read each 12.5 s, and what is older than 30 s is not known any more."""
    kernel, mine = kernel_of(0.025 / SLICE), DirtyPages(7)
    mine.look_within([(100, 120), BIG])
    worst_s = kernel.run(mine, 600, watches)
    assert worst_s < 0.03
    assert kernel.now_s < 0.0021 * 600 / watches + 0.06
    unknown = sum(end - start for start, end in union(mine.ranges) if end - start > 1)
    assert unknown == (80 - most_slices) * SLICE, "always the same"
    assert (100, 101) in mine.ranges


@pytest.mark.parametrize(("watches", "is_known"), [(2, True), (10, False), (200, False)])
def test_what_was_read_is_not_believed_until_it_can_be_read_again(
    kernel_of: Callable[[float], Kernel], watches: int, is_known: bool
) -> None:
    kernel, mine = kernel_of(0.02 / SLICE), DirtyPages(7)
    mine.look_within([(0, SLICE)])
    kernel.run(mine, 5, watches)
    assert kernel.asked == [(0, SLICE)]
    assert mine.ranges == ([(0, 1)] if is_known else [(0, SLICE)])


def test_all_of_a_mapping_that_can_be_kept_up_with_is_read_in_turn(
    kernel_of: Callable[[float], Kernel],
) -> None:
    kernel, mine = kernel_of(0.001 / SLICE), DirtyPages(7)
    mine.look_within([(0, 10 * SLICE)])
    kernel.run(mine, 60)
    slices = [(low, low + SLICE) for low in range(0, 10 * SLICE, SLICE)]
    assert kernel.asked[:10] == slices and kernel.asked[10:20] == slices
    assert sorted(mine.ranges) == [(start, start + 1) for start, _ in slices]
