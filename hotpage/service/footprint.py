# SPDX-License-Identifier: Apache-2.0
"""A small process: glibc keeps much of what plans have freed, in several arenas, unless told otherwise."""

from __future__ import annotations

import ctypes

# Of malloc.h, mallopt(3). By default the threshold grows to 32 MiB with what was freed; so does what is kept.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MMAP_BYTES, _TRIM_BYTES = 128 << 10, 256 << 10


class Footprint:
    """``tighten`` before there are threads, ``trim`` now and then. Nothing happens under another libc."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._is_glibc = hasattr(self._libc, "gnu_get_libc_version")

    def tighten(self) -> None:
        """One arena for all threads; large blocks go back to the kernel as soon as they are freed."""
        if self._is_glibc:
            self._libc.mallopt(_M_ARENA_MAX, 1)
            self._libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
            self._libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)

    def trim(self) -> None:
        """Give back what lies free between what is used."""
        if self._is_glibc:
            self._libc.malloc_trim(0)
