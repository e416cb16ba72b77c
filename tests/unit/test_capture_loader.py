# SPDX-License-Identifier: Apache-2.0
"""The loader and its child, with interpreters that find a bcc of our own making."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hotpage.capture import loader
from hotpage.errors import CompileError, HotpageError, MissingDependencyError

# Takes the place of an interpreter, "-I CHILD FD": puts a module bcc in place, then runs the real child.
INTERPRETER = """#!{python}
import os, sys, time, types
bcc = sys.modules["bcc"] = types.ModuleType("bcc")
child, sys.argv = sys.argv[2], sys.argv[2:]
{code}
exec(compile(open(child).read(), child, "exec"))
"""

# As much of bcc as the child uses: maps and functions are descriptors of /dev/null.
WORKING = """
class Fd:
    def __init__(self):
        self.fd = self.map_fd = os.open("/dev/null", os.O_RDONLY)
class BPF:
    RAW_TRACEPOINT, PERF_EVENT, KPROBE, TRACING = 17, 7, 2, 26
    def __init__(self, text, cflags):
        assert "-DHOTPAGE_ANSWER=42" in cflags and "page_fault_user" in text
        self.module = None
    def load_func(self, name, kind):
        if name == b"refused":
            sys.stderr.write("0: R1=ctx\\nR2 is not allowed here\\n")
            raise Exception("Failed to load BPF program b'refused': Permission denied")
        return Fd()
    def __getitem__(self, name):
        return Fd()
class lib:
    bpf_num_functions = lambda module: 1
    bpf_function_name = lambda module, index: b"kfunc__vmlinux__mpol_misplaced"
bcc.BPF, bcc.lib = BPF, lib
"""
BROKEN_PROGRAM = """
class BPF:
    RAW_TRACEPOINT = PERF_EVENT = KPROBE = 0
    def __init__(self, **words):
        os.write(2, b"warning: odd\\ncommon.bpf.c:7:3: error: unknown type name 'u65'\\n1 error.\\n")
        raise Exception("Failed to compile BPF module <text>")
bcc.BPF = bcc.lib = BPF
"""


class Interpreters:
    """The interpreters that the loader finds, in order."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.paths: list[str] = []

    def add(self, code: str) -> None:
        path = self._directory / f"python{len(self.paths)}"
        # A virtualenv's own python may lie where a #! line cannot point: below a path with spaces.
        path.write_text(INTERPRETER.format(python=Path(sys.executable).resolve(), code=code))
        path.chmod(0o755)
        self.paths.append(str(path))


@pytest.fixture
def interpreters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interpreters:
    found = Interpreters(tmp_path)
    monkeypatch.setattr(loader, "interpreters_with_bcc", lambda: found.paths)
    return found


def load(**functions: str) -> loader.LoadedPrograms:
    return loader.load(["pagefault.bpf.c"], {"HOTPAGE_ANSWER": 42}, functions, ["config", "ring0"])


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def message(error: pytest.ExceptionInfo[HotpageError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_descriptors_arrive_by_name(interpreters: Interpreters) -> None:
    interpreters.add(WORKING)
    before = open_descriptors()
    programs = load(page_fault_user="raw_tracepoint", software_page_fault="perf_event")
    assert list(programs.programs) == ["page_fault_user", "software_page_fault"]
    assert list(programs.maps) == ["config", "ring0"]
    fds = [*programs.programs.values(), *programs.maps.values()]
    assert all(Path(f"/proc/self/fd/{fd}").samefile("/dev/null") for fd in fds)
    assert not any(os.get_inheritable(fd) for fd in fds)
    programs.close()
    programs.close()
    assert open_descriptors() == before


def test_a_refused_function_is_no_error_and_says_what_the_verifier_said(interpreters: Interpreters) -> None:
    interpreters.add(WORKING)
    programs = load(page_fault_user="raw_tracepoint", refused="raw_tracepoint")
    assert list(programs.programs) == ["page_fault_user"]
    assert programs.failures == {
        "refused": "Failed to load BPF program b'refused': Permission denied (R2 is not allowed here)"
    }
    programs.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("del sys.modules['bcc']; sys.modules['bcc'] = None", "halted"),
        ("bcc.LatticeStructure = object", "cannot import name 'BPF' from 'bcc'"),
        (
            "def get(name): raise OSError('libbcc.so.0: cannot open')\nbcc.__getattr__ = get",
            "libbcc.so.0",
        ),
        ("def get(name): raise ValueError\nbcc.__getattr__ = get", "ValueError"),
    ],
    ids=["none", "the lattice library", "no libbcc", "something else"],
)
def test_no_bcc(interpreters: Interpreters, code: str, reason: str) -> None:
    interpreters.add(code)
    with pytest.raises(MissingDependencyError) as error:
        load(page_fault_user="raw_tracepoint")
    assert reason in message(error)
    assert message(error).endswith(": " + loader.installation_command())


def test_another_interpreter_is_tried(interpreters: Interpreters) -> None:
    interpreters.add("bcc.LatticeStructure = object")
    interpreters.add("def get(name): raise OSError\nbcc.__getattr__ = get")
    interpreters.add(WORKING)
    load(page_fault_user="raw_tracepoint").close()


