# SPDX-License-Identifier: Apache-2.0
"""That very process: a pid alone may stand for another one by the time it is used."""

from __future__ import annotations

import contextlib
import os
import select
from types import TracebackType
from typing import Self

from hotpage.machine.proc import read_stat


class ProcessHandle:
    """A living process by pid, start time and image (exec); ``open`` gives None when it is not that one."""

    def __init__(self, pid: int, start_time_ticks: int, image: tuple[int, int], pidfd: int) -> None:
        self.pid = pid
        self._start_time_ticks, self._image = start_time_ticks, image
        self._pidfd = pidfd
        self._ended = select.poll()
        self._ended.register(pidfd, select.POLLIN)

    @classmethod
    def open(cls, pid: int, start_time_ticks: int, image: tuple[int, int]) -> Self | None:
        """The process, if it lives and is the one that is meant."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        handle = cls(pid, start_time_ticks, image, pidfd)
        if handle.is_same():  # asked of /proc after the pidfd is open: the two are of one process
            return handle
        handle.close()
        return None

    def is_same(self) -> bool:
        """Whether it still lives, and has not become another program.

        While the pidfd says that the process has not ended, no other one can have its pid.
        """
        stat = read_stat(self.pid)
        if stat is None or self._ended.poll(0):
            return False
        return (stat.start_time_ticks, stat.image) == (self._start_time_ticks, self._image)

    def close(self) -> None:
        """Let go of it."""
        with contextlib.suppress(OSError):
            os.close(self._pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
