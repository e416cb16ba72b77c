# SPDX-License-Identifier: Apache-2.0
"""Real kernel settings: killed and concurrent sessions leave kernel.numa_balancing as it was."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hotpage.cli import main
from hotpage.errors import KnobError
from hotpage.machine.knobs import NUMA_BALANCING, KnobSession, pending, read_knob, restore

SESSION = """
import sys
from hotpage.machine.knobs import NUMA_BALANCING, KnobSession
with KnobSession() as session:
    print(session.write(NUMA_BALANCING, 1), flush=True)
    sys.stdin.readline()
"""

Session = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOTPAGE_STATE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def start_session(state_directory: Path) -> Iterator[Callable[[], tuple[Session, bool]]]:
    """Start a process with a session; also tell whether it wrote the knob, which the test restores."""
    started: list[Session] = []

    def start() -> tuple[Session, bool]:
        pipe = subprocess.PIPE
        child = subprocess.Popen([sys.executable, "-c", SESSION], stdin=pipe, stdout=pipe, text=True)
        started.append(child)
        assert child.stdout is not None
        return child, child.stdout.readline() == "True\n"

    yield start
    for child in started:
        child.kill()
        child.communicate()
    restore(state_directory)


def test_sigkill_then_restore(
    start_session: Callable[[], tuple[Session, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_knob(NUMA_BALANCING)
    child, _ = start_session()
    assert read_knob(NUMA_BALANCING) == "1"
    assert main(["restore"]) == 0
    assert f"in use by hotpage (pid {child.pid})" in capsys.readouterr().out
    child.kill()
    child.communicate()
    assert read_knob(NUMA_BALANCING) == "1"
    assert [(knob.path, knob.pids) for knob in pending()] == [(str(NUMA_BALANCING), ())]
    assert main(["restore", "--json"]) == 0
    (restored,) = json.loads(capsys.readouterr().out)["restored"]
    assert restored["result"] == "restored"
    assert read_knob(NUMA_BALANCING) == before
    assert main(["restore"]) == 0
    assert capsys.readouterr().out == "Nothing to restore.\n"


def test_sigkill_then_another_session(start_session: Callable[[], tuple[Session, bool]]) -> None:
    before = read_knob(NUMA_BALANCING)
    child, _ = start_session()
    child.kill()
    child.communicate()
    with KnobSession() as session:
        assert [outcome.result for outcome in session.recovered] == ["restored"]
        assert read_knob(NUMA_BALANCING) == before


def test_the_last_of_several_sessions_restores(start_session: Callable[[], tuple[Session, bool]]) -> None:
    before = read_knob(NUMA_BALANCING)
    (first, first_wrote), (second, second_wrote), (third, third_wrote) = (start_session() for _ in range(3))
    assert (first_wrote, second_wrote, third_wrote) == (True, False, False)
    first.communicate("\n")
    assert read_knob(NUMA_BALANCING) == "1"
    second.kill()
    second.communicate()
    with KnobSession() as session:
        assert session.recovered == []
        third_knob = session.knob(NUMA_BALANCING)
        assert not third_knob.try_steer()
        third.communicate("\n")
        assert read_knob(NUMA_BALANCING) == "1"
        assert third_knob.try_steer()
        assert third_knob.set(0) and third_knob.set(1) and third_knob.set(0) and third_knob.set(1)
        assert read_knob(NUMA_BALANCING) == "1"
    assert read_knob(NUMA_BALANCING) == before


def test_a_refusing_kernel_is_one_clear_line(state_directory: Path) -> None:
    path = "/proc/sys/kernel/random/boot_id"  # read-only even for root
    with KnobSession() as session, pytest.raises(KnobError, match=f"{path} cannot be written") as caught:
        session.write(path, 1)
    assert "\n" not in str(caught.value)
    assert pending() == []


def test_a_value_that_the_kernel_refuses_changes_nothing() -> None:
    before = read_knob(NUMA_BALANCING)
    with KnobSession() as session, pytest.raises(KnobError, match="cannot be set to 77"):
        session.write(NUMA_BALANCING, 77)
    assert read_knob(NUMA_BALANCING) == before
