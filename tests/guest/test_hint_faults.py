# SPDX-License-Identifier: Apache-2.0
"""Every rung of the hint-fault ladder on every kernel, held against the kernel's own counts."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toucher import joined, stop, vmstat, wait_for, within
from workload import BALANCING, balancing, held, move, nodes_of, present_pages, set_scan_period

from hotpage.capture.capture import Capture
from hotpage.capture.events import EventFlag, Events, EventSource
from hotpage.capture.target import Target
from hotpage.exerciser import Exerciser

HINT, ARM = EventSource.HINT_FAULT, EventSource.ARM
HOOKS = ["fentry", "kprobe"]
"""The rungs that hook the kernel's functions."""
WALKS = ["tracepoint", "software event"]
"""Those that read page tables."""
THP = Path("/sys/kernel/mm/transparent_hugepage")
MIB = 16
_RING_BYTES = 512 << 10
"""13,107 records: more than the tests read, fewer than a test of loss leaves unread."""


@pytest.fixture(scope="module", params=HOOKS + WALKS)
def capture(request: pytest.FixtureRequest) -> Iterator[Capture]:
    """One rung: to open it takes most of the time."""
    with Capture(["hint"], forced_rungs={"hint": request.param}, ring_bytes=_RING_BYTES) as capture:
        assert capture.rungs["hint"].name == request.param
        yield capture


class Window:
    """Everybody's hint faults for a time, for the kernel's counts are of the machine; hotpage's own included.

    Between the kernel's count and the moment that capturing begins or ends there are a few faults of our own;
    so the count is taken on both sides of that moment, and between the two lies what must have been seen.
    """

    def __init__(self, capture: Capture, kernel_count: str = "numa_hint_faults") -> None:
        BALANCING.write_text("0")
        self._capture = capture
        self._kernel_count = kernel_count
        self._parts: list[Events] = []
        self._counters = capture.counters()
        self._missed = capture.missed_runs()["hint"]
        self._switch(Target.nothing())
        self._begun = self._switch(Target.everything())

    def _switch(self, target: Target) -> tuple[int, int]:
        """Capture these from now on; the kernel's count just before that and just after.

        What this touches may be armed, and then faults between the counts: where the same was said before,
        next to nothing does.
        """
        before = vmstat(self._kernel_count)
        self._capture.set_self_test(target != Target.nothing())
        self._capture.set_target(target)
        return before, vmstat(self._kernel_count)

    def read(self) -> Events:
        """Take what has come since."""
        self._parts.append(self._capture.read())
        return self._parts[-1]

    def run(self, workload: Exerciser, passes: float) -> None:
        """Until so many hint faults have come for each of the workload's pages."""
        seen = 0

        def enough() -> bool:
            nonlocal seen
            mine = within(self.read(), workload.base, workload.pages)
            mine = mine[mine["source"] == HINT]
            seen += int(np.where(mine["flags"] & EventFlag.HUGE, 512, np.maximum(mine["pages"], 1)).sum())
            return seen >= passes * workload.pages

        with balancing():
            wait_for(enough, f"{passes} hint faults a page")

    def end(self, workload: Exerciser) -> Events:
        """Halt the workload; all events. From now on there are ``emitted`` and ``lost``, by source,
        and ``counted``, what the kernel counted at most."""
        stop(workload.pid)
        self._switch(Target.everything())
        self._ended = self._switch(Target.nothing())
        try:
            wait_for(self._is_complete, "what a program had begun to write is there")
        except AssertionError as error:
            read = np.bincount(joined(self._parts)["source"], minlength=8)
            counters = self._capture.counters()
            raise AssertionError(
                f"{error}: read {read}, emitted {counters.emitted - self._counters.emitted}, "
                f"lost {counters.lost - self._counters.lost}; ring filled to {self._capture.fullest_ring}"
            ) from None
        counters = self._capture.counters()
        self.counted = self._ended[1] - self._begun[0]
        self.emitted = counters.emitted - self._counters.emitted
        self.lost = counters.lost - self._counters.lost
        return joined(self._parts)

    def _is_complete(self) -> bool:
        self.read()
        counters = self._capture.counters()
        emitted, lost = counters.emitted - self._counters.emitted, counters.lost - self._counters.lost
        return sum(map(len, self._parts)) == int(emitted.sum() - lost.sum())

    def assert_counted(self, seen: int) -> None:
        """Hold ``seen`` against the kernel's count."""
        least, most = self._ended[0] - self._begun[1], self._ended[1] - self._begun[0]
        # Where a program is preempted, the kernel does not run it for others on that CPU, and counts that.
        missed = self._capture.missed_runs()["hint"] - self._missed
        print(f"{seen} {self._kernel_count} seen, {missed} runs missed; the kernel: {least} to {most}")
        assert least - missed <= seen <= most
        assert seen >= least or missed <= 0.1 * least, "too much was missed to tell anything"
        assert most - least <= 20 + 0.02 * least, "too much on the edges to tell anything"


