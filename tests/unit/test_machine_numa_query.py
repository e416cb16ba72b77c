# SPDX-License-Identifier: Apache-2.0
"""Asking on which node single pages are, of this process's own memory and of another's."""

import errno
import mmap
import os
import time

import numpy as np

from hotpage.exerciser import Exerciser
from hotpage.machine.numa import MovePages


def nodes_of(pid: int, vpn: np.ndarray) -> np.ndarray:
    return MovePages().query(pid, vpn)


def address_of(memory: mmap.mmap) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def test_pages_that_are_there_and_pages_that_are_not() -> None:
    memory = mmap.mmap(-1, 8 * mmap.PAGESIZE)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in (0, 3):
        memory[page * mmap.PAGESIZE] = 1
    first = address_of(memory) >> 12
    nodes = nodes_of(os.getpid(), np.arange(first, first + 8))
    assert np.flatnonzero(nodes >= 0).tolist() == [0, 3]


def test_another_process_and_none() -> None:
    with Exerciser.start(mib=1, threads=1) as other:
        pages = np.arange(other.base >> 12, (other.base >> 12) + other.pages)
        deadline = time.monotonic() + 180
        while (nodes_of(other.pid, pages) < 0).any():  # it accesses them in no particular order
            assert time.monotonic() < deadline
        assert nodes_of(other.pid, np.array([1])).tolist() == [-errno.EFAULT]
        assert nodes_of(other.pid, np.empty(0, np.int64)).size == 0
        pid = other.pid
    assert nodes_of(pid, pages[:3]).tolist() == [-errno.ESRCH] * 3
