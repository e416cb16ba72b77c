# SPDX-License-Identifier: Apache-2.0
"""What systemd wants to be told, sd_notify(3): datagrams to the socket that $NOTIFY_SOCKET names."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping


class Notifier:
    """Does nothing where nobody listens."""

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._clock = clock
        self._fed_s = float("-inf")
        # Three signs of life in the time that the watchdog waits, so that a late one does no harm.
        self._feed_every_s = int(environment.get("WATCHDOG_USEC") or 0) / 3e6

    def ready(self, status: str) -> None:
        """It has started, or has taken a new configuration over."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """It is reading its configuration."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """A line for ``systemctl status``."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """It is about to end."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """A sign of life for the watchdog; as often as the caller likes."""
        if self._feed_every_s and self._clock() - self._fed_s >= self._feed_every_s:
            self._fed_s = self._clock()
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.sendto(text.encode(errors="replace"), self._address)
