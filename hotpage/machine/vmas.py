# SPDX-License-Identifier: Apache-2.0
"""A process's mappings (VMAs): where they are, what people call them, and on which node their pages lie."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from hotpage.machine.proc import PROC, printable, read_bytes

VmaKind = Literal["heap", "stack", "anon", "file", "shared", "vdso"]

_BASE_PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")
_DELETED: Final = " (deleted)"
# Mappings of the kernel's own pages (x86, Arm): no process memory behind them.
_KERNEL_MAPPINGS: Final = frozenset(
    ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]", "[sigpage]", "[vectors]")
)
_SHARED_MEMORY: Final = ("/memfd:", "/SYSV", "/dev/zero", "/dev/shm/", "/anon_hugepage", "[anon_shmem:")


@dataclass(frozen=True, slots=True)
class Vma:
    """One mapping, as in /proc/PID/maps: addresses in bytes, ``end`` exclusive."""

    start: int
    end: int
    permissions: str
    offset: int
    inode: int
    path: str
    kind: VmaKind

    @property
    def size_bytes(self) -> int:
        """Length of the address range, resident or not."""
        return self.end - self.start

    @property
    def name(self) -> str:
        """A short name for people: no directories, no control characters."""
        path = self.path.removesuffix(_DELETED)
        if not path:
            return "[anon]"
        if path.startswith("/SYSV"):
            return f"SysV shm {self.inode}"  # for these the inode is the shmid that ipcs(1) shows
        if path.startswith("/anon_hugepage"):
            return "[anon huge]"
        if path == "/dev/zero" and self.path.endswith(_DELETED):
            return "[anon shared]"
        if path.startswith("/"):
            path = path.rpartition("/")[2] + self.path[len(path) :]
        return printable(path)

    @property
    def armable(self) -> bool:
        """Whether the kernel's NUMA scan would arm it (task_numa_work), as far as maps tells.

        It also skips mappings under an explicit memory policy (``Residency.policy``) and hugetlb ones
        (``Residency.page_size_bytes``). Shared memory has policies of its own, by default none that allows
        migration (shmem_get_policy, vma_policy_mof): up to 6.18 it is never armed. 7.3 arms it.
        """
        readable, writable = self.permissions[0] == "r", self.permissions[1] == "w"
        if self.kind == "shared":
            return False
        if self.kind == "vdso" or self.permissions[:3] == "---" or self.path.startswith("/anon_hugepage"):
            return False
        return writable or not readable or self.inode == 0


class Residency(NamedTuple):
    """Where a mapping's resident pages are."""

    page_size_bytes: int
    """The kernel's page size for the mapping; transparent huge pages do not show here, hugetlb pages do."""
    bytes_by_node: dict[int, int]
    """Resident bytes by node; node -1 where the kernel does not tell."""
    policy: str
    """The memory policy in force ("default", "bind:0", ...); empty where the kernel does not tell."""
    most_mapped: int = 0
    """In how many page tables the page is that is in the most of them; 0 where the kernel does not tell."""
    dirty_file_pages: int = 0
    """Pages that are dirty and not anonymous, about; of shared memory, too."""


def read_vmas(pid: int, proc_root: Path = PROC) -> list[Vma]:
    """The process's mappings in order of address; empty when it has gone or has none.

    Raises PrivilegeError where they may not be read.
    """
    return parse_maps(read_bytes(proc_root / str(pid) / "maps") or b"")


def parse_maps(text: bytes) -> list[Vma]:
    """Parse the text of /proc/PID/maps."""
    return [_vma(line) for line in text.split(b"\n") if line]


def _vma(line: bytes) -> Vma:
    span, permission_bytes, offset, _device, inode, *rest = line.split(None, 5)
    start, _, end = span.partition(b"-")
    permissions = permission_bytes.decode("ascii")
    # The kernel escapes newlines only, so that a file name that holds a literal \012 cannot be told from one.
    path = os.fsdecode(rest[0].replace(b"\\012", b"\n")) if rest else ""
    inode_number = int(inode)
    return Vma(
        int(start, 16),
        int(end, 16),
        permissions,
        int(offset, 16),
        inode_number,
        path,
        _kind(path, permissions, inode_number),
    )


def _kind(path: str, permissions: str, inode: int) -> VmaKind:
    if not path:
        return "anon"
    if path[0] == "[":
        if path == "[heap]":
            return "heap"
        if path.startswith("[stack"):
            return "stack"
        if path in _KERNEL_MAPPINGS:
            return "vdso"
    if permissions[3] == "s" and path.startswith(_SHARED_MEMORY):
        return "shared"
    # Without an inode: [anon:NAME]. Private anonymous huge pages have the inode of a file that has no name.
    return "anon" if inode == 0 or path.startswith("/anon_hugepage") else "file"


def read_residency(pid: int, proc_root: Path = PROC) -> dict[int, Residency]:
    """Residency of each mapping, by its start address; empty when the process has gone.

    From numa_maps, which walks the page tables; where the kernel has none (no NUMA), from smaps.
    Raises PrivilegeError where they may not be read.
    """
    directory = proc_root / str(pid)
    text = read_bytes(directory / "numa_maps")
    if text is not None:
        return dict(_parse_numa_maps(text))
    return dict(_parse_smaps(read_bytes(directory / "smaps") or b""))


def _parse_numa_maps(text: bytes) -> Iterator[tuple[int, Residency]]:
    """Lines such as ``7f00 default file=/x anon=2 N0=1 N1=1 kernelpagesize_kB=4``; spaces are escaped."""
    for line in filter(None, text.split(b"\n")):  # a file's name may hold any other end of a line
        start, policy, *fields = line.split(b" ")
        page_bytes, most_mapped, dirty, anonymous = _BASE_PAGE_BYTES, 1, 0, 0
        pages: dict[int, int] = {}
        for field in fields:
            key, _, value = field.partition(b"=")
            if key == b"kernelpagesize_kB":
                page_bytes = int(value) * 1024
            elif key == b"mapmax":  # left out where it is 1
                most_mapped = int(value)
            elif key == b"dirty":  # anonymous pages among them
                dirty = int(value)
            elif key == b"anon":
                anonymous = int(value)
            elif key[:1] == b"N" and key[1:].isdigit():
                pages[int(key[1:])] = int(value)
        nodes = {node: count * page_bytes for node, count in pages.items()}
        yield (
            int(start, 16),
            Residency(
                page_bytes,
                nodes,
                policy.decode("ascii", "replace"),
                most_mapped,
                max(dirty - anonymous, 0),
            ),
        )


_SMAPS_HEAD: Final = re.compile(rb"([0-9a-f]+)-[0-9a-f]+ ")


def _parse_smaps(text: bytes) -> Iterator[tuple[int, Residency]]:
    start, rss_bytes, page_bytes = -1, 0, _BASE_PAGE_BYTES
    for line in text.split(b"\n"):
        head = _SMAPS_HEAD.match(line)
        if head is not None:
            if start >= 0:
                yield start, Residency(page_bytes, {-1: rss_bytes} if rss_bytes else {}, "")
            start, rss_bytes, page_bytes = int(head[1], 16), 0, _BASE_PAGE_BYTES
        elif line.startswith(b"Rss:"):
            rss_bytes = int(line.split()[1]) * 1024
        elif line.startswith(b"KernelPageSize:"):
            page_bytes = int(line.split()[1]) * 1024
    if start >= 0:
        yield start, Residency(page_bytes, {-1: rss_bytes} if rss_bytes else {}, "")
