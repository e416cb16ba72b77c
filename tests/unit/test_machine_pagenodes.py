# SPDX-License-Identifier: Apache-2.0
"""Nodes of single pages, of this process's own memory."""

import mmap
import os
import time

import numpy as np

from hotpage.exerciser import Exerciser
from hotpage.machine.pagenodes import page_nodes


def address_of(memory: mmap.mmap) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def test_pages_that_are_there_and_pages_that_are_not() -> None:
    memory = mmap.mmap(-1, 8 * mmap.PAGESIZE)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in (0, 3):
        memory[page * mmap.PAGESIZE] = 1
    first = address_of(memory) >> 12
    nodes = page_nodes(os.getpid(), np.arange(first, first + 8))
    assert [node is not None for node in nodes] == [True, False, False, True, False, False, False, False]
    assert all(node >= 0 for node in nodes if node is not None)


def test_another_process_and_none() -> None:
    with Exerciser.start(mib=1, threads=1) as other:
        pages = np.arange(other.base >> 12, (other.base >> 12) + other.pages)
        deadline = time.monotonic() + 60
        while None in page_nodes(other.pid, pages):  # it accesses them in no particular order
            assert time.monotonic() < deadline
        assert page_nodes(other.pid, np.array([1])) == [None]
        assert page_nodes(other.pid, np.empty(0, np.int64)) == []
        pid = other.pid
    assert page_nodes(pid, pages[:3]) == [None, None, None]
