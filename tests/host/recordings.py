# SPDX-License-Identifier: Apache-2.0
"""``hotpage record`` in the background of a test."""

import signal
import subprocess
import sys
from pathlib import Path

from toucher import wait_for

from hotpage.profile.reader import ProfileReader
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

    def await_interval(self, number: int = 1) -> None:
        """Some intervals have been written."""
        folder = self.directory / "intervals"
        wait_for(lambda: len(list(folder.glob("part*"))) >= number, f"interval {number}")

    def finish(self) -> int:
        _, said = self.process.communicate(timeout=120)
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
