# SPDX-License-Identifier: Apache-2.0
"""hotpage.service under a systemd that is the machine's init: its life from installation to removal."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from moving import SLOW
from toucher import loaded_programs, stop, wait_for
from workload import BALANCING, SCAN_KNOBS, halted, scattered_on

from hotpage.exerciser import Exerciser
from hotpage.machine.tiering import PROMOTE_RATE_LIMIT
from hotpage.service.loop import NEEDED

INSTALL = Path(__file__).parents[2] / "scripts" / "install-service"
UNIT = Path("/etc/systemd/system/hotpage.service")
CONFIGURATION = Path("/etc/hotpage.toml")
DROP_IN = UNIT.with_suffix(".service.d") / "patience.conf"
SLOW_START = "[Service]\nTimeoutStartSec=300\nRestartSec=15\n"
PATIENCE = f"{SLOW_START}WatchdogSec=150\n"
"""All else is as it is installed: a start takes half a minute and more on an emulated CPU, a look seconds."""
KNOBS = BALANCING, PROMOTE_RATE_LIMIT, SCAN_KNOBS / "scan_period_max_ms"

pytestmark = pytest.mark.guest(topology="small-dram", kernels=("7.3",), systemd=True, limit_s=900.0)


@pytest.fixture
def workload() -> Iterator[Exerciser]:
    """All of it on the slow node, a tenth of it accessed."""
    with scattered_on(SLOW, mib=16) as exerciser:
        yield exerciser


@pytest.fixture
def etc(tmp_path: Path) -> None:
    """/etc, which is the host's, can be written to."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir=/etc,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", "/etc"], check=True)
    DROP_IN.parent.mkdir()
    DROP_IN.write_text(PATIENCE)


def install(*options: str) -> None:
    subprocess.run([INSTALL, *options], check=True)


def configure(pid: int, *, horizon: float = 60.0) -> None:
    # An emulated CPU does a tenth of a real one's work, or less.
    budget = "[budget]\ncpu_percent = 50.0\nplan_percent = 20.0\n"
    CONFIGURATION.write_text(f"[targets]\npids = [{pid}]\n{budget}[placement]\nhorizon = {horizon}\n")


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words, "hotpage.service"], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stderr, journal())
    return done.stdout.strip()


def state(name: str) -> str:
    """A property of the unit."""
    return systemctl("show", "--value", "--property", name)


def journal() -> str:
    command = ["journalctl", "--unit", "hotpage.service", "--output", "cat", "--no-pager"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def await_line(pattern: str) -> str:
    """In the journal."""
    found: re.Match[str] = wait_for(lambda: re.search(pattern, journal()), pattern, pause_s=1.0)
    return found[0]


def settings() -> list[str]:
    return [file.read_text().strip() for file in KNOBS]


def check_return(why: str, before: list[str], workload: Exerciser) -> None:
    """It has failed so, settings are as before, and it starts anew."""
    wait_for(lambda: state("SubState") == "auto-restart", "it is to come back")
    assert settings() == before
    await_line(f"Failed with result '{why}'")
    with halted([workload.pid]):
        wait_for(lambda: state("ActiveState") == "active", "it is back")


def test_its_life(workload: Exerciser, etc: None) -> None:
    before = settings(), loaded_programs(), set(UNIT.parent.rglob("*"))
    with halted([workload.pid]):  # the installer and the compiler want the processors, too
        install()
        configure(workload.pid)
        systemctl("enable", "--now")
        assert state("StatusText").startswith("moves pages of process ")
    assert state("ActiveState") == "active" and state("NRestarts") == "0"
    pid = int(state("MainPID"))
    limits = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert int(limits["CapBnd"], 16) == sum(1 << capability for capability in NEEDED)
    assert (limits["NoNewPrivs"], limits["Seccomp"]) == ("1", "2")
    fed = state("WatchdogTimestampMonotonic")
    await_line(" up, 0 down: moved ")
    wait_for(lambda: state("WatchdogTimestampMonotonic") != fed, "a sign of life")
    assert settings() != before[0]

    configure(workload.pid, horizon=30.0)
    systemctl("reload")
    await_line("the configuration was read again")
    configure(workload.pid, horizon=-1.0)
    systemctl("reload")
    assert "horizon" in await_line("the configuration stays as it was: .*")
    assert state("StatusText").startswith("runs with its old configuration")
    assert int(state("MainPID")) == pid
    configure(workload.pid)

    DROP_IN.write_text(SLOW_START)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    os.kill(pid, signal.SIGKILL)
    check_return("signal", before[0], workload)
    await_line("goes on with the rates of 1 processes that were learned")
    assert (state("NRestarts"), state("Result")) == ("1", "success")

    # Whoever gives no sign of life is ended, be it with a signal that it cannot act on.
    stop(int(state("MainPID")))
    check_return("watchdog", before[0], workload)
    assert (state("NRestarts"), state("Result")) == ("2", "success")

    systemctl("stop")
    assert (state("ActiveState"), state("Result")) == ("inactive", "success")
    assert (settings(), loaded_programs()) == before[:2]

    configure(workload.pid, horizon=-1.0)
    with halted([workload.pid]):
        assert subprocess.run(["systemctl", "start", "hotpage.service"], capture_output=True).returncode == 1
        assert "horizon" in await_line("hotpage: /etc/hotpage.toml:.*")
        wait_for(lambda: state("ActiveState") == "failed", "it gives up: to try again would not help")

    install("--uninstall")
    assert (state("LoadState"), state("ActiveState")) == ("not-found", "inactive")
    assert (settings(), loaded_programs(), set(UNIT.parent.rglob("*"))) == before
    assert not list(Path("/sys/fs/cgroup").rglob("hotpage.service"))
