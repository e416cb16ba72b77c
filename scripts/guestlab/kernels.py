# SPDX-License-Identifier: Apache-2.0
"""The supported kernels, and their images: Debian packages, fetched once, unpacked, never installed.

The cache ($HOTPAGE_LAB_CACHE, else $XDG_CACHE_HOME/hotpage/lab, else ~/.cache/hotpage/lab) serves all
checkouts:

    kernels/6.12/vmlinuz-RELEASE          the image
    kernels/6.12/lib/modules/RELEASE/     the few modules that a guest loads, uncompressed
    kernels/6.12/kernel.json              what was fetched, from where and when
    apt/SUITE/                            a package manager's state of its own
"""

import fcntl
import json
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from guestlab.errors import LabError
from guestlab.mirror import Mirror


@dataclass(frozen=True, slots=True)
class SupportedKernel:
    """A kernel that hotpage is tested on: the newest of that series in a Debian suite."""

    name: str
    suite: str

    def __str__(self) -> str:
        return self.name


SUPPORTED_KERNELS: Final = (
    SupportedKernel("6.1", "bookworm"),
    SupportedKernel("6.12", "bookworm-backports"),
    SupportedKernel("7.3", "trixie-backports"),
)
"""Drives the lab, tests/guest and the README's table of kernels."""

# Loaded by a guest's initramfs or guest.sh, or by tests; their dependencies come along.
_MODULES: Final = (
    "9p",
    "9pnet_virtio",
    "virtio_pci",
    "virtio_console",
    "overlay",
    "zram",
    "kmem",
    "virtio_mem",
)


@dataclass(frozen=True, slots=True)
class CachedKernel:
    """An image that can be booted. ``packages``: version by name of what it was unpacked from."""

    name: str
    release: str
    image: Path
    packages: dict[str, str]
    suite: str
    fetched: str


def cache_directory() -> Path:
    """Where kernels are kept."""
    if own := os.environ.get("HOTPAGE_LAB_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "hotpage" / "lab"


def supported(name: str) -> SupportedKernel:
    """The supported kernel of that name. Raises LabError if there is none."""
    for kernel in SUPPORTED_KERNELS:
        if kernel.name == name:
            return kernel
    raise LabError(
        f"{name!r} is neither a supported kernel ({', '.join(map(str, SUPPORTED_KERNELS))}) nor an image file"
    )


def cached(kernel: SupportedKernel) -> CachedKernel | None:
    """The kernel if it is in the cache."""
    directory = _directory(kernel)
    try:
        facts = json.loads((directory / "kernel.json").read_text())
    except OSError:
        return None
    return CachedKernel(image=directory / facts.pop("image"), **facts)


def fetch(kernel: SupportedKernel) -> CachedKernel:
    """The kernel, from the cache or else from a mirror; one process at a time fetches.

    Raises MirrorError if no mirror can be reached, LabError on anything else that hinders.
    """
    found = cached(kernel)
    if found:
        return found
    for tool in ("apt-get", "apt-cache", "dpkg-deb", "depmod"):
        if not shutil.which(tool, path=_PATH):
            raise LabError(
                f"fetching Linux {kernel} takes {tool}, which is missing: give --kernel the path of an image"
            )
    with _locked(cache_directory()):
        return cached(kernel) or _fetch(kernel)


_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _directory(kernel: SupportedKernel) -> Path:
    return cache_directory() / "kernels" / kernel.name


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise LabError(
            f"cannot write to the cache {directory} ({error.strerror}); set HOTPAGE_LAB_CACHE"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _fetch(kernel: SupportedKernel) -> CachedKernel:
    mirror = Mirror(kernel.suite, cache_directory() / "apt" / kernel.suite)
    mirror.update()
    image_package = _newest(mirror, kernel)
    # Newer packages are empty: image and modules are their dependencies.
    parts = re.compile(r"linux-(base|binary|modules)-[0-9].*")
    packages = [image_package, *filter(parts.fullmatch, mirror.depends(image_package))]
    destination = _directory(kernel)
    destination.parent.mkdir(parents=True, exist_ok=True)
    for left in destination.parent.glob(f".{kernel}-*"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{kernel}-") as temporary:
        work = Path(temporary)
        archives = mirror.download(packages, work)
        for archive in archives:
            _run(["dpkg-deb", "--extract", str(archive), str(work / "unpacked")])
        result = work / "result"
        release = _keep_what_guests_need(work / "unpacked", result)
        facts = {
            "name": kernel.name,
            "release": release,
            "image": f"vmlinuz-{release}",
            "packages": {name: mirror.version(name) for name in packages},
            "suite": kernel.suite,
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        (result / "kernel.json").write_text(json.dumps(facts, indent=2) + "\n")
        # Whatever stands there has no kernel.json: a cache of another layout.
        shutil.rmtree(destination, ignore_errors=True)
        result.rename(destination)
    found = cached(kernel)
    assert found is not None
    return found


def _newest(mirror: Mirror, kernel: SupportedKernel) -> str:
    """The package of the series' newest image; not one for clouds, which lacks 9p, nor a real-time one."""
    pattern = re.compile(rf"linux-image-{re.escape(kernel.name)}\.[0-9]+[^-]*(-[0-9]+)?-amd64")
    images = [name for name in mirror.names(f"linux-image-{kernel.name}.") if pattern.fullmatch(name)]
    if not images:
        raise LabError(f"{kernel.suite} has no image of Linux {kernel} any more: change SUPPORTED_KERNELS")
    return max(images, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _keep_what_guests_need(unpacked: Path, result: Path) -> str:
    """Move the image and some modules to ``result``; return the kernel's release."""
    modules = next(
        unpacked / place for place in ("usr/lib/modules", "lib/modules") if (unpacked / place).is_dir()
    )
    (release,) = (entry.name for entry in modules.iterdir())
    image = next(
        path
        for path in (modules / release / "vmlinuz", unpacked / "boot" / f"vmlinuz-{release}")
        if path.exists()
    )
    result.mkdir()
    image.rename(result / f"vmlinuz-{release}")
    if modules != unpacked / "lib/modules":  # where depmod and modprobe look on every distribution
        (unpacked / "lib").mkdir()
        modules.rename(unpacked / "lib/modules")
        modules = unpacked / "lib/modules"
    _run(["depmod", "-b", str(unpacked), release])
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        _copy(modules / release / name, result / "lib/modules" / release / name)
    for file in _with_dependencies(modules / release, _MODULES):
        source = modules / release / file
        target = result / "lib/modules" / release / file.removesuffix(".xz")
        if file.endswith(".xz"):
            # A guest's insmod does not decompress.
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(lzma.decompress(source.read_bytes()))
        else:
            _copy(source, target)
    _run(["depmod", "-b", str(result), release])
    return release


def _with_dependencies(directory: Path, names: tuple[str, ...]) -> list[str]:
    """Files of the modules and all that they depend on, by modules.dep; what is built in has no file."""
    lines = (line.partition(":") for line in (directory / "modules.dep").read_text().splitlines())
    needs = {file: rest.split() for file, _, rest in lines}
    wanted = {file for file in needs if Path(file).name.split(".")[0].replace("-", "_") in names}
    return sorted(wanted.union(*(needs[file] for file in wanted)))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, env=os.environ | {"PATH": _PATH}, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{command[0]} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
