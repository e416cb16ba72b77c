# SPDX-License-Identifier: Apache-2.0
"""A kernel for the mover: move_pages(2) with all its traps, as docs/kernel-interfaces.md has them."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hotpage.machine.numa import Addresses, Statuses

ABSENT = -1


@dataclass
class FakeKernel:
    """One process's pages. ``node``: by vpn; ``head``: first page of the huge page that a page belongs to."""

    node: dict[int, int]
    free_pages: dict[int, float] = field(default_factory=lambda: {0: 1e9, 1: 1e9, 2: 1e9})
    allowed: frozenset[int] = frozenset({0, 1, 2})
    pinned: set[int] = field(default_factory=set)
    shared: set[int] = field(default_factory=set)
    armed: set[int] = field(default_factory=set)
    busy_for: dict[int, int] = field(default_factory=dict)
    """Calls during which a page is off the lists."""
    huge: set[int] = field(default_factory=set)
    """Heads of 512-page folios."""
    hides_armed: bool = False
    is_old: bool = False
    gone: bool = False
    errno_when_gone: int = errno.ESRCH
    """EINVAL of a process that is ending: it is there, its memory is not."""
    on_call: Callable[[int], None] = lambda number: None
    calls: list[list[int]] = field(default_factory=list)
    seconds_per_page: float = 1e-5
    now_s: float = 0.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def _head(self, vpn: int) -> int:
        head = vpn - vpn % 512
        return head if head in self.huge else vpn

    def _folio(self, head: int) -> range:
        return range(head, head + (512 if head in self.huge else 1))

    def _lookup(self, vpn: int) -> int:
        """Node, or a negative errno as follow_page gives it."""
        node = self.node.get(vpn, ABSENT)
        if node == ABSENT:
            return -errno.EFAULT if self.hides_armed else -errno.ENOENT
        if vpn in self.armed and self.hides_armed:
            return -errno.ENOENT
        return node

    def query(self, pid: int, vpn: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Statuses:
        if self.gone:
            return np.full(vpn.size, -errno.ESRCH, np.int32)
        return np.array([self._lookup(v) for v in vpn.tolist()], np.int32)

    def is_present(self, pid: int, vpn: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray:
        return np.array([self.node.get(v, ABSENT) != ABSENT for v in vpn.tolist()], np.bool_)

    def __call__(
        self, pid: int, addresses: Addresses, nodes: Statuses | None, status: Statuses, flags: int
    ) -> int:
        assert nodes is not None
        self.calls.append([int(a) >> 12 for a in addresses])
        self.on_call(len(self.calls))
        self.now_s += self.seconds_per_page * addresses.size
        if self.gone:
            return -self.errno_when_gone
        count, queue, start, current = addresses.size, [], 0, -1

        def flush(end: int) -> int:
            """Migrate the queue; 0, or what the call returns. Statuses are written only if all went well."""
            nonlocal queue
            batch, queue = queue, []
            failed = 0
            for head in batch:
                pages = self._folio(head)
                if head in self.pinned:
                    failed += 1
                elif self.free_pages[current] < len(pages):
                    return -errno.ENOMEM
                else:
                    for vpn in pages:
                        self.free_pages[self.node[vpn]] += 1
                        self.node[vpn] = current
                    self.free_pages[current] -= len(pages)
            if failed:
                return failed + count - end
            status[start:end] = current if batch else status[start:end]
            return 0

        for place, (address, wanted) in enumerate(zip(addresses.tolist(), nodes.tolist(), strict=True)):
            if wanted not in self.free_pages:
                return flush(place) or -errno.ENODEV
            if wanted not in self.allowed:
                return flush(place) or -errno.EACCES
            if current == -1:
                current, start = wanted, place
            elif wanted != current:
                result = flush(place)
                if result:
                    return result
                current, start = wanted, place
            vpn = address >> 12
            node = self._lookup(vpn)
            head = self._head(vpn)
            answer = node
            if node >= 0 and node != wanted:
                if vpn in self.shared:
                    answer = -errno.EACCES
                elif head in queue or self.busy_for.get(vpn, 0) > 0:
                    self.busy_for[vpn] = self.busy_for.get(vpn, 0) - 1
                    answer = -errno.EBUSY
                else:
                    queue.append(head)
                    continue
            status[place] = answer
            result = flush(place)
            if result:
                return result - 1 if result > 0 else result
            current = -1
        return flush(count)
