# SPDX-License-Identifier: Apache-2.0
"""``hotpage record --arm``: rates arrive, and whatever ends the session, the system is as it was before."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from recordings import HOTPAGE, Recording
from toucher import loaded_programs, wait_for

from hotpage.errors import ProfileError
from hotpage.exerciser import Exerciser
from hotpage.machine.proc import read_stat
from hotpage.machine.processes import children_of
from hotpage.profile.disk.reader import ProfileReader

pytestmark = pytest.mark.needs("bcc")

BALANCING = Path("/proc/sys/kernel/numa_balancing")


def balancing() -> int:
    return int(BALANCING.read_text())


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory of our own: other sessions on this machine have theirs."""
    monkeypatch.setenv("HOTPAGE_STATE_DIR", str(tmp_path / "state"))
    before = loaded_programs()
    yield tmp_path / "state"
    subprocess.run([*HOTPAGE, "restore"], check=True, capture_output=True)
    assert balancing() == 0
    wait_for(lambda: not loaded_programs() - before, "all programs are gone")


@pytest.fixture
def exerciser() -> Iterator[Exerciser]:
    with Exerciser.start(mib=16, threads=2) as exerciser:
        yield exerciser


@pytest.mark.parametrize("threads", [1, 2])
def test_rates_of_every_page_arrive(record: Callable[..., Recording], threads: int) -> None:
    # A workload that takes its time: at full speed all pages fault at once, and one look cannot rank them.
    with Exerciser.start(mib=16, threads=threads, work=1000) as exerciser:
        recording = record("-p", str(exerciser.pid), "--arm").await_start()
        assert "no access rates" not in recording.said

        def known() -> bool:
            pages = recording.snapshot().pages
            inside = (pages.vpn >= exerciser.base >> 12) & (
                pages.vpn < (exerciser.base >> 12) + exerciser.pages
            )
            return np.isfinite(pages.rate_hz[inside]).sum() == exerciser.pages

        wait_for(known, "a rate of every page")
        assert recording.stop() == 0
    assert balancing() == 0
    snapshot = recording.snapshot()
    assert snapshot.run.armed and snapshot.run.sees_rates
    (armed,) = [ranges for ranges in snapshot.armed.values() if len(ranges.start_vpn)]
    assert (np.diff(armed.start_vpn) > 0).all()
    hot = np.isin(snapshot.pages.vpn, exerciser.hot_vpns)
    cold = ~hot & (snapshot.pages.vpn >= exerciser.base >> 12)
    cold &= snapshot.pages.vpn < (exerciser.base >> 12) + exerciser.pages
    # Of 81 times as many accesses one look shows most.
    assert np.median(snapshot.pages.rate_hz[hot]) > 4 * np.median(snapshot.pages.rate_hz[cold])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_at_once(
    record: Callable[..., Recording], exerciser: Exerciser, number: signal.Signals
) -> None:
    # Where these tests run under nohup a hang-up is ignored, by children too, and record keeps to that.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        recording = record("-p", str(exerciser.pid), "--arm").await_start()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert recording.stop(number) == 0
    assert balancing() == 0
    assert recording.snapshot().end is not None


# From the first import to long after the first interval.
MOMENTS_S = [0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.4, 1.8, 2.5]


@pytest.mark.parametrize("moment_s", MOMENTS_S)
def test_killed_at_any_moment(
    record: Callable[..., Recording], exerciser: Exerciser, moment_s: float, state: Path
) -> None:
    recording = record("-p", str(exerciser.pid), "--arm")
    time.sleep(moment_s)
    helpers = children_of(recording.process.pid)
    recording.process.kill()
    recording.finish()
    wait_for(lambda: not any(is_alive(pid) for pid in helpers), "the helpers are gone")
    restored = subprocess.run([*HOTPAGE, "restore"], capture_output=True, text=True, check=True)
    assert balancing() == 0
    assert "restored" in restored.stdout or "already" in restored.stdout or "Nothing" in restored.stdout
    assert not (state / "knobs.json").exists()
    if recording.directory.exists():
        check_left_readable(recording.directory)


def check_left_readable(directory: Path) -> None:
    """Whole intervals are read; of the one being written, what the parts on the disk hold."""
    written = {part.parent.name for part in directory.glob("*/part-*.parquet")}
    try:
        snapshot = ProfileReader(directory).snapshot()
    except ProfileError as error:
        assert "empty profile" in str(error)
        assert not written & {"intervals", "pages"}
    else:
        assert snapshot.end is None
        assert snapshot.usage.intervals or len(snapshot.pages)
        assert snapshot.usage.intervals or "intervals" not in written


def is_alive(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and not stat.has_ended


def test_the_next_session_restores_after_a_kill(
    record: Callable[..., Recording], exerciser: Exerciser
) -> None:
    killed = record("-p", str(exerciser.pid), "--arm").await_start()
    killed.process.kill()
    killed.finish()
    BALANCING.write_text("1\n")  # as the killed one may have left it
    after = record("-p", str(exerciser.pid), "-d", "0.3")
    assert after.finish() == 0
    assert balancing() == 0
    assert f"hotpage: {BALANCING}: restored to 0 (was 1)" in after.said


@pytest.mark.parametrize("moment_s", [0.2, 0.6, 1.0, 1.6])
def test_a_command_is_not_left_suspended(record: Callable[..., Recording], moment_s: float) -> None:
    recording = record("--arm", "--", "sleep", "3.14159")
    time.sleep(moment_s)
    recording.process.kill()
    recording.finish()

    def waiting() -> list[int]:
        """Forks of hotpage that have not become the command."""
        name = str(recording.directory).encode()
        return [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if name in _bytes(path) and is_alive(int(path.parent.name))
        ]

    wait_for(lambda: not waiting(), "the command runs on, or has never begun")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("first_out", [0, 1])
def test_the_last_one_out_restores(
    record: Callable[..., Recording], exerciser: Exerciser, first_out: int
) -> None:
    sessions = [record("-p", str(exerciser.pid), "--arm").await_start() for _ in range(2)]
    stays = sessions[1 - first_out]
    assert sessions[first_out].stop() == 0

    def passes() -> int:
        return sum(int(ranges.passes.sum()) for ranges in stays.snapshot().armed.values())

    before = passes()
    wait_for(lambda: passes() > before, "the one that stays has pages armed")
    stays.await_now()
    assert stays.stop() == 0
    assert balancing() == 0


def test_settings_that_others_made_are_left_alone(
    record: Callable[..., Recording], exerciser: Exerciser
) -> None:
    BALANCING.write_text("1\n")
    try:
        recording = record("-p", str(exerciser.pid), "--arm").await_start()
        assert recording.stop() == 0
        assert balancing() == 1
    finally:
        BALANCING.write_text("0\n")


def test_the_helper_is_not_part_of_the_picture(record: Callable[..., Recording]) -> None:
    recording = record("-a", "--arm").await_start()
    helper = [pid for pid in children_of(recording.process.pid) if is_alive(pid)]
    recording.await_interval(3)
    assert recording.stop() == 0
    recorded = {r.process.pid for r in recording.snapshot().processes.values()}
    assert helper and not recorded & {*helper, recording.process.pid}


def test_arming_without_the_source_that_shows_it(record: Callable[..., Recording]) -> None:
    recording = record("-a", "--arm", "--source", "fault")
    assert recording.finish() == 1
    assert (
        recording.said
        == "hotpage: --arm needs the source 'hint', which is not there (left out with --source)\n"
    )
    assert not recording.directory.exists()
