# SPDX-License-Identifier: Apache-2.0
"""The text, the JSON and the exit status of ``hotpage doctor``."""

import json
import sys
from pathlib import Path

import pytest

from hotpage import cli
from hotpage.cli import doctor
from hotpage.recording.checks import Check
from hotpage.recording.diagnosis import Diagnosis

LONG = "words that go on " * 12
WORKING = Diagnosis(
    [
        Check("bcc", "ok", "compile", "0.31.0 in /usr/bin/python3", "not to be shown", essential=True),
        Check("arming pace", "limited", LONG, LONG, "sudo mount -t debugfs none /sys/kernel/debug"),
        Check("hint/fentry", "no", "a way", LONG),
    ],
    0.612,
)
BLOCKED = Diagnosis([Check("bcc", "no", "compile", LONG, "sudo apt-get install it", essential=True)])


def lines(diagnosis: Diagnosis, width: int = 80) -> list[str]:
    return [line.plain for line in doctor.render(diagnosis, "hotpage", width)]


@pytest.mark.parametrize("width", [40, 80, 132])
@pytest.mark.parametrize("diagnosis", [WORKING, BLOCKED])
def test_every_line_fits_but_commands(diagnosis: Diagnosis, width: int) -> None:
    for line in lines(diagnosis, width):
        assert len(line) <= width or "next: " in line
        assert line == line.rstrip()


def test_commands_are_whole_and_only_where_something_is_wrong() -> None:
    text = "\n".join(lines(WORKING, 40))
    assert "next: sudo mount -t debugfs none /sys/kernel/debug\n" in text
    assert "not to be shown" not in text


def test_the_end_says_what_can_be_done() -> None:
    assert lines(WORKING)[-3:] == [
        "Sources compiled, attached and tested in 0.61 s.",
        "Rates of accesses can be had:",
        "sudo hotpage record --arm -p PID",
    ]
    assert lines(BLOCKED)[-1] == "next: sudo apt-get install it"


def test_no_word_is_lost_in_wrapping() -> None:
    text = " ".join(" ".join(lines(WORKING, 46)).split())
    assert text.count(LONG.strip()) == 3


@pytest.mark.parametrize(("diagnosis", "status"), [(WORKING, 0), (BLOCKED, 1)])
def test_the_exit_status_tells_whether_the_main_job_can_run(
    diagnosis: Diagnosis, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda program: diagnosis)
    assert cli.main(["doctor"]) == status
    text = capsys.readouterr().out
    assert "\033" not in text
    assert cli.main(["doctor", "--json"]) == status
    document = json.loads(capsys.readouterr().out)
    assert document["main_job"]["can_run"] is (status == 0)
    assert len(document["checks"]) == len(diagnosis.checks)


def test_json_keys_are_stable() -> None:
    document = doctor.as_json(BLOCKED, "hotpage")
    assert set(document) == {
        "hotpage_version", "kernel_release", "architecture", "main_job", "self_test_s", "checks",
    }  # fmt: skip
    assert document["main_job"] == {
        "can_run": False,
        "blocked_by": "bcc",
        "why": LONG,
        "next_step": "sudo apt-get install it",
    }
    assert document["checks"][0] == {
        "name": "bcc",
        "state": "no",
        "purpose": "compile",
        "finding": LONG,
        "next_step": "sudo apt-get install it",
        "essential": True,
    }
    assert doctor.as_json(WORKING, "hotpage")["self_test_s"] == 0.612


def test_how_hotpage_is_called_behind_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/hotpage"
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    assert doctor.how_called(str(program)) == "bin/hotpage"
    monkeypatch.setattr(doctor, "_SUDO_PATH", str(program.parent))
    assert doctor.how_called(str(program)) == "hotpage"
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "executable", "/opt/venv/bin/python")
    assert doctor.how_called("/x/hotpage/__main__.py") == "opt/venv/bin/python -P -m hotpage"
