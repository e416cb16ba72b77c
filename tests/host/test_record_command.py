# SPDX-License-Identifier: Apache-2.0
"""``hotpage record`` as people run it: whom it records, how it ends, what it says."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recordings import HOTPAGE, RECORD, Recording
from toucher import DEADLINE_S, TOUCHED, Toucher, wait_for
from wrongusage import check_wrong_usage

from hotpage.machine.cgroups import cgroup_mount
from hotpage.machine.proc import read_stat
from hotpage.profile.snapshot import Snapshot

pytestmark = [pytest.mark.needs("bcc"), pytest.mark.usefixtures("nothing_stays_loaded")]

NO_RATES = "no access rates can arrive: kernel.numa_balancing is off, so no page is armed; record with --arm"


def complaint(*arguments: str, status: int = 1, before: tuple[str, ...] = ()) -> str:
    """The one line that a command line ends with."""
    run = subprocess.run([*before, *RECORD, *arguments], capture_output=True, text=True, timeout=DEADLINE_S)
    assert run.returncode == status, run.stderr
    assert run.stdout == ""
    lines = run.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("hotpage: "), run.stderr
    return lines[0].removeprefix("hotpage: ")


def touched_pages(snapshot: Snapshot, pid: int, start: int, pages: int = TOUCHED) -> int:
    process = next(index for index, record in snapshot.processes.items() if record.process.pid == pid)
    return len(snapshot.pages.of(process).between(start >> 12, (start >> 12) + pages))


def touch(toucher: Toucher, name: str = "r") -> int:
    start = toucher.region(name)
    toucher.run(f"write({name!r})")
    return start


def test_a_process_until_interrupted(record: Callable[..., Recording], toucher: Toucher) -> None:
    recording = record("-p", str(toucher.pid)).await_start()
    start = touch(toucher)
    assert recording.stop() == 0
    snapshot = recording.snapshot()
    assert snapshot.end is not None and snapshot.end.status == "interrupted"
    assert {record.process.pid for record in snapshot.processes.values()} == {toucher.pid}
    assert touched_pages(snapshot, toucher.pid, start) == TOUCHED
    assert any(vma.vma.kind == "stack" for vma in next(iter(snapshot.vmas.values())))
    faults = next(counts for counts in snapshot.usage.sources if counts.source == "fault")
    assert faults.received >= TOUCHED and faults.lost == 0
    assert snapshot.usage.end_s == pytest.approx(snapshot.end.end_s)


def test_that_no_rates_can_arrive_is_said_first(record: Callable[..., Recording], toucher: Toucher) -> None:
    recording = record("-p", str(toucher.pid)).await_start()
    touch(toucher)
    assert recording.said.startswith(f"hotpage: {NO_RATES}")
    assert recording.stop() == 0
    report = subprocess.run(
        [*HOTPAGE, "report", "-i", recording.directory], capture_output=True, text=True, check=False
    )
    assert "No access rates arrived" in report.stdout.splitlines()[0]
    assert "--arm" in "".join(report.stdout.splitlines()[:3])


def test_terminated_it_ends_in_good_order(record: Callable[..., Recording], toucher: Toucher) -> None:
    recording = record("-p", str(toucher.pid)).await_start()
    start = touch(toucher)
    assert recording.stop(signal.SIGTERM) == 0
    snapshot = recording.snapshot()
    assert snapshot.end is not None and snapshot.end.status == "ended by SIGTERM"
    assert touched_pages(snapshot, toucher.pid, start) == TOUCHED


def test_for_so_long(record: Callable[..., Recording], toucher: Toucher) -> None:
    recording = record("-p", str(toucher.pid), "-d", "1.2")
    assert recording.finish() == 0
    snapshot = recording.snapshot()
    assert snapshot.end is not None and snapshot.end.status == "complete"
    assert snapshot.end.end_s >= 1.2
    assert re.search(r"^hotpage: [\d.]+ s measured, .* 0 lost$", recording.said, re.M)
    assert f"see it with: hotpage report -i {recording.directory}" in recording.said


def test_processes_of_a_name_also_later_ones(record: Callable[..., Recording], toucher: Toucher) -> None:
    name = f"name {os.getpid()}"
    toucher.run(f"rename({name!r})")
    recording = record("--comm", name).await_start()
    with Toucher() as late, Toucher() as other:
        late.run(f"rename({name!r})")
        starts = {t.pid: touch(t) for t in (toucher, late, other)}
        recording.await_interval()
        assert recording.stop() == 0
        snapshot = recording.snapshot()
        assert {r.process.pid for r in snapshot.processes.values()} == {toucher.pid, late.pid}
        for pid in (toucher.pid, late.pid):
            assert touched_pages(snapshot, pid, starts[pid]) == TOUCHED


def test_a_cgroup(record: Callable[..., Recording], toucher: Toucher) -> None:
    cgroup = cgroup_mount() / f"hotpage-test-record-{os.getpid()}"
    cgroup.mkdir()
    try:
        (cgroup / "cgroup.procs").write_text(str(toucher.pid))
        recording = record("--cgroup", f"/{cgroup.name}").await_start()
        with Toucher() as other:
            start = touch(toucher)
            touch(other)
            assert recording.stop() == 0
        snapshot = recording.snapshot()
        assert {r.process.pid for r in snapshot.processes.values()} == {toucher.pid}
        assert touched_pages(snapshot, toucher.pid, start) == TOUCHED
    finally:
        toucher.end()
        wait_for(lambda: not (cgroup / "cgroup.procs").read_text(), "the cgroup is empty")
        cgroup.rmdir()


def test_everything(record: Callable[..., Recording], toucher: Toucher) -> None:
    recording = record("-a").await_start()
    start = touch(toucher)
    assert recording.stop() == 0
    snapshot = recording.snapshot()
    assert touched_pages(snapshot, toucher.pid, start) == TOUCHED
    assert recording.process.pid not in {r.process.pid for r in snapshot.processes.values()}


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_a_command_passes_its_status_on(record: Callable[..., Recording], script: str, status: int) -> None:
    recording = record("--", "sh", "-c", script)
    assert recording.finish() == status
    end = recording.snapshot().end
    assert end is not None and (end.status, end.command_exit_status) == ("complete", status)


def test_a_command_is_recorded_from_its_first_page_on(record: Callable[..., Recording]) -> None:
    code = "import mmap; m = mmap.mmap(-1, 400 << 12, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n" \
        "m.madvise(mmap.MADV_NOHUGEPAGE); m[::4096] = b'1' * 400\n" \
        "import ctypes; print(ctypes.addressof(ctypes.c_char.from_buffer(m)))"  # fmt: skip
    recording = record(sys.executable, "-c", code)
    assert recording.process.stdout is not None
    start = int(recording.process.stdout.readline())
    assert recording.finish() == 0
    snapshot = recording.snapshot()
    (mine,) = snapshot.processes.values()
    assert mine.process.cmdline.startswith(f"{sys.executable} -c import mmap")
    assert mine.previous_index is None
    assert touched_pages(snapshot, mine.process.pid, start, 400) == 400
    # Everything that it did was counted: an interpreter starts with thousands of faults.
    assert len(snapshot.pages) > 1000


def test_children_of_a_command_and_what_they_become(record: Callable[..., Recording]) -> None:
    recording = record("--", "sh", "-c", "sleep 1000 & sleep 1000; wait").await_start()

    def sleeping() -> list[int]:
        records = recording.snapshot().processes.values()
        return [one.process.pid for one in records if one.process.comm == "sleep"]

    wait_for(lambda: len(sleeping()) == 2, "both are seen", 0.2)
    for pid in sleeping():
        os.kill(pid, signal.SIGTERM)
    assert recording.finish() == 0
    assert len(sleeping()) == 2


def test_a_command_that_outlasts_the_session_is_ended(record: Callable[..., Recording]) -> None:
    recording = record("-d", "0.7", "--", "sleep", "1000")
    assert recording.finish() == 0  # it was to end then
    assert [r.process.comm for r in recording.snapshot().processes.values()] == ["sleep"]


def test_an_interrupted_command_line_ends_its_command(record: Callable[..., Recording]) -> None:
    recording = record("--", "sleep", "1000").await_start()
    recording.await_interval()
    assert recording.stop() == 143
    (mine,) = recording.snapshot().processes.values()
    assert (stat := read_stat(mine.process.pid)) is None or stat.has_ended


def test_a_missing_command(tmp_path: Path) -> None:
    line = complaint("-o", str(tmp_path / "p"), "--", "no-such-command", "-x", status=127)
    assert line == "cannot run no-such-command (No such file or directory)"
    assert not (tmp_path / "p").exists()


def test_a_command_that_may_not_run(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("echo")
    run = subprocess.run(
        [*RECORD, "-o", tmp_path / "p", "--", tmp_path / "script"], capture_output=True, text=True
    )
    assert run.returncode == 126
    assert run.stderr.splitlines()[-1] == f"hotpage: cannot run {tmp_path / 'script'} (Permission denied)"


def test_the_target_exits(record: Callable[..., Recording], toucher: Toucher) -> None:
    recording = record("-p", str(toucher.pid)).await_start()
    start = touch(toucher)
    recording.await_interval()
    toucher.end()
    assert recording.finish() == 0
    snapshot = recording.snapshot()
    assert snapshot.end is not None and snapshot.end.status == "target exited"
    assert touched_pages(snapshot, toucher.pid, start) == TOUCHED
    assert all(r.exited_s is not None for r in snapshot.processes.values())


def test_who_forks_and_runs_others_all_the_time(record: Callable[..., Recording]) -> None:
    """Hundreds of short processes a second, most of them gone before anybody looks."""
    recording = record("-a").await_start()
    with subprocess.Popen(["sh", "-c", "while :; do /bin/true; (:); done"], start_new_session=True) as busy:
        try:
            recording.await_interval(2)
            early_bytes = memory_bytes(recording.process.pid)
            recording.await_interval(12)
            late_bytes = memory_bytes(recording.process.pid)
        finally:
            os.killpg(busy.pid, signal.SIGKILL)
    assert recording.stop() == 0
    snapshot = recording.snapshot()
    assert "Traceback" not in recording.said
    faults = next(counts for counts in snapshot.usage.sources if counts.source == "fault")
    assert faults.received + faults.skipped > 10_000
    assert late_bytes < early_bytes + (32 << 20)


def memory_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_two_sessions_at_once(record: Callable[..., Recording], toucher: Toucher) -> None:
    both = [record("-p", str(toucher.pid)), record("-a")]
    for recording in both:
        recording.await_start()
    start = touch(toucher)
    for recording in both:
        recording.await_interval()
        assert recording.stop() == 0
        assert touched_pages(recording.snapshot(), toucher.pid, start) == TOUCHED


def test_a_second_interrupt_does_not_wait(record: Callable[..., Recording]) -> None:
    recording = record("--", "sh", "-c", "trap '' TERM INT; while :; do sleep 0.1; done").await_start()
    recording.await_interval()
    recording.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    recording.process.send_signal(signal.SIGINT)
    assert recording.finish() in (130, 137)
    assert "Traceback" not in recording.said


WRONG = [
    ((), "nothing to profile: give one of -p PID"),
    (("-a", "-p", "1"), "several targets are given"),
    (("-a", "--", "true"), "several targets are given"),
    (("-p", "one"), "'one' is not a list of process ids"),
    (("-p", ""), "'' is not a list of process ids"),
    (("-p", "1,,2"), "is not a list of process ids"),
    (("-a", "-d", "0"), "a session cannot last 0.0 s"),
    (("-a", "-d", "-3"), "a session cannot last -3.0 s"),
    (("-a", "-d", "nan"), "a session cannot last nan s"),
    (("-a", "-d", "long"), "invalid value for '-d' / '--duration'"),
    (("-a", "--budget", "0"), "a budget of 0.0 % makes no sense"),
    (("-a", "--budget", "101"), "a budget of 101.0 % makes no sense"),
    (("-a", "--budget", "nan"), "a budget of nan % makes no sense"),
    (("-a", "--interval", "0.01"), "intervals of 0.01 s make no sense"),
    (("-a", "--interval", "nan"), "intervals of nan s make no sense"),
    (("-a", "--source", "heat"), "unknown source 'heat': choose from fault, hint"),
    (("-a", "--source", ","), "no source is named"),
    (("-a", "--source", "fault=magic"), "source 'fault' has no rung 'magic': choose from tracepoint"),
    (("-a", "--source", "hint=tracepoint,fault=software event"), "see the same faults"),
    (("--comm", "a-name-of-more-than-15-bytes"), "is no command name"),
    (("--comm", ""), "'' is no command name"),
    (("--no-such-option",), "no such option: --no-such-option"),
]


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    verb = ("record", "-o", str(tmp_path / "p"))
    check_wrong_usage(verb, [(options, words, 2) for options, words in WRONG])
    assert not (tmp_path / "p").exists()


def test_processes_that_are_not_there(toucher: Toucher, tmp_path: Path) -> None:
    toucher.end()
    assert complaint("-p", str(toucher.pid)) == f"there is no process {toucher.pid}: see ps -e"
    assert complaint("-p", f"1,{toucher.pid}") == f"there is no process {toucher.pid}: see ps -e"
    assert "is a kernel thread" in complaint("-p", "2")
    assert complaint("--cgroup", "/no/such").startswith("no cgroup v2 /no/such: look below ")


def test_an_output_directory_in_use(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = complaint("-a", "-d", "1", "-o", str(tmp_path))
    assert line == f"{tmp_path} exists and is not empty: remove it, or choose another directory with -o"
    line = complaint("-a", "-d", "1", "-o", str(tmp_path / "file"))
    assert line.startswith(f"cannot make the profile directory {tmp_path / 'file'}: ")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_an_output_directory_that_cannot_be_written(tmpfs: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    line = complaint("-a", "-d", "1", "-o", str(tmpfs / "p"))
    assert line == (
        f"cannot make the profile directory {tmpfs / 'p'}: Read-only file system: choose another with -o"
    )


def test_a_full_disk(tmpfs: Path, record: Callable[..., Recording], toucher: Toucher) -> None:
    recording = record("-o", str(tmpfs / "p"), "-p", str(toucher.pid), "--arm")
    recording.directory = tmpfs / "p"
    recording.await_start()
    start = touch(toucher)
    recording.await_now()
    with (tmpfs / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(4096))
    assert recording.finish() == 1
    last = recording.said.splitlines()[-1]
    assert last.startswith(f"hotpage: cannot write to {tmpfs / 'p'}: No space left on device; the first ")
    assert touched_pages(recording.snapshot(), toucher.pid, start) == TOUCHED
    assert Path("/proc/sys/kernel/numa_balancing").read_text() == "0\n"


def test_who_is_not_root_gets_the_line_to_type() -> None:
    # Run once as root: what is imported on the way may be closed to others.
    code = (
        "import contextlib, io, os, sys; import hotpage.cli\n"
        "with contextlib.redirect_stderr(io.StringIO()): hotpage.cli.main(['record'])\n"
        "os.setgid(65534); os.setuid(65534); sys.argv[0] = '/opt/hotpage'\n"
        "sys.exit(hotpage.cli.main())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "record", "--", "sh", "-c", "exit 3"], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr == "hotpage: recording needs root: sudo /opt/hotpage record -- sh -c 'exit 3'\n"


def test_without_bcc(tmp_path: Path) -> None:
    """The distribution's package hidden behind an empty directory, in a mount namespace of its own."""
    found = subprocess.run(
        ["/usr/bin/python3", "-c", "import bcc; print(bcc.__path__[0])"], capture_output=True, text=True
    )
    (tmp_path / "empty").mkdir()
    hide = f'mount --bind {tmp_path / "empty"} {found.stdout.strip()} && exec "$@"'
    line = complaint("-a", "-d", "1", before=("unshare", "-m", "sh", "-c", hide, "sh"))
    assert line.startswith("bcc is not installed (")
    assert line.endswith(": sudo apt-get install python3-bpfcc")
