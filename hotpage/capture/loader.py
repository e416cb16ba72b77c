# SPDX-License-Identifier: Apache-2.0
"""Have BPF programs compiled and loaded by bcc, in a child process that is gone afterwards.

bcc belongs to the distribution's python3 and brings 70-185 MB of LLVM with it. The child passes every file
descriptor back over a Unix socket, so that this process may live in any virtualenv and stays small.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hotpage.bpfsources import bpf_source_directory
from hotpage.capture import events
from hotpage.errors import CompileError, MissingDependencyError

_CHILD = Path(__file__).with_name("_loader_child.py")
_LONGEST_COMPILE_S = 60.0
_MOST_DESCRIPTORS = 64


@dataclass
class LoadedPrograms:
    """File descriptors by name, owned by this object, and why some functions were not loaded."""

    programs: dict[str, int]
    maps: dict[str, int]
    failures: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Close every descriptor; what is attached stays attached until its link's descriptor closes too."""
        for fd in (*self.programs.values(), *self.maps.values()):
            os.close(fd)
        self.programs, self.maps = {}, {}


def interpreters_with_bcc() -> list[str]:
    """Interpreters worth trying, the likeliest first: this one if it finds a bcc, then the system's."""
    candidates = [sys.executable] if importlib.util.find_spec("bcc") else []
    candidates += [
        "/usr/bin/python3",
        *sorted(map(str, Path("/usr/bin").glob("python3.[0-9]*")), reverse=True),
    ]
    seen: dict[str, str] = {}
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and not candidate.endswith("-config"):
            seen.setdefault(str(Path(candidate).resolve()), candidate)
    return list(seen.values())


def installation_command() -> str:
    """The command that installs bcc on this distribution."""
    if shutil.which("apt-get"):
        return "sudo apt-get install python3-bpfcc"
    for manager in ("dnf", "zypper"):
        if shutil.which(manager):
            return f"sudo {manager} install python3-bcc"
    if shutil.which("pacman"):
        return "sudo pacman -S python-bcc"
    return "install your distribution's bcc Python package (not the one called bcc on the Python index)"


def compose_source(files: Sequence[str]) -> str:
    """One compilation unit: the shared part, the wanted files, and the checks of the layout.

    bcc only understands declarations in the unit's own text, so the files are joined rather than included;
    #line keeps the compiler's messages pointing at them.
    """
    directory = bpf_source_directory()
    parts = [f'#line 1 "{name}"\n{(directory / name).read_text()}' for name in ("common.bpf.c", *files)]
    parts.append(f'#line 1 "layout checks of hotpage/capture/events.py"\n{events.layout_assertions()}')
    return "\n".join(parts)


def compiler_flags(defines: Mapping[str, int]) -> list[str]:
    include = bpf_source_directory() / "include"
    flags = [f"-I{include}", f"-I{include.parent}", "-Wno-macro-redefined", "-Wno-unused-function"]
    values = {"HOTPAGE_PAGE_BYTES": os.sysconf("SC_PAGE_SIZE"), **defines}
    return flags + [f"-D{name}={value}" for name, value in values.items()]


def _receive_line(connection: socket.socket, descriptors: list[int]) -> bytes:
    """What the child sends, up to the end of the line or of the connection; its descriptors are appended."""
    line = b""
    while True:
        part, received, _, _ = socket.recv_fds(connection, 1 << 16, _MOST_DESCRIPTORS)
        for fd in received:
            os.set_inheritable(fd, False)  # MSG_CMSG_CLOEXEC would do, but recv_fds drops its flags
        descriptors += received
        line += part
        if not part or line.endswith(b"\n"):
            return line


def _close(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _ask_child(interpreter: str, request: Mapping[str, object]) -> tuple[dict[str, object], list[int], str]:
    """Run the child once; its answer, the descriptors that came with it, and what it printed."""
    ours, theirs = socket.socketpair()
    directory = bpf_source_directory()
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "BCC_KERNEL_SOURCE": str(directory),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with ours, tempfile.TemporaryFile() as printed:
        ours.settimeout(_LONGEST_COMPILE_S)
        with theirs:
            child = subprocess.Popen(
                [interpreter, "-I", str(_CHILD), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env=environment,
                cwd="/",
            )
        line, descriptors = b"", list[int]()
        try:
            ours.sendall(json.dumps(request).encode() + b"\n")
            line = _receive_line(ours, descriptors)
            child.wait(_LONGEST_COMPILE_S)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            _close(descriptors)
            raise CompileError(
                f"the BPF compiler did not answer within {_LONGEST_COMPILE_S:.0f} s",
                "is the machine overloaded?",
            ) from error
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has died, which its exit status tells
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        printed.seek(0)
        output = printed.read().decode(errors="replace")
    if not line.endswith(b"\n"):
        return {"error": "died", "reason": f"exit status {child.returncode}"}, descriptors, output
    return json.loads(line), descriptors, output


def _first_error(output: str) -> str:
    """The compiler's first complaint, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "no message")


def load(
    files: Sequence[str],
    defines: Mapping[str, int],
    functions: Mapping[str, str],
    maps: Sequence[str],
) -> LoadedPrograms:
    """Compile ``files`` (names in bpfprog/) and load ``functions`` (name to program type) and ``maps``.

    A function that the kernel refuses is not an error here: it is in ``failures`` with the reason.
    Raises MissingDependencyError (no bcc) and CompileError.
    """
    if platform.machine() not in ("x86_64", "aarch64"):
        raise CompileError(f"hotpage's BPF programs know x86-64 and arm64, not {platform.machine()}")
    request = {
        "source": compose_source(files),
        "cflags": compiler_flags(defines),
        "functions": dict(functions),
        "maps": list(maps),
    }
    missing = "no Python interpreter here"
    for interpreter in interpreters_with_bcc():
        answer, descriptors, output = _ask_child(interpreter, request)
        problem = answer.get("error")
        if problem is None:
            names = [str(name) for name in [*_list(answer["programs"]), *_list(answer["maps"])]]
            by_name = dict(zip(names, descriptors, strict=True))
            failures = answer["failures"]
            assert isinstance(failures, dict)
            return LoadedPrograms(
                {name: fd for name, fd in by_name.items() if name in functions},
                {name: fd for name, fd in by_name.items() if name in maps},
                {name: _failure_reason(str(reason), output) for name, reason in failures.items()},
            )
        _close(descriptors)
        if problem == "no bcc":
            missing = str(answer["reason"])
        elif problem == "compile":
            raise CompileError(f"bcc cannot compile the BPF programs ({_first_error(output)})", None, output)
        else:
            raise CompileError(
                f"the BPF compiler in {interpreter} died ({answer['reason']}: {_first_error(output)})",
                None,
                output,
            )
    raise MissingDependencyError(f"bcc is not installed ({missing})", installation_command())


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _failure_reason(reason: str, output: str) -> str:
    """bcc's exception says which errno; the verifier's last words say why."""
    if "Permission denied" not in reason and "Invalid argument" not in reason:
        return reason
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return f"{reason} ({lines[-1]})" if lines else reason
