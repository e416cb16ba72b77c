# SPDX-License-Identifier: Apache-2.0
"""scripts/lab with real guests: status, streams, directory; nothing is left after what hangs or is ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from guestlab.errors import GuestError
from guestlab.guest import CHECKOUT, Guest
from guestlab.kernels import SUPPORTED_KERNELS, fetch
from guestlab.topology import Topology

KERNEL = SUPPORTED_KERNELS[0]
DEADLINE_S = 240.0

pytestmark = pytest.mark.needs("emulator", f"Linux {KERNEL}")


def lab(*words: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "guestlab", "--kernel", KERNEL.name, "--topology", "flat", *words]
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT / "scripts")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def descendants(pid: int) -> set[int]:
    """All processes below one, by /proc."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            try:
                children = set(map(int, task.read_text().split()))
            except OSError:
                continue
            todo += children - found
            found |= children
    return found


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_status_and_streams_are_the_commands() -> None:
    """And it runs where the user is, with the virtualenv, on nothing but that kernel."""
    script = "pwd; uname -r; command -v hotpage; echo complaint >&2; read -r line; exit 7"
    process = lab("--", "sh", "-c", script, cwd=CHECKOUT / "hotpage")
    printed, complaints = process.communicate(timeout=DEADLINE_S)
    assert printed.splitlines() == [
        str(CHECKOUT / "hotpage"),
        fetch(KERNEL).release,
        str(Path(sys.prefix) / "bin" / "hotpage"),
    ]
    assert complaints == "complaint\n"
    assert process.returncode == 7


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_emulator_is_left_after_a_signal(how: signal.Signals) -> None:
    process = lab("--", "sh", "-c", "echo up; sleep 600")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    below = descendants(process.pid)
    assert "qemu-system-x86" in map(name_of, below)
    process.send_signal(how)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == (-how if how == signal.SIGKILL else 128 + how)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))


def test_a_command_that_hangs_is_ended_and_its_console_shown() -> None:
    process = lab("--limit", "3", "--", "sh", "-c", "echo the last words >/dev/kmsg; sleep 600")
    printed, complaints = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, printed) == (1, "")
    assert "hotpage: the command did not end within 3 s; its console, the end last:" in complaints
    assert "the last words" in complaints


def test_a_guest_that_panics_shows_why() -> None:
    process = lab("--", "sh", "-c", "sleep 1; echo c >/proc/sysrq-trigger; sleep 600")
    _, complaints = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "hotpage: the guest died before the command ended" in complaints
    assert "Kernel panic" in complaints


def test_what_is_no_kernel_shows_what_the_emulator_says(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(b"no kernel")
    with (
        Guest(image, Topology.load("flat"), ["true"], kernel="none", output=lambda *_: None) as guest,
        pytest.raises(GuestError, match="did not boot") as caught,
    ):
        guest.wait_for_boot()
    assert caught.value.console != ""
