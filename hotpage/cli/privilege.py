# SPDX-License-Identifier: Apache-2.0
"""What a verb says to somebody who is not root: the very command line, with sudo in front."""

import os
import shlex
import sys
from pathlib import Path

from hotpage.errors import PrivilegeError

AS_MODULE = (sys.executable, "-P", "-m", "hotpage")
"""hotpage by this very Python; without -P root would import what lies in whatever directory this is."""


def require_root(action: str) -> None:
    """Raise PrivilegeError unless this is root; ``action`` is what needs it, as in "recording"."""
    if os.geteuid() != 0:
        raise PrivilegeError(f"{action} needs root", shlex.join(["sudo", *_own_command_line()]))


def _own_command_line() -> list[str]:
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return [*AS_MODULE, *sys.argv[1:]]
    # sudo searches another PATH, without virtualenvs.
    return [str(program.absolute()), *sys.argv[1:]]
