# SPDX-License-Identifier: Apache-2.0
"""scripts/hotpage on a copy of the checkout that has no virtualenv: for real, from the package index."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import hotpage

ROOT = Path(__file__).parents[2]
VERSION = f"hotpage {hotpage.__version__}\n"

pytestmark = pytest.mark.needs("package index", "bcc")


def start(program: Path, **environment: str) -> subprocess.Popen[str]:
    variables = {name: value for name, value in os.environ.items() if name != "HOTPAGE_VENV"} | environment
    return subprocess.Popen(
        [program, "--version"],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    printed, complaints = process.communicate()
    return process.returncode, printed, complaints


def run(program: Path, **environment: str) -> tuple[int, str, str]:
    return finish(start(program, **environment))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the checkout, set up by two at once after one was killed half-way."""
    place = tmp_path_factory.mktemp("set up") / "a check out"
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache"))
    program = place / "scripts" / "hotpage"

    killed = start(program)
    for line in killed.stderr:
        if "installing hotpage" in line:
            break
    os.killpg(killed.pid, signal.SIGKILL)
    finish(killed)
    assert (place / ".venv" / "hotpage-stamp").read_text() == "unfinished\n"

    both = [finish(process) for process in [start(program), start(program)]]
    assert [(status, printed) for status, printed, _ in both] == [(0, VERSION)] * 2
    assert sum(complaints.count("setting up") for _, _, complaints in both) == 1
    return place


def test_set_up_is_done_once(checkout: Path) -> None:
    assert run(checkout / "scripts" / "hotpage") == (0, VERSION, "")


def test_symlinks_lead_to_the_checkout(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "absolute").symlink_to(checkout / "scripts" / "hotpage")
    (tmp_path / "relative").symlink_to("absolute")
    assert run(tmp_path / "relative") == (0, VERSION, "")


def test_nothing_of_the_virtualenv_is_left_to_another_owner(checkout: Path) -> None:
    owners = {path.lstat().st_uid for path in (checkout / ".venv").rglob("*")}
    assert owners == {checkout.stat().st_uid}


def test_changed_dependencies_are_installed(checkout: Path) -> None:
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    status, printed, complaints = run(checkout / "scripts" / "hotpage")
    assert (status, printed) == (0, VERSION)
    assert "installing hotpage" in complaints
    assert run(checkout / "scripts" / "hotpage") == (0, VERSION, "")


def test_provisioning_makes_a_command_of_it(checkout: Path, tmp_path: Path) -> None:
    for _ in range(2):
        script = [checkout / "scripts" / "provision", checkout, tmp_path]
        assert subprocess.run(script, check=True, capture_output=True, text=True).stdout == VERSION
        assert run(tmp_path / "hotpage") == (0, VERSION, "")


def test_no_network_is_one_line(checkout: Path, tmp_path: Path) -> None:
    nowhere = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_NO_CACHE_DIR": "1",
        "HOTPAGE_VENV": str(tmp_path / "venv"),
        "TMPDIR": str(tmp_path),
    }
    status, printed, complaints = run(checkout / "scripts" / "hotpage", **nowhere)
    assert (status, printed) == (1, "")
    assert "cannot be reached" in complaints.splitlines()[-1]
    assert "Traceback" not in complaints
