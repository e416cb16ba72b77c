# SPDX-License-Identifier: Apache-2.0
"""Which pages of a file's mapping are dirty, by pagemap and kpageflags made by hand."""

from pathlib import Path

import numpy as np
import pytest

from hotpage.machine.dirty import dirty_ranges

PRESENT = 1 << 63
DIRTY, SWAP_BACKED, HEAD, TAIL = (1 << bit for bit in (4, 14, 15, 16))


def proc_with(directory: Path, frames: dict[int, int], flags: dict[int, int]) -> Path:
    """Process 7: page to frame, 0 for hidden; frame to flags."""
    entries = np.zeros(64, np.uint64)
    for page, frame in frames.items():
        entries[page] = PRESENT | frame
    (directory / "7").mkdir()
    (directory / "7/pagemap").write_bytes(entries.tobytes())
    known = np.zeros(max(flags, default=0) + 1, np.uint64)
    for frame, bits in flags.items():
        known[frame] = bits
    (directory / "kpageflags").write_bytes(known.tobytes())
    return directory


def test_dirty_pages_of_files_by_their_frames(tmp_path: Path) -> None:
    frames = {10: 700, 11: 5, 12: 3000, 13: 6, 15: 9, 16: 8}
    flags = {700: DIRTY, 5: DIRTY, 3000: 0, 6: DIRTY | SWAP_BACKED, 9: DIRTY, 8: DIRTY}
    proc = proc_with(tmp_path, frames, flags)
    assert dirty_ranges(7, [(10, 20)], proc) == [(10, 12), (15, 17)]
    assert dirty_ranges(7, [(10, 11), (16, 18)], proc) == [(10, 11), (16, 17)]
    assert dirty_ranges(7, [], proc) == []
    assert dirty_ranges(8, [(10, 20)], proc) == []


@pytest.mark.parametrize(("of_head", "found"), [(DIRTY, [(3, 7)]), (0, []), (DIRTY | SWAP_BACKED, [])])
def test_a_folio_is_as_dirty_as_its_first_page(
    tmp_path: Path, of_head: int, found: list[tuple[int, int]]
) -> None:
    flags = (
        {1024: HEAD | of_head}
        | {1024 + page: TAIL for page in range(1, 8)}
        | {1032: HEAD | (DIRTY ^ of_head)}
    )
    proc = proc_with(tmp_path, {page: 1024 + page for page in range(3, 7)}, flags)
    assert dirty_ranges(7, [(0, 20)], proc) == found


def test_what_the_kernel_hides_is_taken_as_a_whole(tmp_path: Path) -> None:
    proc = proc_with(tmp_path, {3: 0, 12: 40}, {40: DIRTY})
    assert dirty_ranges(7, [(0, 5), (10, 20)], proc) == [(0, 5), (12, 13)]
    (proc / "kpageflags").unlink()
    assert dirty_ranges(7, [(0, 5), (10, 20)], proc) == [(0, 5), (10, 20)]
