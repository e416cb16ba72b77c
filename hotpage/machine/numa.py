# SPDX-License-Identifier: Apache-2.0
"""The system call move_pages(2), and how near each node is to its watermarks.

What the call does beyond its manual page is in docs/kernel-interfaces.md.
"""

import ctypes
import mmap
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hotpage.errors import UnsupportedError
from hotpage.machine.folios import PAGE_BYTES
from hotpage.machine.proc import PROC, read_lines

MPOL_MF_MOVE: Final = 2

# Of asm/unistd.h; riscv64 uses the generic table as arm64 does.
_MOVE_PAGES_NUMBER: Final = {"x86_64": 279, "aarch64": 239, "riscv64": 239}
_QUERIED_AT_ONCE: Final = 1 << 16

Addresses = npt.NDArray[np.uint64]
Statuses = npt.NDArray[np.int32]


class MovePages:
    """move_pages(2) on arrays. Raises UnsupportedError where there is no such call."""

    def __init__(self) -> None:
        number = _MOVE_PAGES_NUMBER.get(platform.machine())
        if number is None:
            raise UnsupportedError(f"hotpage does not know how to move pages on {platform.machine()}")
        self._number = ctypes.c_long(number)
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long

    def __call__(
        self,
        pid: int,
        addresses: Addresses,
        nodes: Statuses | None,
        status: Statuses,
        flags: int = MPOL_MF_MOVE,
    ) -> int:
        """One call; the arrays are contiguous and of one length, without ``nodes`` it only asks.

        Returns what the call does (0; or how many pages failed or were not tried), or the negative errno.
        """
        returned: int = self._syscall(
            self._number,
            ctypes.c_long(pid),
            ctypes.c_ulong(addresses.size),
            ctypes.c_void_p(addresses.ctypes.data),
            ctypes.c_void_p(None if nodes is None else nodes.ctypes.data),
            ctypes.c_void_p(status.ctypes.data),
            ctypes.c_long(flags),
        )
        return -ctypes.get_errno() if returned < 0 else returned

    def query(self, pid: int, vpn: npt.NDArray[np.int64]) -> Statuses:
        """Node of each page, or a negative errno; -ESRCH for all when the process has gone."""
        addresses = vpn.astype(np.uint64) * np.uint64(PAGE_BYTES)
        status = np.empty(vpn.size, np.int32)
        for low in range(0, vpn.size, _QUERIED_AT_ONCE):
            part = slice(low, low + _QUERIED_AT_ONCE)
            result = self(pid, addresses[part], None, status[part])
            if result < 0:
                status[part] = result
        return status


def measure_call_s(move_pages: MovePages) -> float:
    """Seconds that a call takes which moves nothing: the least of a few, on a page of our own."""
    with mmap.mmap(-1, PAGE_BYTES) as page:
        page[0] = 1
        buffer = ctypes.c_char.from_buffer(page)
        vpn = np.array([ctypes.addressof(buffer) // PAGE_BYTES], np.int64)
        node = move_pages.query(os.getpid(), vpn)
        addresses, status = vpn.astype(np.uint64) * np.uint64(PAGE_BYTES), node.copy()
        times = []
        for _ in range(5):
            begun_s = time.perf_counter()
            move_pages(os.getpid(), addresses, node, status)
            times.append(time.perf_counter() - begun_s)
        del buffer
    return min(times)


def hides_armed_pages(move_pages: MovePages) -> bool:
    """Whether this kernel answers ENOENT for a page that is there but armed, as Linux 6.1 does.

    A PROT_NONE mapping's entries look just like armed ones: so a page of our own tells.
    """
    with mmap.mmap(-1, PAGE_BYTES) as page:
        page[0] = 1
        buffer = ctypes.c_char.from_buffer(page)
        address = ctypes.addressof(buffer)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE_BYTES), 0)
        try:
            status = move_pages.query(os.getpid(), np.array([address // PAGE_BYTES], np.int64))
        finally:
            libc.mprotect(
                ctypes.c_void_p(address), ctypes.c_size_t(PAGE_BYTES), mmap.PROT_READ | mmap.PROT_WRITE
            )
            del buffer
    return int(status[0]) < 0


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Free memory of a node and the levels at which the kernel reclaims: sums over its zones, in bytes.

    ``free`` leaves out what a zone reserves for requests that no other zone can serve (lowmem_reserve): a
    program's pages never get the first 16 MiB of a PC. Below ``low`` the kernel wakes its reclaim, which
    stops at ``high``; at ``min`` allocations wait.
    """

    free: int
    min: int
    low: int
    high: int
    cache: int = 0
    """Clean page cache that was not used lately: reclaim takes it before anything else, at little cost."""
    at_hand: int = 0
    """Free pages on the lists of single CPUs: those that a move has freed, and the first that one takes. The
    kernel holds no watermark against them, and ``free`` does not change while they come and go.
    """

    @property
    def available(self) -> int:
        """What can be had without taking anything from a program: a node full of page cache is not full."""
        return self.free + self.cache


_SUMS = ("free", "min", "low", "high", "cache", "at_hand")


def read_watermarks(proc_root: Path = PROC) -> dict[int, Watermarks]:
    """By node, from /proc/zoneinfo; empty where there is none."""
    sums: dict[int, dict[str, int]] = {}
    node, zone_free, zone_cache = -1, 0, 0
    for line in read_lines(proc_root / "zoneinfo"):
        words = line.decode("ascii", "replace").split()
        if words[:1] == ["Node"]:
            node = int(words[1].rstrip(","))
            of_node = sums.setdefault(node, dict.fromkeys(_SUMS, 0))
            zone_cache = 0
        elif words[:2] == ["pages", "free"]:
            zone_free = int(words[2])
            of_node["free"] += zone_free
        elif words[:1] == ["nr_zone_inactive_file"]:
            zone_cache = int(words[1])
            of_node["cache"] += zone_cache
        elif words[:1] == ["nr_zone_write_pending"]:
            of_node["cache"] -= min(int(words[1]), zone_cache)
        elif words[:1] == ["count:"]:
            of_node["at_hand"] += int(words[1])
        elif words[:1] == ["protection:"]:
            reserved = max(int(word.strip("(),")) for word in words[1:])
            of_node["free"] -= min(reserved, zone_free)
        # Of a zone ("min 11"), not of its per-CPU lists ("high: 378").
        elif len(words) == 2 and words[0] in ("min", "low", "high"):
            of_node[words[0]] += int(words[1])
    page_bytes = os.sysconf("SC_PAGESIZE")
    return {
        node: Watermarks(**{name: count * page_bytes for name, count in of_node.items()})
        for node, of_node in sums.items()
    }
