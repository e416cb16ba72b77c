# SPDX-License-Identifier: Apache-2.0
"""Knobs on plain files: saved before written, restored by the last one out, left alone if foreign."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hotpage.errors import KnobError
from hotpage.machine.knobs import KnobSession, pending, read_knob, restore


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def knob(tmp_path: Path) -> Path:
    path = tmp_path / "numa_balancing"
    path.write_text("100\n")
    return path


def killed_session(state: Path, code: str) -> None:
    """Run code in a process that has a KnobSession ``session`` and then is killed."""
    script = "import os, sys, pathlib; from hotpage.machine.knobs import KnobSession\n"
    script += f"session = KnobSession(pathlib.Path(sys.argv[1]))\n{code}\nos.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", script, state], check=False)
    assert done.returncode == -9


def test_a_session_restores_what_it_wrote(state: Path, knob: Path) -> None:
    with KnobSession(state) as session:
        assert session.write(knob, 1)
        assert knob.read_text() == "1\n"
        assert [(p.path, p.saved, p.pids) for p in pending(state)] == [(str(knob), "100", (os.getpid(),))]
    assert knob.read_text() == "100\n"
    assert pending(state) == []
    assert not (state / "knobs.json").exists()


def test_what_was_set_last_goes_back_first(state: Path, knob: Path, tmp_path: Path) -> None:
    """Like a limit that has to be there before what it limits, and as long."""
    other = tmp_path / "another"
    other.write_text("5\n")
    with KnobSession(state) as session:
        session.write(other, 0)
        session.write(knob, 1)
        session.write(other, 2)
        outcomes = session.close()
    assert [(outcome.path, outcome.saved) for outcome in outcomes] == [(str(knob), "100"), (str(other), "5")]


def test_an_exception_restores_too(state: Path, knob: Path) -> None:
    with pytest.raises(ZeroDivisionError), KnobSession(state) as session:
        session.write(knob, 1)
        raise ZeroDivisionError
    assert read_knob(knob) == "100"


def test_without_a_write_nothing_is_written(state: Path) -> None:
    with KnobSession(state):
        pass
    assert restore(state) == []
    assert not state.exists()


def test_the_old_value_is_on_disk_before_the_first_write(
    state: Path, knob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        document = json.loads((state / "knobs.json").read_text())
        assert document["knobs"][str(knob)]["saved"] == "100"
        assert document["knobs"][str(knob)]["written"] == ["1"]
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pwrite", fail)
    with KnobSession(state) as session, pytest.raises(KnobError, match=r"cannot be set to 1 \(Operation"):
        session.write(knob, 1)


def test_a_file_without_a_position(state: Path, knob: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of debugfs are."""

    def fail(*_: object) -> int:
        raise OSError(errno.ESPIPE, "Illegal seek")

    monkeypatch.setattr(os, "pwrite", fail)
    with KnobSession(state) as session:
        assert session.write(knob, 1)
        assert knob.read_text() == "1\n"
    assert knob.read_text() == "100\n"


def test_killed_session_is_restored_on_demand(state: Path, knob: Path) -> None:
    killed_session(state, f"session.write({str(knob)!r}, 1)")
    assert read_knob(knob) == "1"
    assert [(p.saved, p.pids) for p in pending(state)] == [("100", ())]
    (outcome,) = restore(state)
    assert (outcome.path, outcome.saved, outcome.found, outcome.result) == (str(knob), "100", "1", "restored")
    assert str(outcome) == f"{knob}: restored to 100 (was 1)"
    assert read_knob(knob) == "100"
    assert restore(state) == []


def test_killed_session_is_restored_by_the_next(state: Path, knob: Path) -> None:
    killed_session(state, f"session.write({str(knob)!r}, 1)")
    with KnobSession(state) as session:
        assert [outcome.result for outcome in session.recovered] == ["restored"]
        assert read_knob(knob) == "100"
        session.write(knob, 2)
    assert read_knob(knob) == "100"


def test_killed_before_its_write_took_effect(state: Path, knob: Path) -> None:
    killed_session(state, f"os.pwrite = lambda *a: os.kill(os.getpid(), 9)\nsession.write({str(knob)!r}, 1)")
    knob.write_text("100\n")  # plain files, unlike knobs, are emptied first
    assert [outcome.result for outcome in restore(state)] == ["unchanged"]


def test_last_one_out_restores(state: Path, knob: Path) -> None:
    first, second = KnobSession(state), KnobSession(state)
    assert first.write(knob, 1)
    assert not second.write(knob, 3)
    assert read_knob(knob) == "1"
    assert first.close() == []
    assert read_knob(knob) == "1"
    assert [outcome.result for outcome in second.close()] == ["restored"]
    assert read_knob(knob) == "100"


def test_the_second_takes_over_steering_when_the_first_leaves(state: Path, knob: Path) -> None:
    with KnobSession(state) as second:
        first = KnobSession(state)
        theirs, ours = first.knob(knob), second.knob(knob)
        assert theirs.steering and not ours.try_steer()
        assert theirs.set(1) and not ours.set(0)
        first.close()
        assert ours.try_steer() and ours.steering
        assert ours.set(0)
        assert read_knob(knob) == "0"
    assert read_knob(knob) == "100"


