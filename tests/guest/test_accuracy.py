# SPDX-License-Identifier: Apache-2.0
"""What ``record --arm`` finds out in guests, held against workloads whose every page's rate is known.

One session watches all workloads, for to start one takes longer than to watch. They run in turn, each for a
fixed number of arming passes by the kernel's own count, and are halted otherwise.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from guestlab.topology import Topology
from numpy.typing import NDArray
from recordings import Recording
from toucher import stop, wait_for
from workload import BALANCING, await_passes, give_way, move, running, set_scan_period

from hotpage.arrays import Float32s
from hotpage.exerciser import Exerciser, zipf_shares
from hotpage.machine.folios import PAGE_BYTES
from hotpage.profile.disk.reader import ProfileReader
from hotpage.profile.snapshot import PageTable, Snapshot
from hotpage.profile.summary import Heat, summarise
from hotpage.profile.threshold import HeatClass

ON_CXL = pytest.mark.guest(topology="cxl")
ON_FLAT = pytest.mark.guest(topology="flat")
pytestmark = pytest.mark.needs("bcc", "compiler")

PAGES, STRIDE_PAGES, GIB_PAGES = 2048, 16_384, 262_144
STRIDE = 8
PASSES, SHIFT_PASSES = 6, 4
ZIPF_PASSES = 24
"""A pass adds one latency to what is known of a page, and after n of them a rate is sure to 1/√n: between the
quarter that a fast tier holds and the rest of a zipf distribution there is no gap to forgive more.
"""
WORK = 3000
"""Rounds of arithmetic between two accesses. Emulated, a fault takes a tenth of a millisecond, and a program
that did nothing but access memory would do little but fault after each scan.

