# SPDX-License-Identifier: Apache-2.0
"""Whether KVM works here, found out by booting with it: some machines have /dev/kvm and cannot use it."""

import functools
import os
import subprocess
from pathlib import Path
from typing import Final

from guestlab.errors import LabError

_PROBE_LIMIT_S: Final = 30.0


@functools.cache
def has_kvm(image: Path) -> bool:
    """Boot the kernel without a root file system: it panics, and QEMU ends well, if all is well.

    HOTPAGE_LAB_ACCEL=kvm or tcg says it without trying.
    """
    wanted = os.environ.get("HOTPAGE_LAB_ACCEL", "")
    if wanted not in ("", "kvm", "tcg"):
        raise LabError(f"HOTPAGE_LAB_ACCEL={wanted}: it is kvm, tcg, or unset to find out")
    if wanted or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return wanted == "kvm"
    command = [str(Path(__file__).parent / "qemu"), "-accel", "kvm", "-cpu", "host", "-m", "512"]
    command += ["-display", "none", "-net", "none", "-no-reboot", "-kernel", str(image)]
    command += ["-append", "panic=-1"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, cwd="/", timeout=_PROBE_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
