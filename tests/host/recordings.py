# SPDX-License-Identifier: Apache-2.0
"""``hotpage record`` in the background of a test."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from toucher import DEADLINE_S, wait_for

from hotpage.profile.disk.reader import ProfileReader
from hotpage.profile.snapshot import Snapshot

HOTPAGE = [sys.executable, "-m", "hotpage"]
RECORD = [*HOTPAGE, "record"]


class Recording:
    """``hotpage record`` in the background."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.said = ""
        self.process = subprocess.Popen(
            [*RECORD, "-o", str(directory), "--interval", "0.5", "--budget", "100", *options],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def await_start(self) -> "Recording":
        """The target is set soon after it has said what it records, and surely with the first interval."""
        assert self.process.stderr is not None
        while "recording" not in (line := self.process.stderr.readline()):
            assert line, f"it ended: {self.said}"
            self.said += line
        self.said += line
        self.await_interval()
        return self

    @property
    def intervals(self) -> int:
        """How many intervals have been written."""
        # Part files are merged as they get many: only who reads them knows.
        if not any((self.directory / "intervals").glob("part*")):
            return 0
        return self.snapshot().usage.intervals

    def await_interval(self, number: int = 1) -> None:
        """Some intervals have been written."""
        self._wait(lambda: self.intervals >= number, f"interval {number} is written")

    def await_now(self) -> None:
        """All that has happened until now has been written."""
        now_s = (time.monotonic_ns() - self.snapshot().run.origin_monotonic_ns) / 1e9
        self._wait(lambda: self.snapshot().time_s > now_s, "all until now is written")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait, and if it is in vain say what the recorder does instead."""
        try:
            wait_for(lambda: condition() or self.process.poll() is not None, what, 0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}; its threads: {self._threads()}") from None
        if not condition():
            self.finish()
            raise AssertionError(f"never came true: {what}; it ended: {self.said}")

    def _threads(self) -> list[str]:
        """The state of each thread, and where it waits in the kernel."""
        found = []
        with suppress(OSError):  # it has gone
            for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
                state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
                found.append(f"{state} {(thread / 'stack').read_text().splitlines()[:6]}")
        return found

    def finish(self) -> int:
        _, said = self.process.communicate(timeout=DEADLINE_S)
        self.said += said
        return self.process.returncode

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.finish()

    def snapshot(self) -> Snapshot:
        reader = ProfileReader(self.directory)
        snapshot = reader.snapshot()
        assert not reader.problems
        return snapshot
