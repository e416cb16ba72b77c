# SPDX-License-Identifier: Apache-2.0
"""The program of memory samples on this kernel, without a PMU: hardware breakpoints and page faults drive it.

A breakpoint samples every access to 8 bytes, so that counts are exact: what goes in comes out, or is counted.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from recordings import HOTPAGE
from toucher import DEADLINE_S, TOUCHED, Toucher, read_until, wait_for

from hotpage.capture import bpf, perf
from hotpage.capture.capture import Capture
from hotpage.capture.events import Events, EventSource
from hotpage.capture.perf import PerfEvent
from hotpage.capture.target import Target
from hotpage.capture.watch import Watch
from hotpage.profile.disk.reader import ProfileReader

pytestmark = [pytest.mark.needs("bcc"), pytest.mark.usefixtures("nothing_stays_loaded")]

WATCHED = 8  # the byte of a region that breakpoints watch; no command of the toucher's own touches it
PMUS = Path("/sys/bus/event_source/devices")


@contextmanager
def sampling(target: Target, rung: str, *sources: str) -> Iterator[Capture]:
    with Capture(("sample", *sources), forced_rungs={"sample": rung}) as capture:
        assert capture.rungs["sample"].name == rung.partition(":")[0]
        capture.set_target(target)
        capture.read()
        yield capture


def breakpoint_rung(*addresses: int) -> str:
    return ":".join(("breakpoint", *map(hex, addresses)))


def samples(events: Events) -> Events:
    return events[events["source"] == EventSource.MEMORY_SAMPLE]


def write(region: str, times: int = TOUCHED) -> str:
    return f"[regions[{region!r}].__setitem__({WATCHED}, 1) for _ in range({times})] and None"


def read(region: str, times: int = TOUCHED) -> str:
    return f"sum(regions[{region!r}][{WATCHED}] for _ in range({times}))"


@pytest.mark.needs("breakpoints")
@pytest.mark.parametrize("access", [write, read])
def test_every_access_is_one_sample(toucher: Toucher, access: Callable[[str], str]) -> None:
    address = toucher.region("r") + WATCHED
    toucher.run("write('r')")
    with sampling(Target.processes([toucher.pid]), breakpoint_rung(address)) as capture:
        before = capture.counters()
        toucher.run(access("r"))
        events = capture.read()
        toucher.run("write('r')")  # other bytes of the page
        assert len(capture.read()) == 0
        after = capture.counters()
    assert events["address"].tolist() == [address] * TOUCHED
    assert set(events["source"].tolist()) == {EventSource.MEMORY_SAMPLE}
    assert set(events["tgid"].tolist()) == set(events["tid"].tolist()) == {toucher.pid}
    assert set(events["period"].tolist()) == {1}
    assert set(events["flags"].tolist()) == {0}, (
        "a breakpoint tells no data source, so nothing is made of one"
    )
    assert (np.diff(events["time_ns"].astype(np.int64)) > 0).all()
    source = EventSource.MEMORY_SAMPLE
    assert int(after.emitted[source] - before.emitted[source]) == TOUCHED
    assert int(after.lost[source]) == after.without_address == after.cache_hits == 0


@pytest.mark.needs("breakpoints")
def test_of_three_addresses_each_keeps_its_count(toucher: Toucher) -> None:
    names = {"a": 3, "b": 5, "c": 7}
    addresses = {name: toucher.region(name) + WATCHED for name in names}
    with sampling(Target.processes([toucher.pid]), breakpoint_rung(*addresses.values())) as capture:
        for name, times in names.items():
            toucher.run(write(name, times))
        found = capture.read()["address"].tolist()
    assert {name: found.count(address) for name, address in addresses.items()} == names


@pytest.mark.needs("breakpoints")
def test_only_the_target_is_sampled(toucher: Toucher) -> None:
    with Toucher() as other:
        mine, others = toucher.region("r") + WATCHED, other.region("r") + WATCHED
        with sampling(Target.processes([toucher.pid]), breakpoint_rung(mine, others)) as capture:
            toucher.run(write("r", 5))
            other.run(write("r", 11))
            assert capture.read()["address"].tolist() == [mine] * 5
            capture.set_target(Target.everything())
            other.run(write("r", 11))
            events = capture.read()
            assert events["address"].tolist() == [others] * 11
            assert set(events["tgid"].tolist()) == {other.pid}
            capture.set_target(Target.nothing())
            other.run(write("r", 11))
            assert len(capture.read()) == 0


@pytest.mark.needs("breakpoints")
def test_a_first_touch_is_a_page_fault_and_a_sample(toucher: Toucher) -> None:
    """Three sources, one batch, in order: the fault comes before the access that it was part of."""
    address = toucher.region("r") + WATCHED
    with sampling(Target.processes([toucher.pid]), breakpoint_rung(address), "fault", "hint") as capture:
        toucher.run(write("r"))
        events = capture.read()
    mine = events[events["address"] >> np.uint64(12) == address >> 12]
    assert mine["source"].tolist() == [EventSource.PAGE_FAULT] + [EventSource.MEMORY_SAMPLE] * TOUCHED


@pytest.mark.needs("breakpoints")
def test_loss_is_counted_to_the_sample(toucher: Toucher) -> None:
    address, accesses = toucher.region("r") + WATCHED, 40_000
    with sampling(Target.processes([toucher.pid]), breakpoint_rung(address)) as capture:
        before = capture.counters()
        toucher.run(write("r", accesses))  # more than the rings of all CPUs of a small machine hold
        received = 0
        while batch := len(capture.read()):
            received += batch
        after = capture.counters()
    source = EventSource.MEMORY_SAMPLE
    emitted, lost = (
        int(getattr(after, name)[source] - getattr(before, name)[source]) for name in ("emitted", "lost")
    )
    assert emitted == accesses
    assert received + lost == accesses
    if (os.cpu_count() or 1) <= 4:
        assert lost > 0


def test_page_faults_can_drive_it_too(toucher: Toucher) -> None:
    start = toucher.region("r")
    with sampling(Target.processes([toucher.pid]), "software event") as capture:
        toucher.run("write('r')")
        events = samples(capture.read())
    mine = events[(events["address"] >= start) & (events["address"] < start + TOUCHED * 4096)]
    assert (mine["address"] - np.uint64(start)).tolist() == [page * 4096 + 5 for page in range(TOUCHED)]
    assert set(mine["period"].tolist()) == {1}


def test_a_sample_without_an_address_is_dropped_and_counted_apart_from_loss(toucher: Toucher) -> None:
    """The CPU clock interrupts the program wherever it is: it is sampled, and no address is known."""
    clock = PerfEvent(perf.PERF_TYPE_SOFTWARE, 0, period=100_000)
    with sampling(Target.processes([toucher.pid]), "software event") as capture:
        program = capture.program(capture.rungs["sample"].attachments[0])
        opened = perf.attach(clock, -1, program, pid=toucher.pid)
        try:
            end = time.monotonic() + DEADLINE_S
            while capture.counters().without_address < TOUCHED:
                assert time.monotonic() < end, "the clock does not tick"
                toucher.run("sum(range(100000))")
        finally:
            for fd in opened:
                os.close(fd)
        counters = capture.counters()
        received = samples(capture.read())
    assert (received["address"] != 0).all()
    assert int(counters.lost.sum()) == 0


def test_a_throttled_event_tells_for_how_long(toucher: Toucher) -> None:
    """A clock that ticks far oftener than the kernel allows, once that allows little."""
    limit = Path("/proc/sys/kernel/perf_event_max_sample_rate")
    allowed = limit.read_text()
    limit.write_text("1000")
    try:
        program = bpf.load_perf_trial()
        begun_ns = time.monotonic_ns()
        (clock,) = perf.attach(PerfEvent(perf.PERF_TYPE_SOFTWARE, 0, period=10_000), -1, program, toucher.pid)
        watch = Watch(clock)
        end = time.monotonic() + DEADLINE_S
        while not watch.unwatched_ns():
            assert time.monotonic() < end, "nothing was throttled"
            toucher.run("sum(range(1000000))")
        assert watch.unwatched_ns() <= time.monotonic_ns() - begun_ns
        watch.close()
        os.close(clock)
        os.close(program)
    finally:
        limit.write_text(allowed)


def record(directory: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*HOTPAGE, "record", "-o", str(directory), "--interval", "0.5", *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.needs("breakpoints")
def test_through_record_into_a_profile_and_back(toucher: Toucher, tmp_path: Path) -> None:
    address = toucher.region("r") + WATCHED
    toucher.run("write('r')")
    directory = tmp_path / "profile"
    source = f"sample={breakpoint_rung(address)}"
    recording = record(directory, "-p", str(toucher.pid), "--source", source)
    try:
        wait_for(lambda: list((directory / "intervals").glob("part*")), "an interval")
        for _ in range(3):
            toucher.run(write("r"))
            time.sleep(0.3)
    finally:
        recording.terminate()
        _, said = recording.communicate(timeout=DEADLINE_S)
    assert f"{3 * TOUCHED} sample events received, 0 lost" in said
    reader = ProfileReader(directory)
    snapshot = reader.snapshot()
    assert not reader.problems
    assert snapshot.run.rungs == {"sample": "breakpoint"} and snapshot.run.sees_rates
    (counts,) = snapshot.usage.sources
    assert (counts.received, counts.lost, counts.stands_for) == (3 * TOUCHED, 0, 3 * TOUCHED)
    pages = snapshot.pages
    assert pages.vpn.tolist() == [address >> 12]
    # All accesses, over the session, somewhat decayed: half-life 20 s.
    assert pages.rate_hz[0] == pytest.approx(3 * TOUCHED / snapshot.time_s, rel=0.5)
    assert pages.relative_error[0] == pytest.approx((3 * TOUCHED) ** -0.5, rel=0.5)
    report = subprocess.run(
        [*HOTPAGE, "report", "-i", str(directory)], capture_output=True, text=True, check=True
    ).stdout
    assert f"sample {3 * TOUCHED} received, 0 lost, each for 1 accesses" in report
    assert "sample by breakpoint" in report
    assert re.search(r"memory +hot 4K, warm 0, cold 0, unknown", report), "the silent rest is not cold"


def has_pmu() -> bool:
    return any(any(PMUS.glob(name)) for name in ("cpu", "cpu_*", "ibs_op", "armv*", "arm_spe*"))


def test_doctor_says_what_is_missing() -> None:
    said = subprocess.run([*HOTPAGE, "doctor", "--json"], capture_output=True, text=True).stdout
    checks = {check["name"]: check for check in json.loads(said)["checks"]}
    source = checks["source sample"]
    assert not source["essential"]
    if has_pmu():
        assert source["state"] == "ok" or source["finding"]
        return
    assert source["state"] == "no"
    assert source["finding"] in ("this virtual machine has no PMU", "this machine has no PMU")
    assert checks["sample/pebs"]["finding"] == checks["sample/ibs"]["finding"] == source["finding"]
    assert "for tests" in checks["sample/software event"]["finding"]


def test_without_a_pmu_recording_samples_ends_with_one_line(tmp_path: Path) -> None:
    if has_pmu():
        chosen = Capture(("sample", "fault"))
        chosen.close()
        assert "sample" in chosen.rungs or "pebs" in chosen.refused["sample"]
        return
    recording = record(tmp_path / "profile", "-p", str(os.getpid()), "-d", "1", "--source", "sample")
    _, said = recording.communicate(timeout=DEADLINE_S)
    assert recording.returncode != 0
    (line,) = said.splitlines()
    assert line.startswith("hotpage: no source of page accesses works here: sample: this ")
    assert line.endswith("machine has no PMU")
    assert not (tmp_path / "profile").exists()


@pytest.mark.needs("breakpoints")
def test_samples_of_children_from_their_first_access_on(toucher: Toucher) -> None:
    """A breakpoint is on an address of every process: the child's copy of the region, too."""
    address = toucher.region("r") + WATCHED
    toucher.run("write('r')")
    child = f"os.fork() or ({write('r', 5)}, os._exit(0))"
    body = f"[{child} for _ in range(3)] and [os.wait() for _ in range(3)] and None"
    with sampling(Target.processes([toucher.pid]), breakpoint_rung(address)) as capture:
        toucher.run(body)
        events = read_until(capture, lambda events: len(events) >= 15)
    assert events["address"].tolist() == [address] * 15
    assert np.unique(events["tgid"], return_counts=True)[1].tolist() == [5, 5, 5]
