# SPDX-License-Identifier: Apache-2.0
"""Command lines that make no sense, many in one process: to start one for each takes most of a second."""

import json
import subprocess
import sys
from collections.abc import Sequence

from toucher import DEADLINE_S

_RUN_ALL = """
import contextlib, io, json, sys
from hotpage.cli import main
for words in json.loads(sys.argv[1]):
    printed, complaint = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaint):
        status = main(words)
    print(json.dumps([status, printed.getvalue(), complaint.getvalue()]), flush=True)
"""


def check_wrong_usage(verb: Sequence[str], cases: Sequence[tuple[Sequence[str], str, int]]) -> None:
    """Each case's options, after the verb, are refused with one line that has the words, and the status."""
    lines = [[*verb, *options] for options, _, _ in cases]
    done = subprocess.run(
        [sys.executable, "-c", _RUN_ALL, json.dumps(lines)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases), f"{lines[len(answers)]}: {done.stderr}"
    assert done.stderr == ""
    for words, (_, expected, status), (got, printed, complaint) in zip(lines, cases, answers, strict=True):
        assert (got, printed) == (status, ""), (words, complaint)
        assert complaint.startswith("hotpage: ") and complaint.count("\n") == 1, (words, complaint)
        assert expected in complaint, (words, complaint)
