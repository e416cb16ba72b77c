# SPDX-License-Identifier: Apache-2.0
"""What attaches programs to hooks: a file descriptor each, and nothing is attached once it is closed."""

from __future__ import annotations

import contextlib
import os

from hotpage.capture import bpf
from hotpage.capture.sources import Attachment
from hotpage.errors import AttachError

_NO_CPU = -1


class Links:
    """The attachments of one capture."""

    def __init__(self) -> None:
        self._fds: dict[tuple[str, str, int], int] = {}

    def attach(self, attachment: Attachment, program: int) -> None:
        """Attach; a perf event on every CPU that is online. Raises AttachError unless it is optional."""
        cpus = bpf.online_cpus() if attachment.kind == "perf_event" else [_NO_CPU]
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
        if attachment.kind != "perf_event":
            return
        online = bpf.online_cpus()
        for key in [key for key in self._fds if key[:2] == _hook(attachment) and key[2] not in online]:
            os.close(self._fds.pop(key))
        for cpu in online:
            with contextlib.suppress(OSError):
                self._attach_once(attachment, program, cpu)

    def _attach_once(self, attachment: Attachment, program: int, cpu: int) -> None:
        key = (*_hook(attachment), cpu)
        if key in self._fds:
            return
        if attachment.kind == "raw_tracepoint":
            self._fds[key] = bpf.attach_raw_tracepoint(attachment.hook, program)
        elif attachment.kind == "fentry":
            self._fds[key] = bpf.attach_raw_tracepoint(None, program)
        elif attachment.kind == "kprobe":
            self._fds[key] = bpf.attach_kprobe(attachment.hook, program)
        else:
            self._fds[key] = bpf.attach_page_fault_event(cpu, program)

    def close(self) -> None:
        """Detach everything."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def _hook(attachment: Attachment) -> tuple[str, str]:
    return attachment.kind, attachment.hook
