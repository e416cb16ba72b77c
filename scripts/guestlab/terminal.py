# SPDX-License-Identifier: Apache-2.0
"""A shell in a guest, on this terminal."""

import sys
from pathlib import Path

from guestlab.errors import LabError
from guestlab.topology import Topology


def shell(image: Path, kernel: str, machine: Topology) -> int:
    """Until the shell is left; return its exit status. Raises LabError where there is no terminal."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        raise LabError("a shell needs a terminal; give a command after --")
    raise LabError("not yet")
