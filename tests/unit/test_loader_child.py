# SPDX-License-Identifier: Apache-2.0
"""The loader child against bcc's habits of naming, old and new, with a bcc of our own making."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hotpage.capture import loader

FAKE_BCC = """
import os

class Function:
    fd = os.open(os.devnull, os.O_RDONLY)

class Map:
    map_fd = Function.fd

class BPF:
    RAW_TRACEPOINT, PERF_EVENT, KPROBE, TRACING = range(4)

    def __init__(self, text, cflags):
        self.module = text

    def load_func(self, name, kind):
        with open(os.environ["LOADED"], "ab") as log:
            log.write(name + b" %d\\n" % kind)
        return Function

    def __getitem__(self, name):
        return Map

class lib:
    names = os.environb[b"COMPILED"].split()
    bpf_num_functions = staticmethod(lambda module: len(lib.names))
    bpf_function_name = staticmethod(lambda module, place: lib.names[place])
"""


def run_child(directory: Path, functions: dict[str, str], compiled: str) -> tuple[dict[str, object], str]:
    """The child's answer, and what it asked bcc to load; its descriptors are counted and closed."""
    (directory / "bcc.py").write_text(FAKE_BCC)
    (directory / "loaded").touch()
    environment = {"PYTHONPATH": str(directory), "LOADED": str(directory / "loaded"), "COMPILED": compiled}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, str(loader._CHILD), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
        )
        request = {"source": "", "cflags": [], "functions": functions, "maps": ["config"]}
        ours.sendall(json.dumps(request).encode() + b"\n")
        line, descriptors, _, _ = socket.recv_fds(ours, 1 << 16, 64)
        assert child.wait(180) == 0
    for fd in descriptors:
        os.close(fd)
    answer = json.loads(line)
    assert len(descriptors) == len(answer["programs"]) + len(answer["maps"])
    return answer, (directory / "loaded").read_text()


@pytest.mark.parametrize("prefix", ["kfunc__", "kfunc__vmlinux__"])
def test_fentry_programs_are_found_behind_any_prefix(tmp_path: Path, prefix: str) -> None:
    answer, loaded = run_child(
        tmp_path,
        {"mpol_misplaced": "fentry", "follow_fork": "raw_tracepoint"},
        f"follow_fork kprobe__mpol_misplaced {prefix}not_mpol_misplaced {prefix}mpol_misplaced",
    )
    assert answer["programs"] == ["mpol_misplaced", "follow_fork"]
    assert answer["failures"] == {}
    assert loaded == f"{prefix}mpol_misplaced 3\nfollow_fork 0\n"


def test_a_program_that_is_not_in_the_unit_fails_alone(tmp_path: Path) -> None:
    answer, loaded = run_child(tmp_path, {"gone": "fentry", "follow_fork": "raw_tracepoint"}, "follow_fork")
    assert answer["programs"] == ["follow_fork"]
    assert list(answer["failures"]) == ["gone"]  # type: ignore[call-overload]
    assert loaded == "follow_fork 0\n"
