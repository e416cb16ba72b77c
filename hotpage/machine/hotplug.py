# SPDX-License-Identifier: Apache-2.0
"""Memory coming and going: the kernel's uevents for memory blocks and nodes."""

import errno
import socket
import time
from dataclasses import dataclass
from typing import Any, Final, Literal

from hotpage.errors import UnsupportedError
from hotpage.machine.netlink import enlarge_buffer

_MESSAGE_BYTES: Final = 8192
_ACTIONS: Final[dict[tuple[str, str], Literal["online", "offline"]]] = {
    ("memory", "online"): "online",
    ("memory", "offline"): "offline",
    ("node", "add"): "online",
    ("node", "remove"): "offline",
}


@dataclass(frozen=True, slots=True)
class MemoryChange:
    """A memory block ("memory32") or node ("node1") has come or gone; after "lost", read the topology again.

    ``time_ns`` is when it was received, CLOCK_MONOTONIC.
    """

    action: Literal["online", "offline", "lost"]
    device: str
    time_ns: int


class MemoryHotplug:
    """Listens to the kernel's uevents, in pyroute2's decoding. Raises UnsupportedError where it may not."""

    def __init__(self) -> None:
        # Here, not above: it costs 0.15 s and 20 MB, which the other users of this package need not pay.
        from pyroute2.netlink import NETLINK_KOBJECT_UEVENT
        from pyroute2.netlink.uevent import MONITOR_GROUP_KERNEL, MarshalUevent

        self._marshal: Any = MarshalUevent()
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT)
        except OSError as error:
            raise UnsupportedError(f"uevents cannot be heard ({error.strerror})") from error
        try:
            enlarge_buffer(self._socket)
            # The kernel's own group: udev repeats every event in another one.
            self._socket.bind((0, MONITOR_GROUP_KERNEL))
        except OSError as error:
            self._socket.close()
            raise UnsupportedError(f"uevents cannot be heard ({error.strerror})") from error

    def fileno(self) -> int:
        """Readable when there is something to drain."""
        return self._socket.fileno()

    def drain(self) -> list[MemoryChange]:
        """What happened since the last call; never blocks."""
        changes: list[MemoryChange] = []
        while True:
            try:
                message = self._socket.recv(_MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return changes
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changes.append(MemoryChange("lost", "", time.monotonic_ns()))
                continue
            changes += self.parse(message)

    def parse(self, message: bytes) -> list[MemoryChange]:
        """The change that a uevent tells of; none if it is about something else."""
        return [
            MemoryChange(action, str(event["DEVPATH"]).rpartition("/")[2], time.monotonic_ns())
            for event in self._marshal.parse(message)
            if (action := _ACTIONS.get((event.get("SUBSYSTEM"), event.get("ACTION"))))
        ]

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
