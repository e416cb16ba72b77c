# SPDX-License-Identifier: Apache-2.0
"""Which sizes of folios the kernel is set to use."""

from pathlib import Path

import pytest

from hotpage.recording.largefolios import enabled_folio_kb, fault_as_a_whole


@pytest.mark.parametrize(
    ("whole", "sizes", "enabled"),
    [
        ("always", {64: "never", 2048: "inherit"}, []),
        ("madvise", {64: "inherit", 2048: "inherit", 16: "always"}, [16, 64]),
        ("never", {64: "inherit", 128: "madvise"}, [128]),
        ("always", {}, []),
    ],
)
def test_sizes_below_a_huge_page(
    tmp_path: Path, whole: str, sizes: dict[int, str], enabled: list[int]
) -> None:
    def choose(directory: Path, chosen: str) -> None:
        words = ["always", "inherit", "madvise", "never"]
        text = " ".join(f"[{word}]" if word == chosen else word for word in words)
        (directory / "enabled").write_text(text + "\n")

    choose(tmp_path, whole)
    for size_kb, chosen in sizes.items():
        (tmp_path / f"hugepages-{size_kb}kB").mkdir()
        choose(tmp_path / f"hugepages-{size_kb}kB", chosen)
    assert enabled_folio_kb(tmp_path) == enabled


def test_a_kernel_without_such_folios(tmp_path: Path) -> None:
    assert enabled_folio_kb(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("release", "expected"),
    [("6.1.0-37-amd64", False), ("6.9.9", False), ("6.10-rc1", True), ("7.3.1+deb13", True), ("odd", False)],
)
def test_kernels_on_which_a_large_folio_faults_as_a_whole(release: str, expected: bool) -> None:
    assert fault_as_a_whole(release) == expected
