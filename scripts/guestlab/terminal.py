# SPDX-License-Identifier: Apache-2.0
"""A shell in a guest, on this terminal."""

import os
import select
import shutil
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guestlab.errors import LabError
from guestlab.guest import Guest
from guestlab.topology import Topology


def shell(image: Path, kernel: str, machine: Topology, directory: Path) -> int:
    """Until the shell is left; return its exit status. Raises LabError where there is no terminal."""
    if sys.stdin is None or not sys.stdin.isatty() or not sys.stdout.isatty():
        raise LabError("a shell needs a terminal; give a command after --")
    columns, rows = shutil.get_terminal_size()
    command = ["sh", "-c", f"stty rows {rows} cols {columns} iutf8; exec ${{SHELL:-/bin/bash}} -i"]
    environment = {"TERM": os.environ.get("TERM", "dumb"), "SHELL": "/bin/bash"}
    guest = Guest(
        image,
        machine,
        command,
        kernel=kernel,
        output=lambda number, block: None,
        directory=directory,
        environment=environment,
        terminal=True,
    )
    with guest:
        print(f"hotpage: booting Linux {kernel} with {machine.summary}", file=sys.stderr)
        guest.wait_for_boot()
        with socket.socket(socket.AF_UNIX) as line, _raw(sys.stdin.fileno()):
            line.connect(str(guest.terminal_path))
            _talk(guest, line)
        return guest.wait()


def _talk(guest: Guest, line: socket.socket) -> None:
    keyboard = sys.stdin.fileno()
    while guest.is_running():
        ready, _, _ = select.select([keyboard, line], [], [], 0.2)
        if line in ready:
            try:
                block = line.recv(65536)
            except ConnectionResetError:
                block = b""
            if not block:
                return
            os.write(sys.stdout.fileno(), block)
        if keyboard in ready:
            typed = os.read(keyboard, 4096)
            if not typed:
                return
            line.sendall(typed)


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Every key goes to the guest, Ctrl-C as well; the terminal is put back however this ends."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
