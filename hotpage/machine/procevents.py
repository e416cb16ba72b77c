# SPDX-License-Identifier: Apache-2.0
"""Fork, exec and exit of processes as they happen: from the kernel's proc connector, else by comparing /proc.

Open the source first and scan /proc afterwards: then no process is missed, and one seen twice is the same
one.
"""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from hotpage.errors import PrivilegeError, UnsupportedError
from hotpage.machine.netlink import attach_filter, enlarge_buffer
from hotpage.machine.proc import PROC, Stat, read_living
from hotpage.machine.processes import list_pids

_MESSAGE_BYTES: Final = 4096
_ACK_TIMEOUT_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Fork:
    """A new process (never a thread). ``time_ns``, here and below: CLOCK_MONOTONIC."""

    pid: int
    parent: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Exec:
    """A process has replaced its memory."""

    pid: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Exit:
    """A process has ended, with its last thread."""

    pid: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Events before this time were lost: scan /proc again."""

    time_ns: int


ProcessEvent = Fork | Exec | Exit | Lost


class ProcessEvents(Protocol):
    """A source of process events."""

    @property
    def rung(self) -> str:
        """Which way won: "proc connector" or "polling"."""

    @property
    def reason(self) -> str:
        """Why the better way was not taken; empty if it was."""

    def fileno(self) -> int | None:
        """Readable when there is something to drain; None if it has to be drained regularly."""

    def drain(self) -> list[ProcessEvent]:
        """What happened since the last call, in order of time; never blocks."""

    def close(self) -> None:
        """Stop listening."""


def open_process_events() -> ProcessEvents:
    """The best source that works here."""
    try:
        return ConnectorProcessEvents()
    except (PrivilegeError, UnsupportedError) as error:
        return PollingProcessEvents(reason=str(error))


class ConnectorProcessEvents:
    """The kernel's proc connector (CONFIG_PROC_EVENTS), in pyroute2's messages.

    The socket is a plain one: pyroute2's runs an event loop, decodes an event in 50 µs, and waits forever
    where the kernel ignores the request (a pid namespace). A filter in the kernel drops threads and all
    other kinds of events. Raises PrivilegeError or UnsupportedError.
    """

    rung = "proc connector"
    reason = ""

    def __init__(self) -> None:
        # Here, not above: it costs 0.15 s and 20 MB, which the other users of this package need not pay.
        from pyroute2.netlink import NETLINK_CONNECTOR
        from pyroute2.netlink.connector import cn_proc

        self._layouts = {
            cn_proc.PROC_EVENT_NONE: _layout(cn_proc.proc_event_base, "I"),  # an acknowledgement's errno
            cn_proc.PROC_EVENT_FORK: _layout(cn_proc.proc_event_fork),
            cn_proc.PROC_EVENT_EXEC: _layout(cn_proc.proc_event_exec),
            cn_proc.PROC_EVENT_EXIT: _layout(cn_proc.proc_event_exit),
        }
        self._fork, self._exec, self._exit = (
            cn_proc.PROC_EVENT_FORK,
            cn_proc.PROC_EVENT_EXEC,
            cn_proc.PROC_EVENT_EXIT,
        )
        # pid -> time, of leaders that have exited while it is not known whether their threads have
        self._pending_exits: dict[int, int] = {}
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR)
        except OSError as error:
            raise _refused(error) from error
        try:
            attach_filter(self._socket, _process_filter(cn_proc))
            enlarge_buffer(self._socket)
            self._socket.bind((0, cn_proc.CN_IDX_PROC))
            self._listen(cn_proc)
        except OSError as error:
            self._socket.close()
            raise _refused(error) from error
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when there is something to drain."""
        return self._socket.fileno()

    def drain(self) -> list[ProcessEvent]:
        """What happened since the last call, in order of time; never blocks."""
        events: list[ProcessEvent] = []
        for fields in self._receive():
            if fields is None:
                events.append(Lost(time.monotonic_ns()))
                continue
            what, time_ns, data = fields
            if what == self._fork:
                _, parent, _, child = data
                # The pid is in use again, so the exit of its former process was one.
                events += self._confirmed_exits([child])
                events.append(Fork(child, parent, time_ns))
            elif what == self._exec:
                pid = data[1]
                # A thread that execs takes the place of the leader, which seemed to exit.
                self._pending_exits.pop(pid, None)
                events.append(Exec(pid, time_ns))
            elif what == self._exit:
                self._pending_exits[data[1]] = time_ns
        events += self._confirmed_exits([pid for pid in self._pending_exits if read_living(pid) is None])
        events.sort(key=lambda event: event.time_ns)
        return events

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _confirmed_exits(self, pids: list[int]) -> list[ProcessEvent]:
        """The kernel reports the exit of a group's leader, which may leave threads running: those wait."""
        return [Exit(pid, self._pending_exits.pop(pid)) for pid in pids if pid in self._pending_exits]

    def _listen(self, cn_proc: Any) -> None:
        message = cn_proc.proc_event_control()
        message["action"] = cn_proc.PROC_CN_MCAST_LISTEN
        message["idx"] = cn_proc.CN_IDX_PROC
        message["val"] = cn_proc.CN_VAL_PROC
        message["len"] = 4
        message["header"]["type"] = cn_proc.NLMSG_DONE
        message.encode()
        self._socket.send(message.data)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while poll.poll(_ACK_TIMEOUT_MS):
            # Others' events may come before the acknowledgement: whoever opens a source scans /proc
            # afterwards.
            for fields in self._receive():
                if fields is not None and fields[0] == cn_proc.PROC_EVENT_NONE:
                    if fields[2][0]:
                        raise OSError(fields[2][0], os.strerror(fields[2][0]))
                    return
        raise UnsupportedError("the kernel has no proc connector, or hides it from this pid namespace")

    def _receive(self) -> Iterator[tuple[int, int, tuple[int, ...]] | None]:
        """Each queued event's (what, time, data), and None where events were lost."""
        receive = self._socket.recv
        while True:
            try:
                message = receive(_MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None
                continue
            (what,) = _WHAT.unpack_from(message, _WHAT_OFFSET)
            if what in self._layouts:
                fields = self._layouts[what].unpack_from(message, _NETLINK_HEADER_BYTES)
                yield what, fields[_TIME_FIELD], fields[_TIME_FIELD + 1 :]


class PollingProcessEvents:
    """Compares /proc with what it was: later and coarser than the connector, but needs nothing.

    A process that lives for less than the interval is not seen.
    """

    rung = "polling"

    def __init__(self, interval_s: float = 0.5, reason: str = "", proc_root: Path = PROC) -> None:
        self.reason = reason
        self._interval_ns = int(interval_s * 1e9)
        self._proc_root = proc_root
        self._seen = self._scan()
        self._scanned_ns = time.monotonic_ns()

    def fileno(self) -> None:
        """Nothing becomes readable: drain regularly."""

    def drain(self) -> list[ProcessEvent]:
        """What happened since the last scan; scans no more often than the interval."""
        now_ns = time.monotonic_ns()
        if now_ns - self._scanned_ns < self._interval_ns:
            return []
        before, now = self._seen, self._scan()
        self._seen, self._scanned_ns = now, now_ns
        return list(_differences(before, now, now_ns))

    def close(self) -> None:
        """Nothing to stop."""

    def _scan(self) -> dict[int, Stat]:
        stats = ((pid, read_living(pid, self._proc_root)) for pid in list_pids(self._proc_root))
        return {pid: stat for pid, stat in stats if stat is not None}


def _differences(before: dict[int, Stat], now: dict[int, Stat], time_ns: int) -> Iterator[ProcessEvent]:
    for pid, old in before.items():
        if pid not in now or now[pid].start_time_ticks != old.start_time_ticks:
            yield Exit(pid, time_ns)
    for pid, stat in now.items():
        origin = before.get(pid)
        if origin is None or origin.start_time_ticks != stat.start_time_ticks:
            yield Fork(pid, stat.parent_pid, time_ns)
            # A fork has its parent's image; another one means an exec since.
            origin = now.get(stat.parent_pid)
        if origin is not None and origin.image != stat.image:
            yield Exec(pid, time_ns)


# A message: struct nlmsghdr, then the fields that pyroute2's classes list: struct cn_msg, what, cpu,
# timestamp_ns, data.
_NETLINK_HEADER_BYTES: Final = 16
_WHAT: Final = struct.Struct("=I")
_WHAT_OFFSET: Final = 36
_DATA_OFFSET: Final = 52
_TIME_FIELD: Final = 8


def _layout(message_class: Any, more: str = "") -> struct.Struct:
    return struct.Struct("=" + "".join(code for _name, code in message_class.fields) + more)


def _refused(error: OSError) -> PrivilegeError | UnsupportedError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return PrivilegeError("the proc connector is refused", "run hotpage as root")
    return UnsupportedError(f"the proc connector does not work ({error.strerror})")


def _process_filter(cn_proc: Any) -> bytes:
    """Classic BPF: accept forks of processes, execs, exits of group leaders, and acknowledgements."""
    load, transfer, equal, equal_x, give = 0x20, 0x07, 0x15, 0x1D, 0x06  # linux/bpf_common.h
    accept_bytes = 0xFFFF

    def word(value: int) -> int:
        return socket.htonl(value)  # a load converts from network order, the fields are in the machine's

    program = (
        (load, 0, 0, _WHAT_OFFSET),
        (equal, 12, 0, word(cn_proc.PROC_EVENT_EXEC)),
        (equal, 11, 0, word(cn_proc.PROC_EVENT_NONE)),
        (equal, 5, 0, word(cn_proc.PROC_EVENT_EXIT)),
        (equal, 0, 8, word(cn_proc.PROC_EVENT_FORK)),
        (load, 0, 0, _DATA_OFFSET + 8),  # fork: is child_pid the child_tgid?
        (transfer, 0, 0, 0),
        (load, 0, 0, _DATA_OFFSET + 12),
        (equal_x, 5, 4, 0),
        (load, 0, 0, _DATA_OFFSET),  # exit: is process_pid the process_tgid?
        (transfer, 0, 0, 0),
        (load, 0, 0, _DATA_OFFSET + 4),
        (equal_x, 1, 0, 0),
        (give, 0, 0, 0),
        (give, 0, 0, accept_bytes),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
