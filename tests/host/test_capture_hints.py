# SPDX-License-Identifier: Apache-2.0
"""NUMA hint faults on this kernel, held against the kernel's own count of them."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toucher import (
    DEADLINE_S,
    Toucher,
    joined,
    minor_faults,
    stop,
    vmstat,
    wait_for,
    within,
)

from hotpage.capture.capture import Capture
from hotpage.capture.events import EventFlag, Events, EventSource
from hotpage.capture.target import Target
from hotpage.exerciser import Exerciser
from hotpage.machine.folios import HUGE_PAGES, huge_blocks
from hotpage.machine.hold import MmHolder
from hotpage.machine.knobs import NUMA_BALANCING, KnobSession
from hotpage.machine.processes import ProcessTable
from hotpage.recording.scans import ScanClock

pytestmark = [pytest.mark.needs("bcc"), pytest.mark.usefixtures("nothing_stays_loaded")]

MIB = 24
HINT, FAULT = EventSource.HINT_FAULT, EventSource.PAGE_FAULT


@pytest.fixture
def balancing(tmp_path: Path) -> Iterator[KnobSession]:
    with KnobSession(tmp_path) as session:
        assert session.write(NUMA_BALANCING, 1)
        yield session


@pytest.fixture(params=[2, 1], ids=["two threads", "one thread, held"])
def exerciser(request: pytest.FixtureRequest) -> Iterator[Exerciser]:
    with Exerciser.start(mib=MIB, threads=request.param) as exerciser:
        if request.param > 1:
            yield exerciser
            return
        with MmHolder() as holder:
            process = ProcessTable().add(exerciser.pid)
            assert process is not None and holder.hold(process)
            wait_for(lambda: holder.poll() is not None and exerciser.pid in holder.held, "it is held")
            yield exerciser


def read_passes(capture: Capture, exerciser: Exerciser, passes: int) -> Events:
    """Everything captured until hint faults have come for so many times the exerciser's pages."""
    parts: list[Events] = []
    seen, end = 0, time.monotonic() + DEADLINE_S
    while seen < passes * exerciser.pages:
        assert time.monotonic() < end, f"{seen} hint faults of {exerciser.pages} pages"
        time.sleep(0.1)
        parts.append(capture.read())
        mine = within(parts[-1], exerciser.base, exerciser.pages)
        seen += int((mine["source"] == HINT).sum())
    return joined(parts)


@pytest.mark.parametrize("rung", ["tracepoint", "software event"])
def test_every_hint_fault_is_seen_and_is_one(exerciser: Exerciser, tmp_path: Path, rung: str) -> None:
    rungs = {"hint": rung, "fault": rung}
    with Capture(forced_rungs=rungs) as capture, KnobSession(tmp_path) as session:
        stop(exerciser.pid)
        capture.set_target(Target.processes([exerciser.pid]))
        capture.read()
        minor_begun, counted_begun = minor_faults(exerciser.pid), vmstat("numa_hint_faults")
        os.kill(exerciser.pid, signal.SIGCONT)
        assert session.write(NUMA_BALANCING, 1)
        events = read_passes(capture, exerciser, 2)
        assert session.write(NUMA_BALANCING, 0)
        stop(exerciser.pid)
        minor = minor_faults(exerciser.pid) - minor_begun
        counted = vmstat("numa_hint_faults") - counted_begun
        capture.set_target(Target.nothing())
        events = joined([events, capture.read()])
        counters = capture.counters()
    assert not counters.lost.any()
    seen = int((events["source"] == HINT).sum())
    faults = seen + int((events["source"] == FAULT).sum())
    print(f"{seen} hint faults of {faults} seen; the kernel: {minor} minor faults, {counted} hint faults")
    alone = len(list(Path(f"/proc/{exerciser.pid}/task").iterdir())) == 1
    if alone:
        assert faults == minor
    else:
        # Where two threads fault on one page at once, the later one may find the fault handled already: no
        # event, a minor fault all the same.
        assert minor * 0.95 <= faults <= minor
    # The kernel's count of hint faults is of the machine: all processes, and pages that the kernel itself
    # writes to for them. And of two threads that fault at once it counts the one that repairs the entry.
    assert seen <= counted * 1.05, "each hint fault is one"
    mine = within(events, exerciser.base, exerciser.pages)
    pages = (mine["address"][mine["source"] == HINT] - np.uint64(exerciser.base)) >> np.uint64(12)
    assert len(np.unique(pages)) == exerciser.pages
    others = mine[mine["source"] == FAULT]
    # Its pages were all there before. But without an error code the loser of a race between two threads looks
    # like a copy on write, and like a first touch while the winner has taken the entry out to repair it.
    races = 0 if alone else seen // 20 if rung == "software event" else seen // 1000
    assert len(others) <= races
    if rung == "software event":
        assert ((others["flags"] & EventFlag.PRESENT) == 0).sum() <= seen // 1000
    assert set(mine["tgid"].tolist()) == {exerciser.pid}
    if rung == "tracepoint":
        assert ((mine["flags"] & EventFlag.WRITE) != 0).mean() > 0.4, "it writes"
        assert not (mine["flags"] & EventFlag.PRESENT).any()


