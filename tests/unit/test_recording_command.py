# SPDX-License-Identifier: Apache-2.0
"""A command that waits for its release, and what a record command line means."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import PATIENCE_S

from hotpage.capture.events import TargetKind
from hotpage.cli.privilege import require_root
from hotpage.cli.targets import parse_sources
from hotpage.errors import PrivilegeError, TargetError, UsageError
from hotpage.machine.proc import read_stat
from hotpage.recording.command import Command, CommandError
from hotpage.recording.selection import Selection


def ended(command: Command) -> int:
    end = time.monotonic() + PATIENCE_S
    while (status := command.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return status


def test_nothing_runs_before_the_release(tmp_path: Path) -> None:
    with Command(["touch", str(tmp_path / "ran")]) as command:
        assert command.poll() is None
        stat = read_stat(command.pid)
        assert stat is not None and stat.comm != "touch"
        assert not (tmp_path / "ran").exists()
        command.release()
        assert ended(command) == 0
        assert (tmp_path / "ran").exists()


def test_never_released_it_never_runs(tmp_path: Path) -> None:
    with Command(["touch", str(tmp_path / "ran")]) as command:
        pass
    assert read_stat(command.pid) is None
    assert not (tmp_path / "ran").exists()


def test_it_does_not_outlive_a_killed_hotpage_unreleased(tmp_path: Path) -> None:
    code = (
        "import sys, time; from hotpage.recording.command import Command\n"
        f"print(Command(['touch', {str(tmp_path / 'ran')!r}]).pid, flush=True); time.sleep(1000)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.communicate()
    end = time.monotonic() + PATIENCE_S
    while (stat := read_stat(pid)) is not None and not stat.has_ended:
        assert time.monotonic() < end, "it still waits"
        time.sleep(0.01)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_exit_status_as_a_shell_gives_it(script: str, status: int) -> None:
    with Command(["sh", "-c", script]) as command:
        command.release()
        assert ended(command) == status
        assert command.end() == status


def test_a_command_that_does_not_exist_is_found_before_anything_starts() -> None:
    with pytest.raises(CommandError) as error:
        Command(["no-such-command", "x"])
    assert (str(error.value), error.value.exit_status) == (
        "cannot run no-such-command (No such file or directory)",
        127,
    )


@pytest.mark.parametrize("content", [None, "#!/nonexistent/interpreter\n", "not a program"])
def test_a_command_that_cannot_be_executed(tmp_path: Path, content: str | None) -> None:
    program = tmp_path / "program"
    if content is None:
        program.mkdir()
    else:
        program.write_text(content)
        program.chmod(0o755)
    with pytest.raises(CommandError) as error, Command([str(program)]) as command:
        command.release()
    assert str(program) in str(error.value)
    # A missing interpreter is indistinguishable from a missing program, for shells, too.
    assert error.value.exit_status == (127 if content and content.startswith("#!") else 126)


def test_the_command_gets_default_signals_and_no_descriptors_of_ours(tmp_path: Path) -> None:
    # Written by C programs, so that no Python start-up gets in between.
    script = f"exec >{tmp_path / 'said'}; grep SigIgn /proc/self/status; ls /proc/self/fd"
    with Command(["sh", "-c", script]) as command:
        command.release()
        assert ended(command) == 0
    first, *descriptors = (tmp_path / "said").read_text().splitlines()
    ignored = int(first.split()[1], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1)
    assert not ignored & (1 << signal.SIGXFSZ - 1)
    inherited = subprocess.run(["sh", "-c", script], close_fds=False)
    assert inherited.returncode == 0
    assert descriptors == (tmp_path / "said").read_text().splitlines()[1:]


@contextmanager
def deaf_command() -> Iterator[Command]:
    """A command that ignores SIGTERM."""
    with Command(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]) as command:
        command.release()
        end = time.monotonic() + PATIENCE_S
        while (read_stat(command.pid) or read_stat(os.getpid())).comm != "sh":  # type: ignore[union-attr]
            assert time.monotonic() < end
        while not int(ignored_of(command.pid), 16) & 1 << signal.SIGTERM - 1:
            assert time.monotonic() < end
        yield command


def test_end_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotpage.recording.command._PATIENCE_S", 0.5)
    with deaf_command() as command:
        assert command.end() == 137
    assert command.end() == 137


def test_an_interrupted_end_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with deaf_command() as command:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(time, "sleep", interrupt)
            command.end()
        assert ended(command) == 137


def ignored_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("SigIgn"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hint,fault", (("hint", "fault"), {})),
        ("fault", (("fault",), {})),
        (
            "hint=kprobe, fault=software event",
            (("hint", "fault"), {"hint": "kprobe", "fault": "software event"}),
        ),
        ("fault,fault,", (("fault",), {})),
    ],
)
def test_sources(text: str, expected: tuple[tuple[str, ...], dict[str, str]]) -> None:
    assert parse_sources(text) == expected


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_no_source(text: str) -> None:
    with pytest.raises(UsageError, match="choose from hint, fault"):
        parse_sources(text)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_a_selection_of_processes_holds_their_descendants(sleeper: subprocess.Popen[bytes]) -> None:
    selection = Selection.of_pids([os.getpid()])
    assert {os.getpid(), sleeper.pid} <= selection.members()
    target = selection.kernel_target()
    assert (target.kind, {os.getpid(), sleeper.pid} <= target.pids) == (TargetKind.PIDS, True)
    assert str(Selection.of_pids([sleeper.pid])) == f"process {sleeper.pid} (sleep)"
    assert str(Selection.of_pids([sleeper.pid, os.getpid()])).startswith("processes ")


def test_processes_that_cannot_be_selected(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    with pytest.raises(TargetError, match=f"there is no process {sleeper.pid}: see ps -e"):
        Selection.of_pids([sleeper.pid])
    kernel_threads = [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdecimal() and (stat := read_stat(int(path.name))) and stat.is_kernel_thread
    ]
    for pid in kernel_threads[:1]:  # a container shows none
        with pytest.raises(TargetError, match="is a kernel thread"):
            Selection.of_pids([pid])


def test_a_thread_is_not_a_process() -> None:
    stop, tids = threading.Event(), []

    def body() -> None:
        tids.append(threading.get_native_id())
        stop.wait()

    thread = threading.Thread(target=body)
    thread.start()
    try:
        while not tids:
            time.sleep(0.01)
        with pytest.raises(TargetError) as error:
            Selection.of_pids(tids)
        assert str(error.value) == f"{tids[0]} is a thread of process {os.getpid()}: give -p {os.getpid()}"
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("name", ["", "sixteen-bytes-is", "é" * 8])
def test_names_that_no_process_has(name: str) -> None:
    with pytest.raises(UsageError, match="is no command name"):
        Selection.of_comm(name)


def test_cgroups_that_do_not_exist() -> None:
    with pytest.raises(TargetError):
        Selection.of_cgroup("/no/such/cgroup")


def test_who_is_not_root_gets_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["/opt/a b/hotpage", "record", "--", "sh", "-c", "echo $HOME"])
    with pytest.raises(PrivilegeError) as error:
        require_root("recording")
    assert str(error.value) == ("recording needs root: sudo '/opt/a b/hotpage' record -- sh -c 'echo $HOME'")
    monkeypatch.setattr(sys, "argv", ["/opt/hotpage/__main__.py", "record", "-a"])
    with pytest.raises(
        PrivilegeError, match=re.escape(f"sudo {shlex.quote(sys.executable)} -P -m hotpage record -a")
    ):
        require_root("recording")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    require_root("recording")