@pytest.mark.needs("bcc", "compiler")
@pytest.mark.guest(topology="cxl")
@pytest.mark.parametrize("huge", [False, True], ids=["base pages", "huge pages"])
def test_as_many_events_as_the_kernel_counts(capture: Capture, huge: bool) -> None:
    set_scan_period(200)
    # Where two threads fault on one page at once, only the function hooks see which one the kernel counts.
    threads = 1 if capture.rungs["hint"].walks_page_tables else 2
    with (
        Exerciser.start(mib=4 * MIB if huge else MIB, threads=threads, huge=huge) as workload,
        held(workload) if threads == 1 else contextlib.nullcontext(),
    ):
        window = Window(capture)
        window.run(workload, 2)
        events = window.end(workload)
    hints = events[events["source"] == HINT]
    assert not window.lost.any()
    assert len(hints) == window.emitted[HINT]
    window.assert_counted(len(hints))
    mine = within(hints, workload.base, workload.pages)
    pages = mine["address"] >> np.uint64(21 if huge else 12)
    # Not all: the scans may come faster than the workload comes round to a cold page.
    assert len(np.unique(pages)) >= 0.95 * (workload.pages // (512 if huge else 1))
    assert (((mine["flags"] & EventFlag.HUGE) != 0) == huge).all()


@contextlib.contextmanager
def only_folios_of_64_kib() -> Iterator[None]:
    """What asks for huge pages gets these meanwhile."""
    settings = {THP / "hugepages-2048kB/enabled": "never", THP / "hugepages-64kB/enabled": "always"}
    before = {file: re.findall(r"\[(\w+)\]", file.read_text())[0] for file in settings}
    try:
        for file, value in settings.items():
            file.write_text(value)
        yield
    finally:
        for file, value in before.items():
            file.write_text(value)


@pytest.mark.needs("bcc", "compiler")
@pytest.mark.guest(topology="cxl", kernels=("6.12", "7.3"))
@pytest.mark.parametrize("capture", HOOKS, indirect=True)
def test_one_fault_is_for_a_large_folio_as_a_whole(capture: Capture) -> None:
    set_scan_period(200)
    with only_folios_of_64_kib(), Exerciser.start(mib=2 * MIB, threads=2, huge=True) as workload:
        window = Window(capture)
        window.run(workload, 2)
        events = window.end(workload)
    hints = events[events["source"] == HINT]
    window.assert_counted(len(hints))
    mine = within(hints, workload.base, workload.pages)
    assert (mine["pages"] == 16).mean() > 0.9
    folio = mine["address"] >> np.uint64(16)
    assert len(np.unique(folio)) >= 0.9 * (workload.pages // 16)
    # If each of its pages faulted by itself, there would be 16 faults a pass.
    assert np.unique(folio, return_counts=True)[1].mean() < 8


@pytest.mark.needs("bcc", "compiler")
@pytest.mark.guest(topology="cxl")
@pytest.mark.parametrize("capture", HOOKS, indirect=True)
def test_armed_ranges_are_what_the_kernel_armed(capture: Capture) -> None:
    set_scan_period(400)
    with Exerciser.start(mib=MIB, threads=2) as workload:
        window = Window(capture, "numa_pte_updates")
        window.run(workload, 1)
        events = window.end(workload)
        armed = events[events["source"] == ARM]
        present = [
            present_pages(int(event["tgid"]), int(event["address"]) >> 12, int(event["pages"]))
            for event in armed
        ]
    mine = armed[armed["tgid"] == workload.pid]
    starts = (mine["address"] >> np.uint64(12)).astype(np.int64) - (workload.base >> 12)
    is_covered = np.zeros(workload.pages, bool)
    for start, count in zip(starts.tolist(), mine["pages"].tolist(), strict=True):
        is_covered[max(start, 0) : max(start + count, 0)] = True
    assert is_covered.all()
    # Some pages of a range stay as they are: those of files, if they are dirty, those that are shared, and
    # those that are armed still, where a scan comes round again soon.
    assert workload.pages <= window.counted <= sum(present)


@pytest.mark.needs("bcc", "compiler")
@pytest.mark.guest(topology="cxl")
@pytest.mark.parametrize("capture", HOOKS, indirect=True)
def test_node_and_migration_are_the_kernels(capture: Capture) -> None:
    set_scan_period(200)
    with Exerciser.start(mib=MIB, threads=2) as workload:
        move(workload.pid, workload.base, workload.pages, node=1)
        window = Window(capture, "numa_pages_migrated")
        window.run(workload, 3)
        events = window.end(workload)
        where = nodes_of(workload.pid, workload.base, workload.pages)
    assert not window.lost.any()
    hints = events[events["source"] == HINT]
    moved = hints[(hints["flags"] & EventFlag.MIGRATED) != 0]
    assert len(moved) >= workload.pages / 2
    window.assert_counted(len(moved))
    assert (moved["node"] == 0).all()
    mine = within(hints, workload.base, workload.pages)
    page = ((mine["address"] - np.uint64(workload.base)) >> np.uint64(12)).astype(np.int64)
    last_node = np.full(workload.pages, -1)
    last_node[page] = mine["node"]  # in order of time
    told = (last_node >= 0) & (where >= 0)  # Linux 6.1 does not tell it of armed pages
    np.testing.assert_array_equal(last_node[told], where[told])
    assert told.sum() >= workload.pages / 4


@pytest.mark.needs("bcc", "compiler")
@pytest.mark.guest(topology="cxl")
def test_loss_is_counted_exactly(capture: Capture) -> None:
    set_scan_period(100)
    with Exerciser.start(mib=MIB, threads=1) as workload, held(workload):
        window = Window(capture)
        unread = vmstat("numa_hint_faults") + 4 * workload.pages
        with balancing():
            wait_for(lambda: vmstat("numa_hint_faults") > unread, "passes that nobody reads")
        received = window.end(workload)
    assert window.lost[HINT] > 0
    window.assert_counted(int(window.emitted[HINT]))
    assert (received["source"] == HINT).sum() == window.emitted[HINT] - window.lost[HINT]
    assert len(received) == window.emitted.sum() - window.lost.sum()