Where two threads shift, many times that: passes come seconds apart here, for the kernel spaces them by what
they take, and if even cold pages were accessed several times in between, nothing but the latencies of two
passes would tell them from hot ones.
"""
LITTLE_WORK = 300
TIE = 2**0.5
"""A profile has a page's rate anew when it has moved by half an octave. So close to the cut between hot and
cold, where zipf's rates lie dense, neither is a mistake.
"""

Shares = NDArray[np.float64]
Mask = NDArray[np.bool_]


def tenth(rest: int, share: float = 0.9) -> Shares:
    """A tenth of PAGES, dealt out at random, gets ``share`` of the accesses; as many of the others as
    ``rest`` get what is left.
    """
    hot = np.random.default_rng(3).choice(rest, PAGES // 10, replace=False)
    shares = np.zeros(PAGES)
    shares[:rest] = (1 - share) / (rest - hot.size)
    shares[hot] = share / hot.size
    return shares


def needles() -> Shares:
    """Single pages, far from each other, in a GiB that nobody touches otherwise."""
    shares = np.zeros(GIB_PAGES)
    shares[np.random.default_rng(7).choice(GIB_PAGES, 23, replace=False)] = 1
    return shares


WORKLOADS: dict[str, dict[str, Any]] = {
    "zipf": {"mib": PAGES >> 8, "page_shares": zipf_shares(PAGES), "work": 2 * WORK // 3},
    "half": {"mib": PAGES >> 8, "page_shares": tenth(PAGES // 2), "work": 5 * WORK},
    "shift": {
        "mib": PAGES >> 8,
        "page_shares": tenth(PAGES, 0.99),  # two passes tell no more of a page than two latencies
        "shift_pages": PAGES // 2,
        "work": 50 * WORK,
        "threads": 2,
    },
    "stride": {
        "mib": STRIDE_PAGES >> 8,
        "pattern": "sweep",
        "stride": STRIDE,
        "work": LITTLE_WORK,
        "threads": 2,
    },
    "needles": {"mib": GIB_PAGES >> 8, "page_shares": needles(), "work": LITTLE_WORK},
}
"""With one thread unless it says otherwise."""


@dataclass(frozen=True)
class Seen:
    """A workload's memory in the profile after some passes, and the truth of that time."""

    snapshot: Snapshot
    """Of nothing else."""
    first_vpn: int
    truth: Shares
    """Each page's share of the accesses."""

    @classmethod
    def of(cls, snapshot: Snapshot, workload: Exerciser, truth: Shares) -> "Seen":
        (process,) = [
            index for index, record in snapshot.processes.items() if record.process.pid == workload.pid
        ]
        first_vpn = workload.base >> 12
        vmas = snapshot.vmas[process]
        mine = replace(
            snapshot,
            processes={process: snapshot.processes[process]},
            vmas={process: [one for one in vmas if one.vma.start <= workload.base < one.vma.end]},
            armed={process: snapshot.armed[process]},
            pages=snapshot.pages.of(process).between(first_vpn, first_vpn + workload.pages),
        )
        return cls(mine, first_vpn, truth)

    @property
    def at_short(self) -> "Seen":
        """With the rates of the short horizon in place of the long one's."""
        pages = replace(self.snapshot.pages, rate_hz=self.snapshot.pages.rate_short_hz)
        return replace(self, snapshot=replace(self.snapshot, pages=pages))

    @property
    def rate_hz(self) -> Float32s:
        """Of each page; 0 where no access has been seen."""
        pages: PageTable = self.snapshot.pages
        rate_hz = np.zeros(len(self.truth), np.float32)
        rate_hz[pages.vpn - self.first_vpn] = np.nan_to_num(pages.rate_hz)
        return rate_hz

    @property
    def hot_tenth(self) -> Mask:
        """The truth, where there are hot pages and others."""
        return self.truth > self.truth.max() / 2

    def hottest(self, part: int) -> Mask:
        """The truth: one page in ``part``."""
        return self.truth >= np.sort(self.truth)[-(len(self.truth) // part)]

    def called_hot(self, pages: int) -> Mask:
        """By a report for a fast tier that holds so many pages."""
        threshold = summarise(self.snapshot, hot_bytes=pages * PAGE_BYTES).threshold
        return threshold.classes(self.rate_hz) == HeatClass.HOT

    def heat(self, hot: Mask) -> Heat:
        """What a report says of the whole memory if these pages, all of them, are to be hot."""
        return summarise(self.snapshot, hot_rate_hz=float(self.rate_hz[hot].min())).total

    def precision_and_recall(self, hot: Mask, tie: float = 1.0) -> tuple[float, float]:
        """For a fast tier that just holds the hot set; a page is no mistake whose true rate is less than
        ``tie`` times off the cut.
        """
        called = self.called_hot(int(hot.sum()))
        cut = self.truth[hot].min()
        wrongly = called & ~hot & (self.truth <= cut / tie)
        missed = ~called & hot & (self.truth >= cut * tie)
        found = 1 - wrongly.sum() / max(called.sum(), 1), 1 - missed.sum() / hot.sum()
        print(f"precision {found[0]:.3f}, recall {found[1]:.3f} of {hot.sum()} pages, ties to x{tie:.2f}")
        return found

    def rank_correlation(self) -> float:
        """Spearman's, of rates and truth, over all pages."""
        found = float(np.corrcoef(ranks(self.rate_hz), ranks(self.truth))[0, 1])
        print(f"rank correlation {found:.3f}")
        return found


def ranks(values: NDArray[Any]) -> Shares:
    """Ranks from 0 on; equal values share the middle one."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[place]


@dataclass(frozen=True)
class Watched:
    """What the session saw of each workload; of "shifted", two passes after the shift."""

    seen: dict[str, Seen]
    lost: int
    freed_mib: float
    """How much memory came free when the workloads ENDED ended, the session still running."""


ENDED = "half", "stride"
ENDED_MIB = (PAGES + STRIDE_PAGES) >> 8


def anonymous_mib() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("AnonPages:"))


def watch(names: tuple[str, ...], scratch: Path, slow_node: int | None) -> Watched:
    """Run them one after another, beside a session."""
    BALANCING.write_text("0")
    set_scan_period(500)  # from there on the kernel scans a GiB at once
    os.environ["HOTPAGE_STATE_DIR"] = str(scratch / "state")
    with contextlib.ExitStack() as stack:
        workloads = {}
        for name in names:
            workload = stack.enter_context(Exerciser.start(**{"threads": 1} | WORKLOADS[name]))
            workloads[name] = workload
            stop(workload.pid)
            give_way(workload.pid)
            if slow_node is not None and name == "half":
                # Linux 6.1 will promote what is accessed there, for it has both nodes in one tier.
                move(workload.pid, workload.base, workload.pages // 4, slow_node)
        pids = {name: workload.pid for name, workload in workloads.items()}
        recording = Recording(scratch / "profile", "-p", ",".join(map(str, pids.values())), "--arm")
        stack.callback(recording.process.communicate)
        stack.callback(recording.process.kill)
        recording.await_start()

        ended_ns: dict[str, int] = {}

        def await_work(name: str, passes: int) -> None:
            begun, begun_s = workloads[name].accesses(), time.monotonic()
            await_passes([pids[name]], passes)
            ended_ns.setdefault(name, time.monotonic_ns())  # of "shift" before it shifts
            accesses, took_s = workloads[name].accesses() - begun, time.monotonic() - begun_s
            print(f"{name}: {accesses / passes:,.0f} accesses and {took_s / passes:.2f} s from pass to pass")

        def run(name: str, passes: int) -> None:
            with running([pids[name]]):
                await_work(name, passes)

        run("half", passes=PASSES)
        # One tells what is touched from what is not, and one over a GiB takes a while.
        for name in ("stride", "needles"):
            if name in names:
                run(name, passes=1)
        before_mib = anonymous_mib()
        for name in ENDED:
            workloads[name].stop()
        wait_for(lambda: before_mib - anonymous_mib() > 0.9 * ENDED_MIB, "the memory of those that ended")
        freed_mib = before_mib - anonymous_mib()
        if "zipf" in names:
            run("zipf", passes=ZIPF_PASSES)
        truth = {name: workload.page_shares for name, workload in workloads.items()}
        if "shift" in names:
            # The slower pace of --arm, as long as the half-life of the short horizon.
            set_scan_period(2000)
            with running([pids["shift"]]):
                await_work("shift", SHIFT_PASSES)
                # It goes on meanwhile: what is halted while it is armed looks cold.
                workloads["shift"].shift()
                await_work("shift", 2)
                assert recording.stop() == 0, recording.said
        else:
            assert recording.stop() == 0, recording.said
    reader = ProfileReader(recording.directory)
    parts = sorted((recording.directory / "intervals").glob("part*"))
    intervals_s = np.concatenate([pq.read_table(part)["end_s"].to_numpy() for part in parts])
    end = reader.snapshot()
    seen = {}
    for name, workload in workloads.items():
        ended_s = (ended_ns[name] - end.run.origin_monotonic_ns) / 1e9
        # With the interval in which it ended, for a busy guest has long ones; but nothing of the shift.
        place = int(np.searchsorted(intervals_s, ended_s)) - (name == "shift")
        seen[name] = Seen.of(reader.snapshot(float(intervals_s[place])), workload, truth[name])
    if "shift" in names:
        # Of the end, for between the rows of a page its short rate grows old.
        seen["shifted"] = Seen.of(end, workloads["shift"], workloads["shift"].page_shares)
    return Watched(seen, sum(source.lost for source in end.usage.sources), freed_mib)


@pytest.fixture(scope="module")
def watched(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    scratch = tmp_path_factory.mktemp("watched")
    if len(topology.nodes) == 1:
        yield watch(ENDED, scratch, None)
    else:
        yield watch(tuple(WORKLOADS), scratch, topology.tiers[-1][0])


@ON_CXL
def test_nothing_is_lost_at_the_default_size(watched: Watched) -> None:
    assert watched.lost == 0


@ON_CXL
@pytest.mark.parametrize("name", ["half", "shift"], ids=["and half is never touched", "two threads"])
def test_the_hot_tenth_is_found(watched: Watched, name: str) -> None:
    seen = watched.seen[name]
    assert min(seen.precision_and_recall(seen.hot_tenth)) >= 0.9


@ON_CXL
def test_the_half_that_nobody_touches_is_cold(watched: Watched) -> None:
    seen = watched.seen["half"]
    assert not seen.rate_hz[seen.truth == 0].any()
    assert (seen.rate_hz[seen.truth > 0] > 0).mean() > 0.95
    heat = seen.heat(seen.hot_tenth)
    assert heat.silent_bytes == (seen.rate_hz == 0).sum() * PAGE_BYTES
    assert heat.unknown_bytes == 0


@ON_CXL
def test_zipf_pages_come_in_their_order(watched: Watched) -> None:
    assert watched.seen["zipf"].rank_correlation() >= 0.8


@ON_CXL
@pytest.mark.parametrize("part", [10, 4])
def test_zipfs_hottest_pages_are_found(watched: Watched, part: int) -> None:
    seen = watched.seen["zipf"]
    hot = seen.hottest(part)
    seen.precision_and_recall(hot)
    assert min(seen.precision_and_recall(hot, TIE)) >= 0.9
    called = seen.called_hot(int(hot.sum()))
    assert seen.truth[called].sum() >= 0.95 * seen.truth[hot].sum(), "accesses that a fast tier would take"


@ON_CXL
def test_a_shift_is_seen_within_two_passes(watched: Watched) -> None:
    seen = watched.seen["shifted"].at_short
    assert (seen.hot_tenth & watched.seen["shift"].hot_tenth).sum() < seen.hot_tenth.sum() / 4
    assert min(seen.precision_and_recall(seen.hot_tenth)) >= 0.9


@ON_CXL
def test_a_strided_scan_is_seen_as_one(watched: Watched) -> None:
    seen = watched.seen["stride"]
    np.testing.assert_array_equal(np.flatnonzero(seen.rate_hz), np.arange(0, STRIDE_PAGES, STRIDE))
    heat = seen.heat(seen.truth > 0)
    assert (heat.hot_bytes, heat.unknown_bytes) == (STRIDE_PAGES // STRIDE * PAGE_BYTES, 0)
    # Linux 7.3 may have joined the stack of a thread to the mapping.
    assert heat.silent_bytes == heat.resident_bytes - heat.hot_bytes


@ON_CXL
def test_single_hot_pages_in_a_cold_gib_are_found(watched: Watched) -> None:
    seen = watched.seen["needles"]
    hot = seen.truth > 0
    count = int(hot.sum())
    assert seen.precision_and_recall(hot) == (1, 1)
    heat = seen.heat(hot)
    assert (heat.hot_bytes, heat.unknown_bytes) == (count * PAGE_BYTES, 0)
    assert heat.silent_bytes == (GIB_PAGES - count) * PAGE_BYTES


@ON_CXL
def test_memory_is_free_after_the_end_of_its_process(watched: Watched) -> None:
    assert watched.freed_mib > 0.9 * ENDED_MIB


@ON_FLAT
def test_one_node_is_enough(watched: Watched) -> None:
    """For rates of processes with one thread and with several, and their memory comes free."""
    half, stride = watched.seen["half"], watched.seen["stride"]
    assert min(half.precision_and_recall(half.hot_tenth)) >= 0.9
    assert (stride.rate_hz[stride.truth > 0] > 0).all()
    assert watched.lost == 0
    assert watched.freed_mib > 0.9 * ENDED_MIB
