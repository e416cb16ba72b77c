# SPDX-License-Identifier: Apache-2.0
"""``record -- CMD``: a command that starts only when everything is attached."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hotpage.errors import TargetError

_PATIENCE_S = 3.0
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_NEVER_RUN = 130
"""As of an interrupt, which is why it did not run."""


class CommandError(TargetError):
    """The command cannot be run; the exit status is the one that a shell gives then."""

    def __init__(self, word: str, number: int) -> None:
        super().__init__(f"cannot run {word} ({os.strerror(number)})")
        self.exit_status = _NOT_FOUND if number == errno.ENOENT else _NOT_EXECUTABLE


class Command:
    """A child process that waits before exec until it is released, with all of hotpage's privileges.

    Forked at once, before threads exist and before privileges are dropped. Should hotpage die first, the
    child sees the end of its pipe and exits without running the command.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Raises CommandError at once for a command that does not exist."""
        self._words = list(words)
        if shutil.which(self._words[0], mode=os.F_OK) is None:
            is_there = Path(self._words[0]).exists()  # a directory
            raise CommandError(self._words[0], errno.EACCES if is_there else errno.ENOENT)
        self._status: int | None = None
        release_read, self._release = os.pipe()
        self._problem, problem_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._wait_and_exec(release_read, problem_write)
        os.close(release_read)
        os.close(problem_write)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _wait_and_exec(self, release: int, problem: int) -> None:
        """In the child; does not return."""
        os.close(self._release)
        try:
            if os.read(release, 1):
                for number in _IGNORED_BY_PYTHON:
                    signal.signal(number, signal.SIG_DFL)
                os.execvp(self._words[0], self._words)
        except OSError as error:
            os.write(problem, str(error.errno).encode())
        finally:
            os._exit(127)

    def release(self) -> None:
        """Let the command run; raises CommandError if it cannot."""
        os.write(self._release, b"x")
        os.close(self._release)
        self._release = -1
        problem = os.read(self._problem, 16)  # ends empty when exec closes the pipe
        os.close(self._problem)
        if problem:
            self.poll()
            raise CommandError(self._words[0], int(problem))

    def poll(self) -> int | None:
        """Its exit status as a shell gives it (128 + signal), None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code
        return self._status

    def end(self) -> int:
        """Ask it to terminate if it still runs, insist after a while; its exit status.

        An interrupt meanwhile ends it at once, and is raised on.
        """
        never_ran = self._release >= 0
        if never_ran:
            os.close(self._release)  # it exits by itself
            self._release = -1
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                self._signal(number)
                deadline = time.monotonic() + _PATIENCE_S
                while self.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.01)
        except BaseException:
            self._signal(signal.SIGKILL)
            raise
        status = _NEVER_RUN if never_ran else self.poll()
        return 137 if status is None else status

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)