def test_without_any_interpreter(interpreters: Interpreters) -> None:
    with pytest.raises(MissingDependencyError, match="no Python interpreter"):
        load(page_fault_user="raw_tracepoint")


def test_a_compile_error_carries_the_compilers_words(interpreters: Interpreters) -> None:
    interpreters.add(BROKEN_PROGRAM)
    before = open_descriptors()
    with pytest.raises(CompileError) as error:
        load(page_fault_user="raw_tracepoint")
    assert "common.bpf.c:7:3: error: unknown type name 'u65'" in message(error)
    assert "1 error." in error.value.compiler_output
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print('last words', flush=True); os._exit(3)", "exit status 3: last words"),
        ("os.kill(os.getpid(), 9)", "exit status -9: no message"),
    ],
)
def test_a_child_that_dies(interpreters: Interpreters, code: str, status: str) -> None:
    interpreters.add(code)
    with pytest.raises(CompileError) as error:
        load(page_fault_user="raw_tracepoint")
    assert interpreters.paths[0] in message(error)
    assert status in message(error)


@pytest.mark.parametrize(
    "code",
    ["time.sleep(1000)", WORKING + "\nos._exit = lambda status: time.sleep(1000)"],
    ids=["before it answers", "afterwards"],
)
def test_a_child_that_hangs_is_ended(
    interpreters: Interpreters, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            started.append(self)

    monkeypatch.setattr(loader, "_LONGEST_COMPILE_S", 2.0)
    monkeypatch.setattr(subprocess, "Popen", Noted)
    interpreters.add(code)
    before = open_descriptors()
    with pytest.raises(CompileError, match="did not answer within 2 s"):
        load(page_fault_user="raw_tracepoint")
    (child,) = started
    assert not Path(f"/proc/{child.pid}").exists()
    assert open_descriptors() == before


def test_the_child_gets_a_clean_environment(
    interpreters: Interpreters, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "LD_PRELOAD", "BCC_PROBEREAD_USER"):
        monkeypatch.setenv(name, "/nonexistent")
    interpreters.add(
        "bad = {'PYTHONPATH', 'LD_PRELOAD', 'BCC_PROBEREAD_USER'} & os.environ.keys()\n"
        "print(sorted(bad), os.getcwd(), os.listdir(os.environ['BCC_KERNEL_SOURCE']).count('include'))\n"
        "sys.stdout.flush(); os._exit(1)"
    )
    with pytest.raises(CompileError, match=re.escape("[] / 1")):
        load(page_fault_user="raw_tracepoint")


def test_system_interpreters_come_last_and_once(tmp_path: Path) -> None:
    found = loader.interpreters_with_bcc()
    resolved = [Path(path).resolve() for path in found]
    assert len(set(resolved)) == len(resolved)
    assert not any(path.endswith("-config") for path in found)


@pytest.mark.parametrize(
    ("managers", "command"),
    [
        ({"apt-get", "dnf"}, "sudo apt-get install python3-bpfcc"),
        ({"dnf"}, "sudo dnf install python3-bcc"),
        ({"zypper"}, "sudo zypper install python3-bcc"),
        ({"pacman"}, "sudo pacman -S python-bcc"),
        (set(), "install your distribution's bcc"),
    ],
)
def test_the_command_that_installs_bcc(
    managers: set[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader.shutil, "which", lambda name: name if name in managers else None)
    assert loader.installation_command().startswith(command)


def test_one_unit_that_the_compiler_reports_by_file(tmp_path: Path) -> None:
    source = loader.compose_source(["pagefault.bpf.c", "hintfault.bpf.c"])
    heads = re.findall(r'^#line 1 "(.*)"$', source, re.M)
    assert heads[:3] == ["common.bpf.c", "pagefault.bpf.c", "hintfault.bpf.c"]
    assert len(heads) == 4
    assert '_Static_assert(sizeof(struct hotpage_event) == 32, "size of hotpage_event");' in source


@pytest.mark.needs("compiler")
def test_line_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    name = "pagefault.bpf.c"
    text = (loader.bpf_source_directory() / name).read_text().splitlines()
    number = next(n for n, line in enumerate(text, 1) if line.startswith("int page_fault_user"))
    source = loader.compose_source([name]).replace("int page_fault_user", "#error here\nint page_fault_user")
    (tmp_path / "unit.c").write_text(source)
    checked = subprocess.run(
        ["cc", "-fsyntax-only", f"-I{loader.bpf_source_directory()}", tmp_path / "unit.c"],
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C"},
    )
    assert f"{name}:{number}:" in checked.stderr and "error: #error here" in checked.stderr


def test_a_tracing_program_is_found_behind_the_prefix_of_any_bcc(interpreters: Interpreters) -> None:
    interpreters.add(
        WORKING.replace(
            "if name ==", "assert name.startswith(b'kfunc__') == (kind == 26), name\n        if name =="
        )
    )
    programs = load(mpol_misplaced="fentry", page_fault_user="raw_tracepoint")
    assert list(programs.programs) == ["mpol_misplaced", "page_fault_user"]
    programs.close()
