# SPDX-License-Identifier: Apache-2.0
"""What attaches programs to hooks: a file descriptor each, and nothing is attached once it is closed."""

from __future__ import annotations

import contextlib
import os

from hotpage.capture import bpf, perf
from hotpage.capture.sources import Attachment
from hotpage.capture.watch import Watch
from hotpage.errors import AttachError

_NO_CPU = -1


class Links:
    """The attachments of one capture."""

    def __init__(self) -> None:
        self._fds: dict[tuple[str, str, int], list[int]] = {}
        self._watches: dict[tuple[str, str, int], Watch] = {}

    def attach(self, attachment: Attachment, program: int) -> None:
        """Attach; a perf event on every CPU that is online. Raises AttachError unless it is optional."""
        cpus = attachment.event.online_cpus() if attachment.event else [_NO_CPU]
        try:
            for cpu in cpus:
                self._attach_once(attachment, program, cpu)
        except OSError as error:
            if not attachment.optional:
                raise AttachError(
                    f"cannot attach to {attachment.hook} ({error.strerror})", "see hotpage doctor"
                ) from error

    def follow_cpus(self, attachment: Attachment, program: int) -> None:
        """Cover the CPUs that came online since: a perf event sees one, and nothing more once that has gone.

        A CPU that comes and goes meanwhile is tried again the next time.
        """
        if attachment.event is None:
            return
        online = attachment.event.online_cpus()
        for key in [key for key in self._fds if key[:2] == _hook(attachment) and key[2] not in online]:
            if key in self._watches:
                self._watches.pop(key).close()
            _close(self._fds.pop(key))
        for cpu in online:
            with contextlib.suppress(OSError):
                self._attach_once(attachment, program, cpu)

    def _attach_once(self, attachment: Attachment, program: int, cpu: int) -> None:
        key = (*_hook(attachment), cpu)
        if key in self._fds:
            return
        if attachment.event is not None:
            self._fds[key] = perf.attach(attachment.event, cpu, program)
            if attachment.event.data_source:  # a sample stands for accesses: how long none came matters
                self._watches[key] = Watch(self._fds[key][-1])
        elif attachment.kind == "raw_tracepoint":
            self._fds[key] = [bpf.attach_raw_tracepoint(attachment.hook, program)]
        elif attachment.kind == "fentry":
            self._fds[key] = [bpf.attach_raw_tracepoint(None, program)]
        else:
            self._fds[key] = perf.attach_kprobe(attachment.hook, program)

    def unwatched_s(self) -> tuple[float, int]:
        """Seconds for which the sampling events attached now stood still, summed, and their number."""
        total_ns = sum(watch.unwatched_ns() for watch in self._watches.values())
        return total_ns / 1e9, len(self._watches)

    def close(self) -> None:
        """Detach everything."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        for fds in self._fds.values():
            _close(fds)
        self._fds.clear()


def _close(fds: list[int]) -> None:
    """The head of a group last."""
    for fd in reversed(fds):
        os.close(fd)


def _hook(attachment: Attachment) -> tuple[str, str]:
    return attachment.kind, attachment.hook
