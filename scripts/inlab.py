# SPDX-License-Identifier: Apache-2.0
"""A script of this directory run in a guest of the lab, for the benchmarks that need memory tiers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from hotpage.errors import UnsupportedError

HERE = Path(__file__).resolve().parent


def lab_json(kernel: str, limit_s: int, script: str, *words: object) -> dict[str, Any]:
    """The last line that the script prints in a guest with little fast memory. Raises UnsupportedError."""
    command = [str(HERE / "lab"), "--kernel", kernel, "--topology", "small-dram", "--limit", str(limit_s)]
    command += ["--", "python", str(HERE / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise UnsupportedError(f"the guest with Linux {kernel} failed", "its output is above")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
