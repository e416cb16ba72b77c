# SPDX-License-Identifier: Apache-2.0
"""What ``pip install .`` gives: a command, its BPF sources, both licences; so does the source archive."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import hotpage
from hotpage import bpfsources
from hotpage.errors import MissingDependencyError

ROOT = Path(hotpage.__file__).parents[1]


def build(source: Path, to: Path, target: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(to)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = to.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a fresh virtualenv, with this interpreter's dependencies; return its bin/."""
    environment = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel],
        check=True,
        capture_output=True,
    )
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin"


def run(*command: str | Path) -> str:
    return subprocess.run(command, cwd="/", check=True, capture_output=True, text=True).stdout


def test_the_command_runs_from_anywhere(installed: Path) -> None:
    assert run(installed / "hotpage", "--version") == f"hotpage {hotpage.__version__}\n"


def test_the_installed_package_has_the_bpf_sources(installed: Path) -> None:
    program = "from hotpage.bpfsources import bpf_source_directory as f; print(f())"
    found = Path(run(installed / "python", "-c", program).strip())
    assert found.is_relative_to(installed.parent)
    files = [file.relative_to(ROOT / "bpfprog") for file in (ROOT / "bpfprog").rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert (found / file).read_bytes() == (ROOT / "bpfprog" / file).read_bytes()


def test_the_installed_package_can_exercise(installed: Path) -> None:
    program = "from hotpage.exerciser import Exerciser\nwith Exerciser.start(mib=1{}) as e: print(e.compiled)"
    assert run(installed / "python", "-c", program.format(", compiler=None")) == "False\n"
    if shutil.which("cc"):
        assert run(installed / "python", "-c", program.format("")) == "True\n"


def test_licences_are_declared_and_present(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        assert "License-Expression: Apache-2.0 AND GPL-2.0-only" in archive.read(metadata).decode()
    for licence in ("licenses/LICENSE", "licenses/bpfprog/LICENSE"):
        assert any(name.endswith(licence) for name in names)


@pytest.mark.parametrize("file", sorted((ROOT / "bpfprog").glob("*.[ch]")), ids=lambda file: file.name)
def test_each_bpf_source_names_its_licence(file: Path) -> None:
    assert "SPDX-License-Identifier: GPL-2.0-only" in file.read_text().splitlines()[0]


def test_the_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = build(ROOT, tmp_path / "sdist", "sdist")
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    assert os.access(unpacked / "scripts" / "hotpage", os.X_OK)
    again = build(unpacked, tmp_path / "wheel", "wheel")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert first.namelist() == second.namelist()


def test_sources_of_the_checkout_come_first() -> None:
    assert bpfsources.bpf_source_directory() == ROOT / "bpfprog"


def test_missing_sources_are_said(tmp_path: Path) -> None:
    copy = tmp_path / "hotpage" / "bpfsources.py"
    copy.parent.mkdir()
    shutil.copy(bpfsources.__file__, copy)
    spec = importlib.util.spec_from_file_location("lonely_bpfsources", copy)
    lonely = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lonely)
    with pytest.raises(MissingDependencyError, match=str(tmp_path)):
        lonely.bpf_source_directory()
