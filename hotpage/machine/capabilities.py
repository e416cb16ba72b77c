# SPDX-License-Identifier: Apache-2.0
"""Give privileges up once they have served (capabilities(7))."""

import ctypes
import enum
import os
import struct
from collections.abc import Iterable
from typing import Final

from hotpage.errors import PrivilegeError

_VERSION_3: Final = 0x20080522
_PR_CAPBSET_DROP: Final = 24
_PR_CAPBSET_READ: Final = 23


class Capability(enum.IntEnum):
    """The capabilities that hotpage has a use for, by their numbers in linux/capability.h."""

    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    KILL = 5
    NET_ADMIN = 12
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    SYSLOG = 34
    PERFMON = 38
    BPF = 39


def keep_only(capabilities: Iterable[Capability]) -> None:
    """Drop all other capabilities of this thread, for good: from the bounding set, too.

    Threads that it starts afterwards have no more; those that are running keep theirs. Raises PrivilegeError
    if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    kept = set(capabilities)
    number = 0
    while libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
        # Without CAP_SETPCAP the bounding set stays as it is; what counts is the permitted set below.
        if number not in kept:
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
        number += 1
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0), 8)
    data = ctypes.create_string_buffer(24)
    if libc.capget(header, data):
        raise PrivilegeError(f"cannot read capabilities: {os.strerror(ctypes.get_errno())}")
    words = list(struct.unpack("=6I", data.raw))
    for half in (0, 1):
        mask = sum(1 << (capability - 32 * half) for capability in kept if capability // 32 == half)
        words[3 * half] &= mask  # effective
        words[3 * half + 1] &= mask  # permitted
        words[3 * half + 2] = 0  # inheritable
    if libc.capset(header, ctypes.create_string_buffer(struct.pack("=6I", *words), 24)):
        raise PrivilegeError(f"cannot drop capabilities: {os.strerror(ctypes.get_errno())}")
