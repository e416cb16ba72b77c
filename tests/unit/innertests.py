# SPDX-License-Identifier: Apache-2.0
"""pytest run by a test: this project's conftests with tests of their own."""

import os
import subprocess
import sys
from pathlib import Path

_SCRIPTS = Path(__file__).parents[2] / "scripts"


def run_tests(directory: Path, *options: str | Path, **environment: str) -> tuple[int, str]:
    """pytest in that directory, without CI's settings and HOTPAGE_FORCE: its status and output."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "HOTPAGE_FORCE")}
    own = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(_SCRIPTS)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        env=kept | own | environment,
        capture_output=True,
        text=True,
        cwd=directory,
    )
    return done.returncode, done.stdout
