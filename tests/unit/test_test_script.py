# SPDX-License-Identifier: Apache-2.0
"""scripts/test, with a pytest of our own making: when what failed runs a second time."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTEST = """
echo "$*" >>"$LOG"
case "$*" in
*tests/host*--last-failed*) exit 0 ;;
*tests/host*) exit 1 ;;
esac
"""


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ((), 2),
        (("-k", "some"), 2),
        (("-x",), 1),
        (("-vx",), 1),
        (("--exitfirst",), 1),
        (("--maxfail", "1"), 1),
        (("--maxfail=2",), 1),
    ],
)
def test_what_failed_runs_again_unless_the_rest_has_not_run(
    tmp_path: Path, options: tuple[str, ...], runs: int
) -> None:
    venv, log = tmp_path / "venv", tmp_path / "log"
    (venv / "bin").mkdir(parents=True)
    programs = dict.fromkeys(("ruff", "clang-format", "mypy", "python"), "")
    for name, text in (programs | {"pytest": PYTEST, "id": "echo 0"}).items():
        (venv / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (venv / "bin" / name).chmod(0o755)
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    (venv / "hotpage-stamp-dev").write_text(f"{digest}  - {ROOT}\n")
    path = f"{venv / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(ROOT / "scripts" / "test"), *options],
        env=os.environ | {"HOTPAGE_VENV": str(venv), "LOG": str(log), "PATH": path},
        capture_output=True,
        text=True,
    )
    called = log.read_text().splitlines()
    assert [word for line in called for word in line.split() if word.startswith("tests/")] == [
        "tests/unit",
        *["tests/host"] * runs,
        "tests/guest",
    ]
    assert done.returncode == (0 if runs == 2 else 1), done.stderr
    assert ("failed: tests/host" in done.stderr) == (runs == 1)
