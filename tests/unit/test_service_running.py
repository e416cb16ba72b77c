# SPDX-License-Identifier: Apache-2.0
"""From the command line of ``hotpage auto`` to the process that stays."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hotpage.errors import UsageError
from hotpage.service.configuration import Configuration
from hotpage.service.running import Given, become


def test_targets_of_the_command_line_replace_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "auto.toml"
    file.write_text('interval = 2.0\n[targets]\npids = [7]\n[[targets.cgroups]]\npath = "/a"\nweight = 4.0\n')
    given = Given(str(file), {"cgroups": [{"path": "/a"}, {"path": "/b"}]}, dry_run=True)
    configuration = given.read()
    assert (configuration.interval, configuration.dry_run) == (2.0, True)
    assert configuration.targets.pids == []
    assert [(group.path, group.weight) for group in configuration.targets.cgroups] == [
        ("/a", 4.0),
        ("/b", 1.0),
    ]
    file.write_text("interval = 3.0\n")
    assert given.read().interval == 3.0, "a reload reads the file again"
    assert Given().read() == Configuration()


def test_targets_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="-1 is no process id"):
        Given(targets={"pids": [-1]}).read()


def test_another_program_goes_on_with_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "execve", lambda *words: called.append(words))
    given = Given("f.toml", {"pids": [1]}, explain=None)
    become(given)
    ((program, words, environment),) = called
    assert program == sys.executable and words[:4] == [sys.executable, "-P", "-m", "hotpage.service"]
    assert Given(**json.loads(words[4])) == given
    assert environment["OPENBLAS_NUM_THREADS"] == "1"


def test_what_stays_has_no_parser_of_command_lines() -> None:
    """That, and what it brings along, was a fifth of the service's memory."""
    heavy = {"typer", "pydantic", "pyarrow"}
    code = f"import sys, hotpage.service.running; print(*({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_goes_wrong_is_one_line(tmp_path: Path) -> None:
    words = json.dumps({"config": str(tmp_path / "nothing.toml")})
    command = [sys.executable, "-m", "hotpage.service", words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (UsageError.exit_status, "")
    assert done.stderr.startswith("hotpage: ") and done.stderr.count("\n") == 1
