# SPDX-License-Identifier: Apache-2.0
"""``hotpage top`` on a live workload: in a real terminal under tmux, and in batch mode."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from recordings import HOTPAGE
from terminals import PATIENCE_S, Terminal, check_left, start_top
from toucher import wait_for
from wrongusage import check_wrong_usage

from hotpage.exerciser import Exerciser
from hotpage.machine.cgroups import cgroup_mount
from hotpage.machine.proc import read_stat
from hotpage.profile.disk.reader import ProfileReader

pytestmark = pytest.mark.needs("bcc", "tmux")

BALANCING = Path("/proc/sys/kernel/numa_balancing")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_stays_loaded: None) -> Iterator[None]:
    """A state directory of our own; afterwards nothing is attached and the knobs are as before."""
    monkeypatch.setenv("HOTPAGE_STATE_DIR", str(tmp_path / "state"))
    yield
    assert BALANCING.read_text().strip() == "0"
    assert not (tmp_path / "state" / "knobs.json").exists()


@pytest.fixture(scope="module")
def workload() -> Iterator[Exerciser]:
    with Exerciser.start(mib=16, threads=2) as exerciser:
        yield exerciser


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


def test_a_session_in_a_terminal(terminal: Terminal) -> None:
    with Exerciser.start(mib=16, threads=2) as workload:  # young, so that it is armed often
        look_around(terminal, workload)


def look_around(terminal: Terminal, workload: Exerciser) -> None:
    start_top(terminal, "--arm", "-p", str(workload.pid))
    assert BALANCING.exists()
    terminal.until(lambda shown: "hot > " in shown)  # rates have arrived
    if "tier 1" not in terminal.shown():
        terminal.keys("F7")
        terminal.until(lambda shown: "there is nowhere to move pages to" in shown)
    terminal.until(lambda shown: "ACC/S▼" in shown)
    terminal.keys("M")
    terminal.until(lambda shown: "RSS▼" in shown)
    terminal.keys("Enter")
    terminal.until(lambda shown: "HEAT STRIP" in shown and "[anon]" in shown)
    terminal.keys("M")
    terminal.until(lambda shown: "RSS▼" in shown)
    terminal.keys("Home", "Enter")
    terminal.until(lambda shown: "RATE, LOG" in shown and f"{workload.base:x}"[:6] in shown)
    terminal.keys("Home", "Enter")
    shown = terminal.until(
        lambda shown: ("LATENCY" in shown and "of 1" in shown) or " us " in shown or " ms " in shown
    )
    assert "NODE" in shown
    terminal.keys("Escape")
    terminal.until(lambda shown: "RATE, LOG" in shown)
    terminal.resize(160, 50)
    terminal.until(lambda shown: len(shown.splitlines()) == 50 and "F10Quit" in shown.splitlines()[-1])
    terminal.resize(80, 24)
    terminal.until(lambda shown: "F10Quit" in shown.splitlines()[-1])
    terminal.keys("q")
    check_left(terminal, 0)


def test_recording_from_top(terminal: Terminal, workload: Exerciser) -> None:
    start_top(terminal, "--arm", "-p", str(workload.pid))
    terminal.keys("R")
    terminal.until(lambda shown: "recording 1" in shown or "recording 2" in shown)
    terminal.keys("R")
    terminal.until(lambda shown: "recorded; see it with" in shown)
    terminal.keys("F10")
    check_left(terminal, 0)
    (directory,) = terminal.directory.glob("hotpage-*")
    snapshot = ProfileReader(directory).snapshot()
    assert snapshot.end is not None and snapshot.end.status == "complete"
    assert not snapshot.problems
    assert workload.pid in {record.process.pid for record in snapshot.processes.values()}
    assert snapshot.usage.window_s >= 1.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_leave_everything_as_it_was(
    terminal: Terminal, workload: Exerciser, number: signal.Signals
) -> None:
    pid = start_top(terminal, "--arm", "-p", str(workload.pid))
    os.kill(pid, number)
    check_left(terminal, 0)


def test_a_closed_terminal_restores_the_knobs(terminal: Terminal, workload: Exerciser) -> None:
    pid = start_top(terminal, "--arm", "-p", str(workload.pid))
    terminal.close()
    wait_for(lambda: (stat := read_stat(pid)) is None or stat.has_ended, "top has ended")


def test_the_screen_is_drawn_anew_over_what_others_wrote(terminal: Terminal, workload: Exerciser) -> None:
    start_top(terminal, "-p", str(workload.pid))
    # Otherwise a refresh may draw over the message before it is looked at.
    terminal.keys("Z")
    terminal.until(lambda shown: "FROZEN" in shown)
    tty = Path(terminal._tmux("display-message", "-p", "#{pane_tty}").strip())
    tty.write_text("\033[15;1Hsomebody's message")
    terminal.until(lambda shown: "somebody's message" in shown)
    terminal.keys("C-l")
    terminal.until(lambda shown: "somebody's message" not in shown and "1 of 1" in shown)
    terminal.keys("q")
    check_left(terminal, 0)


def test_control_c(terminal: Terminal, workload: Exerciser) -> None:
    start_top(terminal, "-p", str(workload.pid))
    terminal.keys("C-c")
    check_left(terminal, 0)


def test_targets_come_and_go(terminal: Terminal, workload: Exerciser) -> None:
    start_top(terminal, "--comm", "exerciser")
    with Exerciser.start(mib=4, threads=1, pattern="storm") as other:
        terminal.until(lambda shown: f" {other.pid} " in shown)
    terminal.until(lambda shown: f" {other.pid} " not in shown)
    terminal.keys("q")
    check_left(terminal, 0)


def test_the_last_target_goes(terminal: Terminal) -> None:
    with Exerciser.start(mib=4, threads=1) as only:
        start_top(terminal, "-p", str(only.pid))
    terminal.until(lambda shown: "ended: target exited" in shown)
    terminal.keys("q")
    check_left(terminal, 0)


def batch(*options: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [*HOTPAGE, "top", "-b", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, **more)


def test_batch_mode(workload: Exerciser) -> None:
    done = batch("-d", "0.5", "-n", "3", "-p", str(workload.pid))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" PID ") == 3
    assert done.stdout.count(f"{workload.pid} ") >= 3


def test_a_cgroup_or_everything(tmp_path: Path, workload: Exerciser) -> None:
    def pids(*target: str) -> set[int]:
        done = batch("-d", "0.5", "-n", "3", "--json", *target)
        assert done.returncode == 0, done.stderr
        return {row["pid"] for line in done.stdout.splitlines() for row in json.loads(line)["processes"]}

    cgroup = cgroup_mount() / f"hotpage-test-top-{os.getpid()}"
    cgroup.mkdir()
    try:
        with Exerciser.start(mib=4, threads=1, pattern="storm") as member:
            (cgroup / "cgroup.procs").write_text(str(member.pid))
            assert pids("--cgroup", f"/{cgroup.name}") == {member.pid}
            assert member.pid in pids("-a")
            assert member.pid in pids()
    finally:
        wait_for(lambda: not (cgroup / "cgroup.procs").read_text(), "the cgroup is empty")
        cgroup.rmdir()


def test_batch_lines_of_json(workload: Exerciser) -> None:
    done = batch("-d", "0.5", "-n", "4", "--json", "--arm", "-p", str(workload.pid))
    assert done.returncode == 0, done.stderr
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(documents) == 4
    assert [d["time_s"] for d in documents] == sorted({d["time_s"] for d in documents})
    assert documents[-1]["armed"] and documents[-1]["sees_rates"]
    assert documents[-1]["processes"][0]["pid"] == workload.pid
    assert documents[-1]["processes"][0]["resident_bytes"] > 16 << 20


def test_rates_arrive_in_batch_mode() -> None:
    with Exerciser.start(mib=16, threads=2) as fresh:  # young, so that it is armed often
        command = [*HOTPAGE, "top", "-b", "--json", "--arm", "-d", "0.5", "-p", str(fresh.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as top:
            assert top.stdout is not None
            deadline = time.monotonic() + PATIENCE_S
            total: dict[str, float] = {}
            while not total.get("hot_bytes") and time.monotonic() < deadline:
                total = json.loads(top.stdout.readline())["total"]
            top.terminate()
            top.stdout.read()
            assert top.wait(PATIENCE_S) == 0
    assert total["hot_bytes"] > 0 and total["accesses_per_s"] > 0


def test_a_reader_that_has_enough(workload: Exerciser) -> None:
    command = [*HOTPAGE, "top", "-b", "--arm", "-d", "0.2", "-p", str(workload.pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as top:
        assert top.stdout is not None
        top.stdout.readline()
        top.stdout.close()
        assert top.wait(PATIENCE_S) == 1
        assert top.stderr is not None and top.stderr.read() == b""


WRONG = [
    (("-d", "0"), "give -d at least 0.1", 2),
    (("--budget", "0"), "budget", 2),
    (("-n", "3"), "add -b", 2),
    (("--json",), "add -b", 2),
    (("-b", "--web"), "exclude", 2),
    (("-a", "-p", "1"), "several targets", 2),
    (("-b", "-s", "nonsense"), "accesses, hot", 2),
    (("-p", "x"), "list of process ids", 2),
    (("-b", "-p", "4194303"), "no process 4194303", 1),
    ((), "use -b", 2),
]


def test_what_makes_no_sense_is_one_line() -> None:
    check_wrong_usage(["top"], WRONG)


def test_a_session_that_cannot_begin_leaves_the_terminal(terminal: Terminal, workload: Exerciser) -> None:
    broken = terminal.directory / "state"
    broken.write_text("not a directory")
    command = shlex.join([*HOTPAGE, "top", "--arm", "-p", str(workload.pid)])
    terminal.type(f"clear; {command}; echo status $?")
    # Not what was typed, which may be seen before the screen is cleared.
    shown = terminal.until(lambda shown: any(f"status {digit}" in shown for digit in "0123456789"))
    assert "status 1" in shown and "hotpage: " in shown and "Traceback" not in shown
    broken.unlink()


def test_in_a_browser(tmp_path: Path, workload: Exerciser) -> None:
    command = [*HOTPAGE, "top", "--web", "--arm", "-d", "0.5", "-p", str(workload.pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[1]
            watch = subprocess.run(
                [sys.executable, "-c", _BROWSER, url], capture_output=True, text=True, timeout=2 * PATIENCE_S
            )
            assert "hotpage top" in watch.stdout and "exerciser" in watch.stdout, watch.stderr
        finally:
            server.terminate()
            assert server.wait(PATIENCE_S) == 0


_BROWSER = """
import asyncio, re, sys
from aiohttp import ClientSession, CookieJar, WSMsgType

async def main():
    # As browsers do: cookies also of an address that is a number.
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
        async with session.get(sys.argv[1]) as answer:
            page = await answer.text()
        address, = re.findall('data-session-websocket-url="([^"]+)"', page)
        drawn = b""
        async with session.ws_connect(address) as socket:
            async for message in socket:
                if message.type == WSMsgType.BINARY:
                    drawn += message.data
                    if b"exerciser" in drawn and b"F10" in drawn:
                        break
        print(drawn.decode(errors="replace"))

asyncio.run(main())
"""
