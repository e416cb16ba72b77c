# SPDX-License-Identifier: Apache-2.0
"""Mappings as the kernel writes them, with all the names that it and strangers give them."""

import os
from pathlib import Path

import pytest

from hotpage.machine.vmas import Vma, parse_maps, read_residency, read_vmas


def vma(rest: bytes) -> Vma:
    (only,) = parse_maps(b"7f0000001000-7f0000003000 " + rest + b"\n")
    return only


def test_all_fields() -> None:
    found = vma(b"r-xp 00002000 fe:00 260131 /usr/bin/cat")
    assert found == Vma(0x7F0000001000, 0x7F0000003000, "r-xp", 0x2000, 260131, "/usr/bin/cat", "file")
    assert found.size_bytes == 0x2000


@pytest.mark.parametrize(
    ("rest", "kind", "name"),
    [
        (b"rw-p 00000000 00:00 0 ", "anon", "[anon]"),
        (b"rw-p 00000000 00:00 0 [heap]", "heap", "[heap]"),
        (b"rw-p 00000000 00:00 0 [stack]", "stack", "[stack]"),
        (b"r-xp 00000000 00:00 0 [vdso]", "vdso", "[vdso]"),
        (b"r--p 00000000 00:00 0 [vvar_vclock]", "vdso", "[vvar_vclock]"),
        (b"rw-p 00000000 00:00 0 [anon:glibc: malloc arena]", "anon", "[anon:glibc: malloc arena]"),
        (b"rw-s 00000000 00:01 17 [anon_shmem:ring]", "shared", "[anon_shmem:ring]"),
        (b"rw-s 00000000 00:01 5 /memfd:pg buffers (deleted)", "shared", "memfd:pg buffers (deleted)"),
        (b"r-xp 00000000 00:01 5 /memfd:jit (deleted)", "file", "memfd:jit (deleted)"),
        (b"rw-s 00000000 00:01 98304 /SYSV0052e2c1 (deleted)", "shared", "SysV shm 98304"),
        (b"rw-s 00000000 00:01 2054 /dev/zero (deleted)", "shared", "[anon shared]"),
        (b"rw-s 00000000 00:19 3 /dev/shm/PostgreSQL.12", "shared", "PostgreSQL.12"),
        (b"rw-p 00000000 00:0f 22 /anon_hugepage (deleted)", "anon", "[anon huge]"),
        (b"rw-s 00000000 fe:00 9 /data/a b  c.db", "file", "a b  c.db"),
        (b"r--p 00000000 fe:00 9 /lib/libx.so (deleted)", "file", "libx.so (deleted)"),
    ],
)  # fmt: skip
def test_kinds_and_names(rest: bytes, kind: str, name: str) -> None:
    assert (vma(rest).kind, vma(rest).name) == (kind, name)


def test_names_cannot_break_a_terminal_but_paths_stay_exact() -> None:
    found = vma(b"r--p 00000000 fe:00 9 /tmp/a\\012b\x1b[31m\xff")
    assert os.fsencode(found.path) == b"/tmp/a\nb\x1b[31m\xff"
    assert found.name == "a\\nb\\x1b[31m\\udcff"


@pytest.mark.parametrize(
    ("rest", "armable"),
    [
        (b"rw-p 00000000 00:00 0 ", True),
        (b"r--p 00000000 00:00 0 ", True),
        (b"---p 00000000 00:00 0 ", False),
        (b"r-xp 00000000 fe:00 9 /bin/x", False),
        (b"r--s 00000000 fe:00 9 /data", False),
        (b"rw-p 00000000 fe:00 9 /bin/x", True),
        (b"rw-s 00000000 fe:00 9 /data", True),
        (b"r-xp 00000000 00:00 0 [vdso]", False),
        (b"rw-p 00000000 00:0f 22 /anon_hugepage (deleted)", False),
    ],
)
def test_armable_follows_the_kernels_scan(rest: bytes, armable: bool) -> None:
    assert vma(rest).armable is armable


def test_many_mappings_in_order() -> None:
    lines = [b"%x-%x rw-p 00000000 00:00 0 " % (i << 13, (i << 13) + 4096) for i in range(1, 65_001)]
    found = parse_maps(b"\n".join(lines) + b"\n")
    assert [v.start >> 13 for v in found] == list(range(1, 65_001))


def test_own_mappings_cover_an_address_of_ours() -> None:
    address = id(object())
    (ours,) = [v for v in read_vmas(os.getpid()) if v.start <= address < v.end]
    assert ours.permissions == "rw-p"


def test_a_process_that_has_gone_has_no_mappings(tmp_path: Path) -> None:
    assert read_vmas(1 << 21) == []
    assert read_residency(1 << 21) == {}
    assert read_vmas(1, tmp_path) == []


def test_residency_by_node_and_page_size(tmp_path: Path) -> None:
    (tmp_path / "5").mkdir()
    (tmp_path / "5/numa_maps").write_bytes(
        b"1000 default file=/N1=7\\040x mapped=3 mapmax=31 N0=2 N1=1 kernelpagesize_kB=4\n"
        b"200000 bind:1 file=/anon_hugepage\\040(deleted) huge anon=2 dirty=2 N1=2 kernelpagesize_kB=2048\n"
        b"300000 default file=/x anon=2 dirty=5 mapped=8 N0=8 kernelpagesize_kB=4\n"
        b"7ff000 default stack\n"
    )
    assert read_residency(5, tmp_path) == {
        0x1000: (4096, {0: 8192, 1: 4096}, "default", 31, 0),
        0x200000: (2 << 20, {1: 4 << 20}, "bind:1", 1, 0),
        0x300000: (4096, {0: 8 * 4096}, "default", 1, 3),
        0x7FF000: (os.sysconf("SC_PAGESIZE"), {}, "default", 1, 0),
    }


def test_residency_without_numa_comes_from_smaps(tmp_path: Path) -> None:
    (tmp_path / "5").mkdir()
    (tmp_path / "5/smaps").write_bytes(
        b"00001000-00003000 rw-p 00000000 00:00 0     [heap]\nSize:   8 kB\nKernelPageSize:  4 kB\n"
        b"Rss:      4 kB\nVmFlags: rd wr\n"
        b"00200000-00400000 rw-p 00000000 00:00 0 \nKernelPageSize:  2048 kB\nRss:  0 kB\n"
    )
    assert read_residency(5, tmp_path) == {
        0x1000: (4096, {-1: 4096}, "", 0, 0),
        0x200000: (2 << 20, {}, "", 0, 0),
    }


def test_residency_of_files_whose_names_hold_other_ends_of_lines(tmp_path: Path) -> None:
    """The kernel escapes none of them but the line feed, and anybody can map such a file."""
    (tmp_path / "5").mkdir()
    (tmp_path / "5/numa_maps").write_bytes(b"1000 default file=/a\rb\\040c\x0cd N0=2 kernelpagesize_kB=4\n")
    assert read_residency(5, tmp_path) == {0x1000: (4096, {0: 8192}, "default", 1, 0)}
    (tmp_path / "6").mkdir()
    (tmp_path / "6/smaps").write_bytes(
        b"00001000-00003000 r--p 00000000 08:01 7     /a\rRss:\nKernelPageSize:  4 kB\nRss:      8 kB\n"
    )
    assert read_residency(6, tmp_path) == {0x1000: (4096, {-1: 8192}, "", 0, 0)}
