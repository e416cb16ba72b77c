# SPDX-License-Identifier: Apache-2.0
"""scripts/setup.sh, function by function: what is missing, what to do about it, when to set up again."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def fake_bin(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


def in_shell(code: str, *, path: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    program = (
        f"set -eu; root={shlex.quote(str(ROOT))}; . {shlex.quote(str(ROOT / 'scripts/setup.sh'))}; {code}"
    )
    variables = os.environ | environment | ({"PATH": path} if path is not None else {})
    return subprocess.run(["/bin/sh", "-c", program], env=variables, capture_output=True, text=True)


@pytest.fixture
def no_bcc(tmp_path: Path) -> Path:
    """Return a directory for PYTHONPATH whose bcc cannot be imported."""
    directory = tmp_path / "no-bcc"
    directory.mkdir()
    (directory / "bcc.py").write_text("raise ImportError('not installed')")
    return directory


@pytest.mark.parametrize("command", ["hotpage", "test", "bench"])
def test_a_user_gets_the_sudo_line(fake_bin: Path, tmp_path: Path, command: str) -> None:
    script(fake_bin / "id", "echo 1000")
    program = str(ROOT / "scripts" / command)
    done = subprocess.run(
        [program, "-p", "1 2", "it's"],
        env=os.environ | {"PATH": f"{fake_bin}:{os.environ['PATH']}", "HOTPAGE_VENV": str(tmp_path / "none")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("hotpage: ")
    assert done.stderr.count("\n") == 1
    words = shlex.split(done.stderr[done.stderr.index("sudo ") :])
    assert words == ["sudo", program, "-p", "1 2", "it's"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("lists_are_old", "calls"), [(False, ["install"]), (True, ["install", "update", "install"])]
)
def test_apt_installs_what_is_missing(
    fake_bin: Path, no_bcc: Path, lists_are_old: bool, calls: list[str]
) -> None:
    log = fake_bin.parent / "log"
    updated = fake_bin.parent / "updated"
    if not lists_are_old:
        updated.touch()
    script(
        fake_bin / "apt-get",
        f'echo "$@" >>{log}\n'
        f'case "$*" in *update*) touch {updated};; *install*) [ -e {updated} ] && rm {no_bcc}/bcc.py;; esac',
    )
    (no_bcc / "bcc.py").write_text("raise ImportError('not installed')")
    done = in_shell(
        "install_packages bcc python", path=f"{fake_bin}:{os.environ['PATH']}", PYTHONPATH=str(no_bcc)
    )
    logged = [line.split() for line in log.read_text().splitlines()]
    assert [next(word for word in words if word in ("install", "update")) for words in logged] == calls
    assert logged[-1][-1] == "python3-bpfcc"
    assert "python3-bpfcc" in done.stderr  # it says what it installs


def test_apt_failing_is_one_line(fake_bin: Path, no_bcc: Path) -> None:
    script(fake_bin / "apt-get", "echo 'E: Unable to locate package python3-bpfcc'; exit 100")
    path = f"{fake_bin}:{os.environ['PATH']}"
    done = in_shell("install_packages bcc", path=path, PYTHONPATH=str(no_bcc), TMPDIR=str(no_bcc))
    assert done.returncode == 1
    assert "E: Unable to locate package python3-bpfcc" in done.stderr.splitlines()[-1]


def test_what_cannot_be_had_is_left_out_and_old_lists_are_updated_once(fake_bin: Path) -> None:
    log, updated = fake_bin.parent / "log", fake_bin.parent / "updated"
    script(
        fake_bin / "apt-get",
        f'case "$*" in *update*) echo update >>{log}; touch {updated};; '
        f'*) echo "$*" >>{log}; case "$*" in *newer) [ -e {updated} ];; *) exit 100;; esac;; esac',
    )
    done = in_shell(
        "install_where_it_can_be_had no-such-tool newer; install_where_it_can_be_had no-other never",
        path=f"{fake_bin}:{os.environ['PATH']}",
    )
    assert done.returncode == 0
    assert [line.split()[-1] for line in log.read_text().splitlines()] == [
        "newer",
        "update",
        "newer",
        "never",
    ]
    assert done.stderr.count("they cannot") == 1


@pytest.mark.parametrize(
    ("manager", "line"),
    [
        ("dnf", "sudo dnf install python3-bcc "),
        ("zypper", "sudo zypper install python3-bcc "),
        ("pacman", "sudo pacman -S python-bcc "),
        (None, "install bcc's Python module"),
    ],
)
def test_other_systems_get_the_exact_line(
    fake_bin: Path, no_bcc: Path, manager: str | None, line: str
) -> None:
    if manager:
        script(fake_bin / manager, "exit 99")
    done = in_shell("install_packages bcc", path=str(fake_bin), PYTHONPATH=str(no_bcc))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert line in done.stderr


@pytest.mark.needs("bcc")
def test_nothing_missing_installs_nothing(fake_bin: Path) -> None:
    script(fake_bin / "apt-get", "echo called; exit 1")
    done = in_shell("install_packages bcc", path=f"{fake_bin}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_foreign_directory_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = in_shell("make_virtualenv", HOTPAGE_VENV=str(tmp_path))
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
    assert (tmp_path / "precious").exists()


def environment_is_usable(directory: Path, stamp: str | None) -> bool:
    """Ask setup.sh about a virtualenv whose python is a script that always succeeds."""
    (directory / "bin").mkdir(parents=True, exist_ok=True)
    if not (directory / "bin" / "python").is_symlink():
        script(directory / "bin" / "python", "exit 0")
    if stamp is not None:
        (directory / "hotpage-stamp").write_text(stamp)
    return in_shell("virtualenv_usable", HOTPAGE_VENV=str(directory)).returncode == 0


def test_what_makes_a_virtualenv_unusable(tmp_path: Path) -> None:
    assert environment_is_usable(tmp_path / "somebody's", None)
    assert environment_is_usable(tmp_path / "ours, before an update", f"{'0' * 64}  - {ROOT}\n")
    assert not environment_is_usable(tmp_path / "interrupted", "unfinished\n")
    assert not environment_is_usable(tmp_path / "moved", f"{'0' * 64}  - {ROOT}/elsewhere\n")
    (tmp_path / "broken" / "bin").mkdir(parents=True)
    (tmp_path / "broken" / "bin" / "python").symlink_to(tmp_path / "gone")
    assert not environment_is_usable(tmp_path / "broken", f"{'0' * 64}  - {ROOT}\n")


def test_setting_up_imports_nothing_from_the_directory_it_is_called_in(tmp_path: Path) -> None:
    for module in ("bcc", "ensurepip", "pip", "venv"):
        (tmp_path / f"{module}.py").write_text("import pathlib; pathlib.Path('was-imported').touch()")
    done = in_shell(f"cd {shlex.quote(str(tmp_path))}; has bcc || :; find_python && virtualenv_usable")
    assert not (tmp_path / "was-imported").exists(), done.stderr
