# SPDX-License-Identifier: Apache-2.0
"""Hint faults for single-threaded processes: hold a reference on their memory (mm_users) from outside.

The kernel's NUMA scan skips a process whose mm has a single user (task_numa_work). A read of /proc/PID/mem
that blocks half-way, in a helper process (see _holdchild.py), is a second user; the target itself is not
touched. The price: its memory is not freed at exit or exec before the read ends, which the helper sees to
by itself.
"""

import errno
import os
import selectors
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from hotpage.errors import HotpageError, PrivilegeError, UnsupportedError
from hotpage.machine.proc import Stat, read_living
from hotpage.machine.processes import Process

_HELPER: Final = Path(__file__).with_name("_holdchild.py")
_START_TIMEOUT_S: Final = 20.0
_END_TIMEOUT_S: Final = 2.0
_MESSAGE_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class HoldEvent:
    """What became of a hold; ``reason``: asked, exit or exec for "released", words for "failed"."""

    kind: Literal["held", "released", "failed"]
    pid: int
    reason: str = ""


class MmHolder:
    """Holds the memory of single-threaded processes until released, or until they exit or exec.

    To be made in the main thread: the kernel ends the helper when the thread that started it ends.
    Raises UnsupportedError (no userfaultfd in this kernel) or PrivilegeError.
    """

    def __init__(self) -> None:
        self._held: set[int] = set()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        with theirs:
            self._helper = subprocess.Popen(
                [sys.executable, "-I", "-S", _HELPER, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Away from the terminal's signals: a Ctrl-Z that stops hotpage must not stop the helper.
                start_new_session=True,
            )
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def helper_pid(self) -> int:
        """The helper's process id, to be left out of profiles."""
        return self._helper.pid

    @property
    def held(self) -> frozenset[int]:
        """The pids that are held, as of the last ``poll``."""
        return frozenset(self._held)

    def fileno(self) -> int:
        """Readable when ``poll`` has something to tell."""
        return self._socket.fileno()

    def hold(self, process: Process) -> bool:
        """Ask for a process to be held; ``poll`` tells when it is.

        False, and nothing asked, if it has gone or has several threads (which needs no hold), or the helper
        is too busy to be asked now.
        """
        stat = _stat_to_hold(process)
        if stat is None:
            return False
        # The words at the initial stack pointer (argc) are mapped in every process and were written by exec.
        return self._send(f"hold {process.pid} {stat.start_time_ticks} {stat.start_stack & ~7}")

    def release(self, pid: int) -> bool:
        """Ask for a process to be let go; no effect if it is not held. False if the helper is too busy."""
        return self._send(f"release {pid}")

    def poll(self) -> list[HoldEvent]:
        """What happened since the last call; never blocks. Raises HotpageError if the helper has died."""
        events: list[HoldEvent] = []
        while True:
            try:
                message = self._socket.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return events
            except ConnectionError:
                message = b""
            if not message:
                raise self._died()
            event = _parse(message)
            (self._held.add if event.kind == "held" else self._held.discard)(event.pid)
            events.append(event)

    def close(self) -> None:
        """Release everything and end the helper."""
        self._socket.close()
        try:
            self._helper.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._helper.kill()
            self._helper.wait()
        self._held.clear()

    def _await_ready(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            if not selector.select(_START_TIMEOUT_S):
                raise HotpageError("the helper that holds memory does not start")
        verb, *rest = self._socket.recv(_MESSAGE_BYTES).decode().split(" ", 2)
        if verb == "error":
            raise _unusable(int(rest[0]))
        if verb != "ready":
            raise self._died()

    def _send(self, message: str) -> bool:
        try:
            self._socket.send(message.encode())
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._died() from error
        return True

    def _died(self) -> HotpageError:
        return HotpageError("the helper that holds memory has died")


def needs_hold(process: Process) -> bool:
    """Whether it lives and has one thread only."""
    return _stat_to_hold(process) is not None


def _stat_to_hold(process: Process) -> Stat | None:
    stat = read_living(process.pid, start_time_ticks=process.start_time_ticks)
    return stat if stat is not None and stat.threads == 1 else None


def _parse(message: bytes) -> HoldEvent:
    verb, pid, *reason = message.decode().split(" ", 2)
    kind: Literal["held", "released", "failed"]
    match verb:
        case "held":
            kind = "held"
        case "released":
            kind = "released"
        case _:
            kind = "failed"
    return HoldEvent(kind, int(pid), *reason)


def _unusable(number: int) -> HotpageError:
    if number == errno.ENOSYS:
        return UnsupportedError("this kernel has no userfaultfd", "profile multi-threaded processes")
    if number == errno.EPERM:
        return PrivilegeError("userfaultfd is refused", "run hotpage as root")
    return UnsupportedError(f"userfaultfd fails ({os.strerror(number)})")
