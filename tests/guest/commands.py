# SPDX-License-Identifier: Apache-2.0
"""hotpage commands, forked from a process that has loaded it: to load takes most of their time in a guest."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hotpage.cli import main

_LIMIT_S = 500.0
_LOADED = multiprocessing.get_context("forkserver")
_LOADED.set_forkserver_preload(
    [
        "hotpage.cli.move",
        "hotpage.placement.selecting",
        "hotpage.profile.disk.reader",
        "pyarrow.parquet",
        "pydantic.type_adapter",
    ]
)


def run_hotpage(*words: object) -> subprocess.CompletedProcess[str]:
    """Like subprocess.run, of ``hotpage WORDS``."""
    arguments = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory, name) for name in ("output", "errors")]
        process = _LOADED.Process(target=_run, args=(arguments, files))
        process.start()
        process.join(_LIMIT_S)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, _LIMIT_S)
        output, errors = (file.read_text() for file in files)
    return subprocess.CompletedProcess(arguments, process.exitcode, output, errors)


def _run(arguments: list[str], files: list[Path]) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.exit(main(arguments))
