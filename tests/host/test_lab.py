# SPDX-License-Identifier: Apache-2.0
"""scripts/lab with real guests: status, streams, directory; nothing is left after what hangs or is ended."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

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


class Finished(NamedTuple):
    """What became of a guest that had only to be waited for."""

    status: int
    printed: str
    complaints: str


ALONE: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "status": (
        ("--", "sh", "-c", "pwd; uname -r; command -v hotpage; echo complaint >&2; read -r line; exit 7"),
        {"cwd": CHECKOUT / "hotpage"},
    ),
    "hangs": (("--limit", "10", "--", "sh", "-c", "echo the last words >/dev/kmsg; sleep 600"), {}),
    "panics": (("--", "sh", "-c", "sleep 1; echo c >/proc/sysrq-trigger; sleep 600"), {}),
}


def finished(name: str) -> Finished:
    words, options = ALONE[name]
    with lab(*words, **options) as process:
        printed, complaints = process.communicate(timeout=DEADLINE_S)
    return Finished(process.returncode, printed, complaints)


@pytest.fixture(scope="module", autouse=True)
def beside() -> Iterator[dict[str, Future[Finished]]]:
    """Guests that need nobody to look after them, one after the other, beside those of the tests above."""
    with ThreadPoolExecutor(1) as pool:
        yield {name: pool.submit(finished, name) for name in ALONE}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_emulator_is_left_after_a_signal(how: signal.Signals) -> None:
    process = lab("--", "sh", "-c", "echo up; sleep 600")
    assert process.stdout is not None
    if how == signal.SIGTERM:  # while it boots; the others while the command runs
        until(lambda: "qemu-system-x86" in map(name_of, descendants(process.pid)))
    else:
        assert process.stdout.readline() == "up\n"
    below = descendants(process.pid)
    assert "qemu-system-x86" in map(name_of, below)
    process.send_signal(how)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == (-how if how == signal.SIGKILL else 128 + how)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))


def test_what_is_no_kernel_shows_what_the_emulator_says(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(b"no kernel")
    with (
        Guest(image, Topology.load("flat"), ["true"], kernel="none", output=lambda *_: None) as guest,
        pytest.raises(GuestError, match="did not boot") as caught,
    ):
        guest.wait_for_boot()
    assert caught.value.console != ""


def test_a_shell_talks_to_this_terminal() -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-P", "-m", "guestlab", "--kernel", KERNEL.name, "--topology", "flat"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "scripts"), "TERM": "dumb"}
    before = termios.tcgetattr(its)
    process = subprocess.Popen(command, env=environment, stdin=its, stdout=its, stderr=its, cwd=CHECKOUT)
    seen = bytearray()

    def shows(text: str) -> bool:
        if select.select([ours], [], [], 0.1)[0]:
            seen.extend(os.read(ours, 4096))
        return text in seen.decode(errors="replace")

    try:
        until(lambda: shows("# "))
        os.write(ours, b"tty; echo $((6 * 7)) $PWD; exit 3\n")
        until(lambda: shows(f"42 {CHECKOUT}"))
        assert "/dev/hvc" in seen.decode()
        # What it says on its way out has to be read, or it waits.
        until(lambda: shows("exit") and process.poll() is not None)
        assert process.returncode == 3
        assert termios.tcgetattr(its) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(its)


def test_a_shell_wants_a_terminal() -> None:
    process = lab()
    _, complaints = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert complaints == "hotpage: a shell needs a terminal; give a command after --\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--topology", "moon", "--", "true"), "there is no topology 'moon'; there are: cxl, flat"),
        (
            ("--kernel", "2.4", "--", "true"),
            "'2.4' is neither a supported kernel (6.1, 6.12, 7.3) nor an image",
        ),
        (("--kernel", "/nowhere", "--", "true"), "there is no kernel image /nowhere"),
    ],
)
def test_bad_words_are_one_line(words: tuple[str, ...], complaint: str) -> None:
    process = lab(*words)
    printed, complaints = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, printed) == (1, "")
    assert complaint in complaints
    assert complaints.count("\n") == 1


def test_status_and_streams_are_the_commands(beside: dict[str, Future[Finished]]) -> None:
    """And it runs where the user is, with the virtualenv, on nothing but that kernel."""
    found = beside["status"].result()
    assert found.printed.splitlines() == [
        str(CHECKOUT / "hotpage"),
        fetch(KERNEL).release,
        str(Path(sys.prefix) / "bin" / "hotpage"),
    ]
    assert found.complaints == "complaint\n"
    assert found.status == 7


def test_a_command_that_hangs_is_ended_and_its_console_shown(beside: dict[str, Future[Finished]]) -> None:
    found = beside["hangs"].result()
    assert (found.status, found.printed) == (1, "")
    assert "hotpage: the command did not end within 10 s; its console, the end last:" in found.complaints
    assert "the last words" in found.complaints


def test_a_guest_that_panics_shows_why(beside: dict[str, Future[Finished]]) -> None:
    found = beside["panics"].result()
    assert found.status == 1
    assert "hotpage: the guest died before the command ended" in found.complaints
    assert "Kernel panic" in found.complaints
