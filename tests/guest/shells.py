# SPDX-License-Identifier: Apache-2.0
"""Processes that become old before a test needs one."""

import subprocess


def waiting_shell() -> subprocess.Popen[str]:
    """It does what the first line that it gets says, and may become another program: that is as old as it."""
    return subprocess.Popen(
        ["sh", "-c", 'read -r line; eval "$line"'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
