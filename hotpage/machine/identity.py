# SPDX-License-Identifier: Apache-2.0
"""That very process: a pid alone may stand for another one by the time it is used."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Self

from hotpage.machine.proc import PROC, parse_stat

_LONGEST_STAT_BYTES = 4096


class ProcessHandle:
    """A living process by pid, start time and image (exec); ``open`` gives None when it is not that one."""

    def __init__(self, pid: int, start_time_ticks: int, image: tuple[int, int], stat: int) -> None:
        self.pid = pid
        self._start_time_ticks, self._image = start_time_ticks, image
        self._stat = stat

    @classmethod
    def open(cls, pid: int, start_time_ticks: int, image: tuple[int, int]) -> Self | None:
        """The process, if it lives and is the one that is meant."""
        try:
            stat = os.open(PROC / str(pid) / "stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        handle = cls(pid, start_time_ticks, image, stat)
        if handle.is_same():
            return handle
        handle.close()
        return None

    def is_same(self) -> bool:
        """Whether it still lives, and has not become another program.

        The open file is of this very process: while it can be read, no other one can have the pid.
        """
        try:
            stat = parse_stat(os.pread(self._stat, _LONGEST_STAT_BYTES, 0))
        except OSError:
            return False
        if stat.has_ended:
            return False
        return stat.start_time_ticks == self._start_time_ticks and stat.image == self._image

    def close(self) -> None:
        """Let go of it."""
        with contextlib.suppress(OSError):
            os.close(self._stat)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
