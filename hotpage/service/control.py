# SPDX-License-Identifier: Apache-2.0
"""The service's socket in its state directory: one question a connection, a line of JSON each way; root only.

The lock beside it keeps a second service out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotpage.errors import SessionConflictError, TargetError, UsageError

ANSWER_TIMEOUT_S = 60.0
_SOCKET, _LOCK = "auto.sock", "auto.lock"


@dataclass
class Question:
    """Why is a page where it is?"""

    pid: int
    address: int
    answer: dict[str, Any] | None = None
    is_answered: threading.Event = field(default_factory=threading.Event)

    def reply(self, answer: dict[str, Any]) -> None:
        """Let whoever asked go on."""
        self.answer = answer
        self.is_answered.set()


class Control:
    """Context manager: owns the state directory, and takes questions. ``questions`` is for the service.

    Raises SessionConflictError while another service has the directory, UsageError if it cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        self.questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self._directory = directory
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)

    def __enter__(self) -> Control:
        try:
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._lock = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(  # of the configuration: to try again would not help
                f"the state directory {self._directory} cannot be used ({error.strerror})",
                "set another state_dir",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise SessionConflictError(
                f"another hotpage auto runs with {self._directory}", "stop it, or set another state_dir"
            ) from None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        (self._directory / _SOCKET).unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            with _short_path(self._directory) as path:
                self._listener.bind(path)
        finally:
            os.umask(before)
        self._listener.listen(8)
        self._listener.settimeout(0.2)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._listener.close()
        (self._directory / _SOCKET).unlink(missing_ok=True)
        os.close(self._lock)

    def _serve(self) -> None:
        while not self._is_over.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with connection, contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                connection.settimeout(5.0)
                words = json.loads(_line_of(connection))
                question = Question(int(words["pid"]), int(words["address"]))
                self.questions.put(question)
                end_s = time.monotonic() + ANSWER_TIMEOUT_S + 1.0  # whoever asked gives up first
                while not question.is_answered.wait(0.2):
                    if self._is_over.is_set():
                        return
                    if time.monotonic() > end_s:
                        raise TimeoutError
                connection.sendall(json.dumps(question.answer).encode() + b"\n")


def ask(directory: Path, pid: int, address: int) -> dict[str, Any]:
    """What the service of a state directory says about a page. Raises TargetError if there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as to:
        to.settimeout(ANSWER_TIMEOUT_S)
        try:
            with _short_path(directory) as path:
                to.connect(path)
            to.sendall(json.dumps({"pid": pid, "address": address}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(_line_of(to))
        except TimeoutError:
            raise TargetError(f"the service in {directory} did not answer", "see its log") from None
        except OSError as error:
            raise TargetError(
                f"no hotpage auto answers in {directory} ({error.strerror})",
                "start it, or name its --state-dir",
            ) from None
        except ValueError:
            raise TargetError(f"the service in {directory} ended before it answered") from None
    return answer


def _line_of(connection: socket.socket) -> bytes:
    text = b""
    while not text.endswith(b"\n") and (more := connection.recv(1 << 16)):
        text += more
        if len(text) > 1 << 20:
            raise ValueError("too long")
    return text


@contextlib.contextmanager
def _short_path(directory: Path) -> Iterator[str]:
    """The socket's path through a descriptor: addresses of sockets have 107 bytes at most."""
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{_SOCKET}"
    finally:
        os.close(fd)
