# SPDX-License-Identifier: Apache-2.0
"""A real terminal under tmux, and ``hotpage top`` in it."""

import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from patience import PATIENCE_S
from recordings import HOTPAGE


class Terminal:
    """A shell in tmux, on a server of its own."""

    def __init__(
        self, directory: Path, width: int = 80, height: int = 24, patience_s: float = PATIENCE_S
    ) -> None:
        self.directory = directory
        self._patience_s = patience_s
        self._socket = directory / "tmux"
        self._tmux(
            *("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height)),
            *("-c", str(directory), "env", "PS1=ready$ ", "LC_ALL=C.UTF-8", "sh"),
        )
        self._tmux("set-option", "-g", "history-limit", "1000")
        self.pane = int(self._tmux("display-message", "-p", "#{pane_pid}"))
        self.until(lambda shown: "ready$" in shown)

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._socket), *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=self._patience_s)
        return done.stdout

    def shown(self) -> str:
        return self._tmux("capture-pane", "-p")

    def until(self, holds: Callable[[str], bool]) -> str:
        deadline = time.monotonic() + self._patience_s
        while not holds(shown := self.shown()):
            assert time.monotonic() < deadline, shown
            time.sleep(0.1)
        return shown

    def keys(self, *names: str) -> None:
        self._tmux("send-keys", *names)

    def type(self, line: str) -> None:
        self._tmux("send-keys", "-l", line)
        self.keys("Enter")

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def close(self) -> None:
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], capture_output=True)


def start_top(terminal: Terminal, *options: str) -> int:
    """Start top in the terminal and wait for its table; its process id."""
    pid_file = terminal.directory / "pid"
    command = shlex.join([*HOTPAGE, "top", "-d", "0.5", *options])
    terminal.type(
        f"stty -a >before; clear; sh -c 'echo $$ >pid; exec {command}'; echo status $?; stty -a >after"
    )
    terminal.until(lambda shown: "F10Quit" in shown and " PID " in shown and "exerciser" in shown)
    return int(pid_file.read_text())


def check_left(terminal: Terminal, status: int) -> None:
    """The terminal is as before: the shell's screen, its settings, a visible cursor, no mouse reports."""
    shown = terminal.until(lambda shown: "status " in shown and shown.rstrip().endswith("ready$"))
    assert f"status {status}" in shown
    assert "F10Quit" not in shown
    before, after = ((terminal.directory / name).read_text() for name in ("before", "after"))
    assert before == after
    flags = "#{alternate_on} #{mouse_any_flag} #{cursor_flag}"
    assert terminal._tmux("display-message", "-p", flags).split() == ["0", "0", "1"]