def test_scans_cover_what_faults_afterwards(exerciser: Exerciser, balancing: KnobSession) -> None:
    with Capture() as capture:
        capture.set_target(Target.processes([exerciser.pid]))
        events = read_passes(capture, exerciser, 3)
        assert balancing.write(NUMA_BALANCING, 0)
        time.sleep(0.5)
        events = joined([events, capture.read()])
    first_vpn = exerciser.base >> 12
    armed_since = np.full(exerciser.pages, np.inf)
    ranges = ScanClock().take(events, np.zeros(len(events), np.int32))
    assert ranges
    for armed in ranges:
        low, high = np.clip([armed.start_vpn - first_vpn, armed.end_vpn - first_vpn], 0, exerciser.pages)
        armed_since[low:high] = np.minimum(armed_since[low:high], armed.time_ns)
    mine = within(events, exerciser.base, exerciser.pages)
    mine = mine[mine["source"] == HINT]
    page = ((mine["address"] - np.uint64(exerciser.base)) >> np.uint64(12)).astype(np.int64)
    explained = armed_since[page] <= mine["time_ns"].astype(np.float64)
    assert explained.mean() > 0.999, f"{(~explained).sum()} of {len(mine)} faults of pages never armed"
    assert np.isfinite(armed_since).all()
    # Every armed page of a program that accesses all of its pages faults.
    assert len(np.unique(page)) == exerciser.pages


def test_huge_pages_fault_as_one(balancing: KnobSession) -> None:
    with Toucher() as toucher:
        toucher.run("region('huge', 16 * 512, huge=True)")
        toucher.run("regions['huge'].madvise(mmap.MADV_HUGEPAGE)")
        toucher.run("write('huge')")
        start, pages = int(toucher.run("address('huge')")), 16 * 512
        block = np.arange(-(-(start >> 12) // HUGE_PAGES), ((start >> 12) + pages) // HUGE_PAGES)
        # Short of contiguous memory some are not huge, each of which takes 512 faults of 4 KiB.
        were_huge = huge_blocks(toucher.pid, block)
        if not were_huge.any():
            assert "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
            return
        toucher.run(
            "globals().update(busy=[threading.Thread(target=lambda: [write('huge') for _ in iter(int, 1)],"
            " daemon=True) for _ in range(2)])"
        )
        with Capture() as capture:
            capture.set_target(Target.processes([toucher.pid]))
            toucher.run("[thread.start() for thread in busy] and None")
            parts: list[Events] = []

            def hint_faults() -> Events:
                parts.append(capture.read())
                mine = within(joined(parts), start, pages)
                return mine[mine["source"] == HINT]

            def of_blocks(mine: Events, chosen: np.ndarray) -> np.ndarray:
                return np.isin(mine["address"] >> np.uint64(21), block[chosen])

            wait_for(lambda: of_blocks(hint_faults(), were_huge).sum() >= 10, "hint faults of huge pages")
            mine = hint_faults()
            are_huge = huge_blocks(toucher.pid, block)
    huge = (mine["flags"] & EventFlag.HUGE) != 0
    assert huge[of_blocks(mine, were_huge & are_huge)].mean() > 0.9, "a few may have been split meanwhile"
    assert not huge[~of_blocks(mine, were_huge | are_huge)].any()
