# SPDX-License-Identifier: Apache-2.0
"""The command line's frame: verbs, exit statuses, one line per failure."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import typer

import hotpage
from hotpage import cli
from hotpage.errors import CompileError, HotpageError, PrivilegeError, UsageError


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes ``hotpage probe`` run the function it is given."""

    def install(run) -> None:
        module = types.ModuleType("hotpage.cli.probe")
        module.probe = run
        monkeypatch.setitem(sys.modules, "hotpage.cli.probe", module)
        monkeypatch.setitem(cli.VERBS, "probe", "A verb for tests.")

    return install


def raising(error: BaseException):
    def probe() -> None:
        raise error

    return probe


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (HotpageError("it broke"), 1, "hotpage: it broke\n"),
        (PrivilegeError("not root", "sudo hotpage doctor"), 1, "hotpage: not root: sudo hotpage doctor\n"),
        (UsageError("no such source 'x'"), 2, "hotpage: no such source 'x'\n"),
        (CompileError("the compiler refused", "report it", "line 1\nline 2"), 1, None),
    ],
)
def test_expected_failures_are_one_line(
    verb, capsys, error: HotpageError, status: int, line: str | None
) -> None:
    verb(raising(error))
    assert cli.main(["probe"]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert line is None or printed.err == line


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (typer.Exit(7), 7), (typer.Abort(), 130)]
)
def test_other_ends_are_silent(verb, capsys, error: BaseException, status: int) -> None:
    verb(raising(error))
    assert cli.main(["probe"]) == status
    assert capsys.readouterr() == ("", "")


def test_a_verb_may_return_an_exit_status(verb) -> None:
    def probe(words: list[str]) -> int:
        return len(words)

    verb(probe)
    assert cli.main(["probe", "--", "-a", "b", "--version"]) == 3


def test_bugs_keep_their_traceback(verb) -> None:
    verb(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["probe"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--bogus"], "hotpage: no such option: --bogus (see hotpage --help)\n"),
        (["xyzzy"], "hotpage: no such command 'xyzzy' (see hotpage --help)\n"),
        (["probe", "--bogus"], "hotpage: no such option: --bogus (see hotpage probe --help)\n"),
        (["probe", "--count", "x"], None),
        (["probe", "--count"], None),
    ],
)
def test_wrong_usage_is_one_line_and_2(verb, capsys, words: list[str], line: str | None) -> None:
    def probe(count: int = 1) -> None:
        raise AssertionError("must not run")

    verb(probe)
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("hotpage: ")
    assert printed.err.count("\n") == 1
    assert line is None or printed.err == line


def test_a_mistyped_verb_is_guessed(capsys) -> None:
    assert cli.main(["recrod"]) == 2
    assert "Did you mean 'record'?" in capsys.readouterr().err


def test_version(capsys) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"hotpage {hotpage.__version__}\n"


@pytest.mark.parametrize("words", [["--help"], []])
def test_help_names_every_verb_in_80_columns(monkeypatch, capsys, words: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for verb_name, summary in cli.VERBS.items():
        assert any(line.split(None, 1) == [verb_name, summary] for line in lines)


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_answers_help_in_80_columns(monkeypatch, capsys, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Usage: hotpage {name} ")
    assert max(map(len, printed.splitlines())) <= 80


def modules_after(code: str) -> set[str]:
    """Return the names of the modules that a fresh interpreter has imported after running the code."""
    program = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.splitlines())


ROOT = Path(hotpage.__file__).parents[1]


def test_help_imports_no_verb_and_nothing_heavy() -> None:
    loaded = modules_after("from hotpage.cli import main; main(['--help'])")
    assert not {f"hotpage.cli.{name}" for name in cli.VERBS} & loaded
    assert not {"numpy", "pyarrow", "rich", "pyroute2"} & loaded


@pytest.mark.parametrize("name", ["report", "restore", "tiers"])
def test_verbs_that_only_read_import_no_capture(name: str) -> None:
    assert "hotpage.capture" not in modules_after(f"import hotpage.cli.{name}")


def test_a_closed_pipe_is_no_news() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "hotpage", "--help"], stdout=closed, stderr=subprocess.PIPE, cwd=ROOT
        )
    assert done.stderr == b""
    assert done.returncode == 1


def test_what_the_locale_cannot_show_is_escaped() -> None:
    code = "from hotpage.errors import status_of; raise SystemExit(status_of(lambda: print('é 日') or 0))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "iso-8859-1"},
        cwd=ROOT,
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\xe9 \\u65e5\n", b"")


def test_completion_knows_the_verbs() -> None:
    asked = {"_HOTPAGE_COMPLETE": "complete_bash", "COMP_WORDS": "hotpage rep", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "hotpage"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["report"]
