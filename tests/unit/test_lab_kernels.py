# SPDX-License-Identifier: Apache-2.0
"""Which package a kernel comes from, what is kept of it, and that the README names the kernels tested."""

import json
import re
from pathlib import Path

import pytest
from guestlab import kernels
from guestlab.errors import LabError
from guestlab.kernels import SUPPORTED_KERNELS, SupportedKernel
from guestlab.mirror import choose_mirror

ROOT = Path(__file__).parents[2]


class Packages:
    """A mirror that has these."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def names(self, prefix: str) -> list[str]:
        return [name for name in self._names if name.startswith(prefix)]


@pytest.mark.parametrize(
    ("name", "packages", "newest"),
    [
        (
            "6.1",
            ["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-50-amd64", "linux-image-6.1.0-50-cloud-amd64"],
            "linux-image-6.1.0-50-amd64",
        ),
        (
            "6.12",
            [
                "linux-image-6.12.9+deb12-amd64",
                "linux-image-6.12.90+deb12-amd64",
                "linux-image-6.12.95+deb12-rt-amd64",
            ],
            "linux-image-6.12.90+deb12-amd64",
        ),
        (
            "7.3",
            [
                "linux-image-7.3.4+deb13-amd64",
                "linux-image-7.3.4+deb13-amd64-dbg",
                "linux-image-7.30.1+deb13-amd64",
            ],
            "linux-image-7.3.4+deb13-amd64",
        ),
    ],
)
def test_the_newest_standard_image_is_taken(name: str, packages: list[str], newest: str) -> None:
    assert kernels._newest(Packages(*packages), SupportedKernel(name, "a suite")) == newest


def test_a_suite_that_moved_on_is_said() -> None:
    with pytest.raises(LabError, match=r"trixie-backports has no image of Linux 7\.3 any more"):
        kernels._newest(Packages("linux-image-7.4.1+deb13-amd64"), SupportedKernel("7.3", "trixie-backports"))


def test_the_mirror_is_that_of_the_system() -> None:
    targets = (
        "Sources bookworm http://sources.example/\n"
        "Packages stable-security http://security.example/\n"
        "Packages nodistro http://other.example/\n"
        "Packages bookworm-updates http://mirror.example/debian/\n"
    )
    assert choose_mirror(targets) == "http://mirror.example/debian/"


@pytest.mark.parametrize("targets", ["", "Packages noble http://mirror.example/ubuntu/\n"])
def test_no_debian_mirror_is_said(targets: str) -> None:
    with pytest.raises(LabError, match="HOTPAGE_LAB_MIRROR"):
        choose_mirror(targets)


def test_only_what_guests_load_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer packages have all in usr/lib/modules, the modules compressed."""
    import lzma

    modules = tmp_path / "unpacked/usr/lib/modules/9.9.9-amd64"
    needed, other = "kernel/fs/9p/9p.ko.xz", "kernel/drivers/other.ko.xz"
    for file in (needed, "kernel/net/9p/9pnet.ko.xz", other):
        (modules / file).parent.mkdir(parents=True, exist_ok=True)
        (modules / file).write_bytes(lzma.compress(file.encode()))
    for name in ("vmlinuz", "modules.builtin", "modules.builtin.modinfo", "modules.order"):
        (modules / name).write_text(name)
    monkeypatch.setattr(
        kernels,
        "_run",
        lambda command: (Path(command[2]) / "lib/modules" / command[3] / "modules.dep").write_text(
            f"{needed}: kernel/net/9p/9pnet.ko.xz\n{other}:\n"
        ),
    )
    result = tmp_path / "result"
    assert kernels._keep_what_guests_need(tmp_path / "unpacked", result) == "9.9.9-amd64"
    kept = {str(file.relative_to(result)) for file in result.rglob("*.ko*")}
    assert kept == {f"lib/modules/9.9.9-amd64/kernel/{name}.ko" for name in ("fs/9p/9p", "net/9p/9pnet")}
    assert (result / "lib/modules/9.9.9-amd64" / needed.removesuffix(".xz")).read_text() == needed
    assert (result / "vmlinuz-9.9.9-amd64").read_text() == "vmlinuz"


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOTPAGE_LAB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert kernels.cache_directory() == tmp_path / "xdg/hotpage/lab"
    monkeypatch.setenv("HOTPAGE_LAB_CACHE", str(tmp_path / "own"))
    assert kernels.cache_directory() == tmp_path / "own"
    assert kernels.cached(SUPPORTED_KERNELS[0]) is None


def test_what_is_cached_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTPAGE_LAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    kernel = SUPPORTED_KERNELS[0]
    directory = tmp_path / "kernels" / kernel.name
    directory.mkdir(parents=True)
    facts = {"name": kernel.name, "release": "r", "image": "vmlinuz-r", "packages": {"p": "1"}}
    (directory / "kernel.json").write_text(json.dumps(facts | {"suite": kernel.suite, "fetched": "today"}))
    assert kernels.fetch(kernel).image == directory / "vmlinuz-r"


def test_the_readme_names_the_supported_kernels() -> None:
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| Linux ([0-9.]+) \| Debian's, from ([a-z-]+) \|", text, re.MULTILINE)
    assert rows == [(kernel.name, kernel.suite) for kernel in SUPPORTED_KERNELS]