def test_steering_passes_on_from_the_dead(state: Path, knob: Path) -> None:
    killed_session(state, f"session.write({str(knob)!r}, 1)")
    with KnobSession(state) as session:
        assert session.write(knob, 7)
    killed_session(state, f"session.write({str(knob)!r}, 1)")
    late = KnobSession(state)  # not entered: nothing recovered yet
    assert late.write(knob, 5)
    late.close()
    assert read_knob(knob) == "100"


def test_alternating_values_do_not_touch_the_state_file_again(state: Path, knob: Path) -> None:
    with KnobSession(state) as session:
        handle = session.knob(knob)
        handle.set(1)
        handle.set(0)
        before = (state / "knobs.json").stat()
        for value in (1, 0) * 50:
            assert handle.set(value)
            assert read_knob(knob) == str(value)
        after = (state / "knobs.json").stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert read_knob(knob) == "100"


def test_somebody_elses_value_is_left_alone(state: Path, knob: Path) -> None:
    session = KnobSession(state)
    session.write(knob, 1)
    knob.write_text("42\n")
    (outcome,) = session.close()
    assert outcome.result == "foreign"
    assert str(outcome) == f"{knob}: left at 42, set by somebody else (it was 100 before)"
    assert read_knob(knob) == "42"
    assert pending(state) == []


def test_what_cannot_be_restored_stays_pending(state: Path, knob: Path) -> None:
    session = KnobSession(state)
    session.write(knob, 1)
    moved = knob.rename(knob.with_name("away"))
    with pytest.raises(KnobError, match=r"no .*numa_balancing"), session:
        pass
    session.write(moved.rename(knob), 1)
    moved = knob.rename(knob.with_name("away"))
    (outcome,) = session.close()
    assert (outcome.result, outcome.reason) == ("failed", f"this kernel has no {knob}")
    assert [p.path for p in pending(state)] == [str(knob)]
    moved.rename(knob)
    assert [outcome.result for outcome in restore(state)] == ["restored"]


def test_state_of_an_earlier_boot_is_void(state: Path, knob: Path) -> None:
    killed_session(state, f"session.write({str(knob)!r}, 1)")
    file = state / "knobs.json"
    document = json.loads(file.read_text())
    document["boot_id"] = "another"
    file.write_text(json.dumps(document))
    assert pending(state) == []
    assert restore(state) == []
    assert read_knob(knob) == "1"


def test_a_reused_pid_is_not_the_session(state: Path, knob: Path) -> None:
    killed_session(state, f"session.write({str(knob)!r}, 1)")
    file = state / "knobs.json"
    document = json.loads(file.read_text())
    document["knobs"][str(knob)]["owners"][0]["pid"] = os.getpid()
    file.write_text(json.dumps(document))
    assert [outcome.result for outcome in restore(state)] == ["restored"]


def test_a_removed_state_file_does_not_lose_the_old_value(state: Path, knob: Path) -> None:
    with KnobSession(state) as session:
        session.write(knob, 1)
        (state / "knobs.json").unlink()
        session.write(knob, 2)
        (state / "knobs.json").unlink()
    assert read_knob(knob) == "100"


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", '{"magic": "x", "version": 1}', '{"magic": "hotpage-knobs", "version": 2}']
)
def test_a_damaged_state_file_is_named(state: Path, knob: Path, damage: str) -> None:
    state.mkdir()
    (state / "knobs.json").write_text(damage)
    for use in (lambda: restore(state), lambda: pending(state), lambda: KnobSession(state).write(knob, 1)):
        with pytest.raises(KnobError, match=r"knobs\.json is damaged"):
            use()
    assert read_knob(knob) == "100"


def test_missing_and_chosen_knobs(state: Path, tmp_path: Path) -> None:
    with KnobSession(state) as session, pytest.raises(KnobError, match="this kernel has no"):
        session.write(tmp_path / "absent", 1)
    assert pending(state) == []
    choices = tmp_path / "enabled"
    choices.write_text("always [madvise] never\n")
    with KnobSession(state) as session:
        session.write(choices, "never")
    assert choices.read_text() == "madvise\n"


def test_state_directory_from_the_environment(
    tmp_path: Path, knob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOTPAGE_STATE_DIR", str(tmp_path / "elsewhere"))
    with KnobSession() as session:
        session.write(knob, 1)
        assert (tmp_path / "elsewhere/knobs.json").exists()


def test_a_state_directory_that_cannot_be_made(tmp_path: Path, knob: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KnobError, match="cannot be"):
        KnobSession(tmp_path / "file/state").write(knob, 1)
    assert read_knob(knob) == "100"


def test_nobody_else_can_have_a_session_wait(state: Path, knob: Path) -> None:
    """Whoever can open a file can lock it."""
    state.mkdir()
    (state / "lock").touch(0o644)
    with KnobSession(state) as session:
        session.write(knob, 1)
        assert (state / "lock").stat().st_mode & 0o777 == 0o600
