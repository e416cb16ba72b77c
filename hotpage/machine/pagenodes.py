# SPDX-License-Identifier: Apache-2.0
"""On which node single pages are: move_pages(2) without destinations asks and moves nothing."""

import ctypes
import errno
import os
from typing import Final

import numpy as np
import numpy.typing as npt

_NR_MOVE_PAGES: Final = {"x86_64": 279, "aarch64": 239}
_PAGE_BITS: Final = 12
_libc = ctypes.CDLL(None, use_errno=True)


def page_nodes(pid: int, vpn: npt.NDArray[np.int64]) -> list[int | None]:
    """The node of each page; None where it is on none now (never touched, swapped out, a hole), or where
    nobody may ask (another user's process without CAP_SYS_PTRACE, a process that has gone).
    """
    number = _NR_MOVE_PAGES.get(os.uname().machine)
    if number is None or not len(vpn):
        return [None] * len(vpn)
    addresses = np.ascontiguousarray(vpn << _PAGE_BITS, np.uint64)
    status = np.full(len(vpn), -errno.ENOENT, np.int32)
    result = _libc.syscall(
        ctypes.c_long(number),
        ctypes.c_int(pid),
        ctypes.c_ulong(len(vpn)),
        ctypes.c_void_p(addresses.ctypes.data),
        ctypes.c_void_p(None),
        ctypes.c_void_p(status.ctypes.data),
        ctypes.c_int(0),
    )
    if result < 0:
        return [None] * len(vpn)
    return [node if node >= 0 else None for node in status.tolist()]
