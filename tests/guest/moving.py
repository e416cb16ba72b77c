# SPDX-License-Identifier: Apache-2.0
"""movetarget.py, started, told what to do, and asked where its pages are."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from movetarget import PAGE, PAGES

from hotpage.machine.proc import read_stat
from hotpage.placement.plan import ProcessFacts

FAST, SLOW = 0, 1


class Target:
    """movetarget.py in the background, its memory on one node."""

    def __init__(self, node: int, preexec: str = "", pages: int = PAGES) -> None:
        script = str(Path(__file__).with_name("movetarget.py"))
        command = [sys.executable, script, str(node), str(pages)]
        if preexec:
            command = ["sh", "-c", f'{preexec}; exec "$@"', "sh", *command]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.pid = self._process.pid
        self.address = int(self._answer())
        self.vpn = self.address // PAGE + np.arange(pages, dtype=np.int64)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the target has died"
        return line.strip()

    def tell(self, *words: object) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return self._answer() if words[0] != "exec" else ""

    def facts(self) -> ProcessFacts:
        stat = read_stat(self.pid)
        assert stat is not None
        return ProcessFacts(self.pid, stat.start_time_ticks, stat.image, stat.comm, "/", frozenset({0, 1}))

    def pages_on(self, node: int) -> int:
        """Of its memory, by numa_maps (where armed and protected pages count as well)."""
        found = 0
        for line in Path(f"/proc/{self.pid}/numa_maps").read_text().splitlines():
            start, *fields = line.split()
            if self.address <= int(start, 16) < self.address + self.vpn.size * PAGE:
                found += sum(int(field[3:]) for field in fields if field.startswith(f"N{node}="))
        return found

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        with_children = os.getpgid(self.pid) if self._process.poll() is None else 0
        if with_children:
            os.killpg(with_children, signal.SIGKILL)
        self._process.communicate()

    def await_age(self, seconds: float) -> None:
        """Until the process is so old: placement does not demote pages of younger ones."""
        born_s = self.facts().start_time_ticks / os.sysconf("SC_CLK_TCK")
        while (uptime_s := float(Path("/proc/uptime").read_text().split()[0])) < born_s + seconds:
            time.sleep(born_s + seconds - uptime_s + 0.1)
