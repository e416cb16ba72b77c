# SPDX-License-Identifier: Apache-2.0
"""Compile and load BPF programs with bcc, hand their file descriptors over, and exit.

Runs as a script of its own in whichever interpreter can import bcc, which is usually not hotpage's: it
imports nothing of hotpage and keeps to old Python. Argument: the number of an inherited Unix stream socket.
It reads one JSON line,

    {"source": C text, "cflags": [...], "functions": {name: program type}, "maps": [name, ...]}

(an fentry program goes by the name of the kernel function that it is a KFUNC_PROBE of)

and answers with one JSON line, sent together with the file descriptors it names, in order:

    {"programs": [name, ...], "maps": [name, ...], "failures": {name: reason}}
    or  {"error": kind, "reason": text}

What the compiler and the verifier print goes to standard error, which the parent keeps.
"""

from __future__ import annotations

import array
import json
import os
import socket
import sys
from typing import Any


def answer(
    connection: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] | list[int] = ()
) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    connection.sendmsg([json.dumps(message).encode() + b"\n"], rights)


def symbol(name: str, kind: str, compiled: list[bytes]) -> bytes:
    """What a program is called in the unit: bcc's KFUNC_PROBE puts a prefix before it that depends on bcc."""
    if kind != "fentry":
        return name.encode()
    return next(s for s in compiled if s.startswith(b"kfunc__") and s.endswith(b"__" + name.encode()))


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    request = json.loads(connection.makefile().readline())
    try:
        from bcc import BPF, lib
    except Exception as error:
        # ImportError: none, or the unrelated lattice library that the Python index calls "bcc".
        # OSError: the C library cannot be loaded. Whatever else a foreign package raises: not this one.
        return answer(connection, {"error": "no bcc", "reason": str(error) or type(error).__name__})
    types = {
        "raw_tracepoint": BPF.RAW_TRACEPOINT,
        "perf_event": BPF.PERF_EVENT,
        "kprobe": BPF.KPROBE,
        "fentry": getattr(BPF, "TRACING", None),
    }
    # Attaching is the parent's business; bcc would attach functions by the prefix of their names.
    BPF._trace_autoload = lambda unit: None
    try:
        unit = BPF(text=request["source"], cflags=request["cflags"])
    except Exception as error:
        return answer(connection, {"error": "compile", "reason": str(error)})
    compiled = [lib.bpf_function_name(unit.module, i) for i in range(lib.bpf_num_functions(unit.module))]
    programs, failures, descriptors = [], {}, []
    for name, kind in request["functions"].items():
        try:
            function = unit.load_func(symbol(name, kind, compiled), types[kind])
        except Exception as error:
            failures[name] = str(error)
            continue
        programs.append(name)
        descriptors.append(function.fd)
    descriptors += [unit[name.encode()].map_fd for name in request["maps"]]
    return answer(
        connection, {"programs": programs, "maps": request["maps"], "failures": failures}, descriptors
    )


main()
sys.stderr.flush()
os._exit(0)  # unmapping LLVM in good order would only take time
