# SPDX-License-Identifier: Apache-2.0
"""Which package a kernel comes from, what is kept of it, and that the README names the kernels tested."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


# In place of apt and what unpacks: a mirror that has one image, and ends each
# download as it is told to.
_TOOLS = {
    "apt-get": """
case "$*" in
*download*) echo $$ >>"$SCRATCH/downloads"
    verdict="$SCRATCH/verdict-$(wc -l <"$SCRATCH/downloads")"
    for _ in $(seq 3600); do [ -s "$verdict" ] && break; sleep 0.05; done
    [ "$(cat "$verdict")" = good ]
    echo >image.deb ;;
esac""",
    "apt-cache": """
case "$*" in
*pkgnames*) echo linux-image-6.1.0-9-amd64 ;;
*show*) echo "Version: 1" ;;
esac""",
    "dpkg-deb": """
mkdir -p "$3/boot" "$3/lib/modules/6.1.0-9-amd64"
echo image >"$3/boot/vmlinuz-6.1.0-9-amd64"
cd "$3/lib/modules/6.1.0-9-amd64"
touch modules.builtin modules.builtin.modinfo modules.order""",
    "depmod": 'touch "$2/lib/modules/$3/modules.dep"',
}
_FETCH = "from guestlab import kernels; print(kernels.fetch(kernels.supported('6.1')).image)"


@contextmanager
def fetching(scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that fetches Linux 6.1 into a cache in ``scratch``, from a mirror made of _TOOLS."""
    tools = scratch / "bin"
    tools.mkdir(exist_ok=True)
    for name, script in _TOOLS.items():
        (tools / name).write_text(f"#!/bin/sh\nset -e\n{script}\n")
        (tools / name).chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", _FETCH],
        env=os.environ
        | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "scripts"),
            "HOTPAGE_LAB_CACHE": str(scratch / "cache"),
            "HOTPAGE_LAB_MIRROR": "http://mirror.example/",
            "SCRATCH": str(scratch),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def downloads(scratch: Path) -> int:
    """How many have begun."""
    log = scratch / "downloads"
    return len(log.read_text().splitlines()) if log.exists() else 0


def waits_for_a_lock(pid: int) -> bool:
    return re.search(rf"-> FLOCK +ADVISORY +WRITE {pid} ", Path("/proc/locks").read_text()) is not None


def until(happened) -> None:
    deadline_s = time.monotonic() + 180
    while not happened():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("ending", ["well", "badly", "killed"])
def test_of_two_at_once_one_fetches(tmp_path: Path, ending: str) -> None:
    """The other waits and takes what is there, or fetches by itself where the first one failed."""
    with fetching(tmp_path) as first:
        until(lambda: downloads(tmp_path) == 1)
        with fetching(tmp_path) as second:
            until(lambda: waits_for_a_lock(second.pid) or downloads(tmp_path) > 1)
            assert downloads(tmp_path) == 1
            if ending == "killed":
                first.kill()
                first.wait()
            # Its download goes on after one that was killed.
            (tmp_path / "verdict-1").write_text("good" if ending == "well" else "bad")
            (tmp_path / "verdict-2").write_text("good")
            image, complaint = second.communicate(timeout=180)
            assert complaint == ""
        if ending == "well":
            assert first.communicate(timeout=180) == (image, "")
        elif ending == "badly":
            assert "apt-get -q for bookworm: failed" in first.communicate(timeout=180)[1]
    assert Path(image.strip()).read_text() == "image\n"
    assert downloads(tmp_path) == (1 if ending == "well" else 2)
    assert [entry.name for entry in (tmp_path / "cache/kernels").iterdir()] == ["6.1"]


def test_the_readme_names_the_supported_kernels() -> None:
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| Linux ([0-9.]+) \| Debian's, from ([a-z-]+) \|", text, re.MULTILINE)
    assert rows == [(kernel.name, kernel.suite) for kernel in SUPPORTED_KERNELS]
