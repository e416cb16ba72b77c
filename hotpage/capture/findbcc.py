# SPDX-License-Identifier: Apache-2.0
"""Which interpreter has bcc, and which bcc that is; found out by importing it there."""

from __future__ import annotations

import subprocess

from hotpage.capture.loader import installation_command, interpreters_with_bcc
from hotpage.errors import MissingDependencyError

# Also fails on the unrelated lattice library that the Python index calls "bcc".
_PROBE = "from bcc import BPF, __version__; print(__version__)"
_LONGEST_IMPORT_S = 30.0


def find_bcc() -> tuple[str, str]:
    """The interpreter that the loader would take, and the version of its bcc.

    Raises MissingDependencyError, with the command that installs bcc.
    """
    why = "no Python interpreter here"
    for interpreter in interpreters_with_bcc():
        try:
            probe = subprocess.run(
                [interpreter, "-I", "-c", _PROBE],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LONGEST_IMPORT_S,
                cwd="/",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
            continue
        if probe.returncode == 0:
            return interpreter, probe.stdout.strip()
        why = (probe.stderr.split("\n")[-2:-1] or [f"exit status {probe.returncode}"])[0]
    raise MissingDependencyError(f"bcc is not installed ({why})", installation_command())
