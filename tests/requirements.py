# SPDX-License-Identifier: Apache-2.0
"""What tests may need of the machine: ``@pytest.mark.needs("bcc")``, each probed by use, never guessed.

HOTPAGE_FORCE=name[,name] (or "all") runs the tests although the probe says no.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guestlab.errors import LabError, MirrorError
from guestlab.kernels import SUPPORTED_KERNELS, SupportedKernel, fetch


@dataclass(frozen=True)
class Requirement:
    """``missing`` says why the machine lacks it, or None when it is there.

    ``may_lack``: a machine, also CI's, can be without it for good; everything else scripts/test provides, and
    with CI=true a test that is skipped for want of it fails the run.
    """

    missing: Callable[[], str | None]
    may_lack: bool = False


def _root() -> str | None:
    return None if os.geteuid() == 0 else "root is needed: sudo ./scripts/test"


def _compiler() -> str | None:
    return None if shutil.which("cc") else "there is no C compiler (cc)"


def _bcc() -> str | None:
    probe = subprocess.run(["/usr/bin/python3", "-c", "import bcc"], capture_output=True)
    return None if probe.returncode == 0 else "the system's python3 cannot import bcc"


def _tmux() -> str | None:
    return None if shutil.which("tmux") else "there is no tmux"


def _package_index() -> str | None:
    """Ask for the build back end: an editable installation needs it from there."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "index",
        "versions",
        "--retries",
        "0",
        "--timeout",
        "15",
        "hatchling",
    ]
    probe = subprocess.run(command, capture_output=True)
    return None if probe.returncode == 0 else "no Python package index can be reached"


def _emulator() -> str | None:
    return None if shutil.which("qemu-system-x86_64") else "there is no qemu-system-x86_64"


def _systemd() -> str | None:
    places = Path("/usr/lib/systemd/systemd"), Path("/lib/systemd/systemd")
    return None if any(place.exists() for place in places) else "there is no systemd"


def _vagrant() -> str | None:
    if not shutil.which("vagrant"):
        return "there is no vagrant"
    plugins = subprocess.run(["dpkg", "-s", "vagrant-libvirt"], capture_output=True)
    return None if plugins.returncode == 0 else "there is no vagrant-libvirt"


def _redis() -> str | None:
    return None if shutil.which("redis-benchmark") else "there is no redis-benchmark (Debian: redis-tools)"


def _kernel_image(kernel: SupportedKernel) -> str | None:
    """Fetch it if it is not cached; what hinders other than a lack of network is the test's failure."""
    try:
        fetch(kernel)
    except MirrorError as error:
        return str(error)
    except LabError:
        pass  # the test that boots it says so
    return None


def _breakpoints() -> str | None:
    from hotpage.capture import perf

    try:
        perf.try_event(perf.breakpoint_at(0x1000))
    except OSError as error:
        return f"no hardware breakpoint can be had ({error.strerror})"
    return None


REQUIREMENTS = {
    "root": Requirement(_root),
    "compiler": Requirement(_compiler),
    "bcc": Requirement(_bcc),
    "breakpoints": Requirement(_breakpoints, may_lack=True),
    "tmux": Requirement(_tmux),
    "package index": Requirement(_package_index, may_lack=True),
    "emulator": Requirement(_emulator),
    # Not in every distribution (vagrant left Debian with 13): scripts/test installs what can be had.
    "redis": Requirement(_redis, may_lack=True),
    "systemd": Requirement(_systemd, may_lack=True),
    "vagrant": Requirement(_vagrant, may_lack=True),
    **{
        f"Linux {kernel}": Requirement(functools.partial(_kernel_image, kernel), may_lack=True)
        for kernel in SUPPORTED_KERNELS
    },
}


@functools.cache
def why_missing(name: str) -> str | None:
    """Return why the requirement is not there, or None when it is, or is forced."""
    forced = os.environ.get("HOTPAGE_FORCE", "").split(",")
    return None if name in forced or "all" in forced else REQUIREMENTS[name].missing()
