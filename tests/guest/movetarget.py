# SPDX-License-Identifier: Apache-2.0
"""A process whose pages are moved in tests: it maps memory on a node, and does what it is told.

Run by path with the node's number and a count of pages; prints the address of its memory, then answers
commands from standard input, one line each: ``fork`` (a child shares all pages), ``pin FIRST COUNT``
(vmsplice holds pages), ``arm FIRST COUNT`` (their entries become like armed ones), ``disarm``, ``huge``
(another mapping, of huge pages), ``read``, ``touch`` (for ever, in another thread), ``exec``.
"""

import ctypes
import mmap
import os
import sys
import threading
import time

PAGES = 2048
PAGE = 4096
HUGE = 2 << 20
MPOL_DEFAULT, MPOL_BIND = 0, 2
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}

libc = ctypes.CDLL(None, use_errno=True)


def set_policy(mode: int, node: int = 0) -> None:
    """From now on this process's new pages come from that node."""
    mask = ctypes.c_ulong(1 << node)
    pointer = ctypes.byref(mask) if mode else None
    number = ctypes.c_long(_SET_MEMPOLICY[os.uname().machine])
    if libc.syscall(number, ctypes.c_long(mode), pointer, ctypes.c_ulong(64 if mode else 0)):
        raise OSError(ctypes.get_errno(), "set_mempolicy")


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def fill(memory: mmap.mmap) -> None:
    for offset in range(0, len(memory), PAGE):
        memory[offset] = offset // PAGE % 251 + 1


def say(text: object) -> None:
    print(text, flush=True)


class IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def pin(address: int, first: int, count: int) -> None:
    """Hold references to pages, as direct I/O and RDMA do: vmsplice puts the pages themselves into a pipe."""
    for page in range(first, first + count):
        _, writing = os.pipe()
        vector = IoVec(address + page * PAGE, PAGE)
        if libc.vmsplice(writing, ctypes.byref(vector), ctypes.c_size_t(1), 0) != PAGE:
            raise OSError(ctypes.get_errno(), "vmsplice")


def protect(address: int, first: int, count: int, protection: int) -> None:
    if libc.mprotect(ctypes.c_void_p(address + first * PAGE), ctypes.c_size_t(count * PAGE), protection):
        raise OSError(ctypes.get_errno(), "mprotect")


def touch(memory: mmap.mmap) -> None:
    while True:
        for offset in range(0, len(memory), PAGE):
            memory[offset + 8] = 1


def main() -> None:
    node, pages = int(sys.argv[1]), int(sys.argv[2])
    set_policy(MPOL_BIND, node)
    memory = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    fill(memory)
    address = address_of(memory)
    kept: list[mmap.mmap] = []
    set_policy(MPOL_DEFAULT)
    say(address)
    for line in sys.stdin:
        word, *numbers = line.split()
        first, count = [int(n) for n in numbers] or (0, 0)
        if word == "fork":
            if not os.fork():
                while os.getppid() != 1:
                    time.sleep(0.05)
                os._exit(0)
        elif word == "pin":
            pin(address, first, count)
        elif word == "arm":
            protect(address, first, count, 0)
        elif word == "disarm":
            protect(address, 0, pages, mmap.PROT_READ | mmap.PROT_WRITE)
        elif word == "huge":
            set_policy(MPOL_BIND, node)
            kept.append(mmap.mmap(-1, 3 * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            kept[-1].madvise(mmap.MADV_HUGEPAGE)
            fill(kept[-1])
            set_policy(MPOL_DEFAULT)
            say(-(-address_of(kept[-1]) // HUGE) * HUGE)
            continue
        elif word == "read":
            wrong = sum(memory[page * PAGE] != page % 251 + 1 for page in range(pages))
            say(wrong)
            continue
        elif word == "touch":
            threading.Thread(target=touch, args=(memory,), daemon=True).start()
        elif word == "exec":
            os.execv("/bin/sleep", ["sleep", "1000"])
        say("done")


if __name__ == "__main__":
    main()
