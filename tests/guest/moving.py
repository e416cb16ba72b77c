# SPDX-License-Identifier: Apache-2.0
"""movetarget.py, started, told what to do, and asked where its pages are; and a profile of it by hand."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from commands import run_hotpage
from movetarget import PAGE, PAGES
from profiles import changes, interval, run_info, vma
from shells import waiting_shell

from hotpage.machine.proc import PROC, read_stat
from hotpage.machine.processes import ProcessTable
from hotpage.placement.plan import ProcessFacts
from hotpage.profile.disk.store import ProfileWriter
from hotpage.profile.snapshot import ProcessRecord, RunEnd

FAST, SLOW = 0, 1


class Target:
    """movetarget.py in the background, its memory on one node."""

    def __init__(
        self, node: int, preexec: str = ":", pages: int = PAGES, shell: subprocess.Popen[str] | None = None
    ) -> None:
        script = str(Path(__file__).with_name("movetarget.py"))
        command = shlex.join([sys.executable, script, str(node), str(pages)])
        self._process = shell or waiting_shell()
        self.pid = self._process.pid
        self._send(f'set -- {command}; {preexec}; exec "$@"')
        self.address = int(self._answer())
        self.vpn = self.address // PAGE + np.arange(pages, dtype=np.int64)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the target has died"
        return line.strip()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def tell(self, *words: object) -> str:
        self._send(" ".join(map(str, words)))
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


@contextlib.contextmanager
def filled(node: int) -> Iterator[None]:
    """Others have the node's memory but for a little (filler.py)."""
    filler = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("filler.py")), str(node)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert filler.stdout is not None
        assert filler.stdout.readline().strip() == "full"
        yield
    finally:
        filler.kill()
        filler.communicate()


def write_profile(target: Target, directory: Path, rate_hz: Callable[[int], float]) -> Path:
    """A profile in which every page of the target has a rate, by its number."""
    process = ProcessTable().add(target.pid)
    assert process is not None
    first, count = int(target.vpn[0]), target.vpn.size
    boot_id = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    writer = ProfileWriter(directory, run_info(boot_id=boot_id))
    mapping = vma(first, first + count, {SLOW: count * PAGE}, "")
    rates = changes(*((0, first + page, rate_hz(page)) for page in range(count)))
    writer.interval(interval(1, rates, processes=[ProcessRecord(process, 0.0)], vmas={0: [mapping]}))
    writer.close(RunEnd(1.0, "complete"))
    return directory


def run_move(profile: Path, *options: object) -> subprocess.CompletedProcess[str]:
    return run_hotpage("move", "-i", profile, *options)


def move(profile: Path, *options: object) -> tuple[int, dict[str, Any], str]:
    """``hotpage move --json``: its status, its document, and what it says; the sums have to be right."""
    done = run_move(profile, "--json", *options)
    document = json.loads(done.stdout)
    assert_accounted(document)
    return done.returncode, document, done.stderr


def assert_accounted(document: dict[str, Any]) -> None:
    """Every byte that was asked for has one result."""
    assert document["planned_bytes"] == sum(one["bytes"] for one in document["moves"])
    if "result" in document:
        result = document["result"]
        assert result["requested_bytes"] == document["planned_bytes"] == sum(result["bytes"].values())
        assert result["moved_bytes"] == result["bytes"].get("moved", 0)
