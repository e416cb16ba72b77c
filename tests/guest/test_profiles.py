# SPDX-License-Identifier: Apache-2.0
"""What ``record --arm`` finds out in guests, held against workloads whose every page's rate is known.

One session watches all workloads: to start it takes longer than what it watches. Each page gets a fixed
number of arming passes, by the kernel's own count of them.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from guestlab.topology import Topology
from numpy.typing import NDArray
from test_record_command import Recording
from toucher import wait_for
from workload import BALANCING, scans, set_scan_period

from hotpage.exerciser import Exerciser, zipf_shares
from hotpage.machine.processes import children_of
from hotpage.profile.snapshot import Snapshot

pytestmark = pytest.mark.needs("bcc", "compiler")

PAGES = 4096
MIB = PAGES >> 8
GIB_PAGES = 262_144
PASSES = 6
WORK = 300
"""Rounds of arithmetic between two accesses: emulated, a fault takes so long that without them a program
would do little else after each scan."""


@dataclass(frozen=True)
class Watched:
    """The session after PASSES passes, with the truth of that time; and two passes after the shift."""

    workloads: dict[str, Exerciser]
    truth: dict[str, NDArray[np.float64]]
    first: Snapshot
    shifted: Snapshot
    exited_mib: float
    """How much memory came free soon after the end of a held workload of EXITED_MIB."""


EXITED_MIB = 64


def hot_shares(hot: NDArray[np.int64], pages: int = PAGES, share: float = 0.9) -> NDArray[np.float64]:
    """``share`` of the accesses to the hot pages, the rest to all others."""
    shares = np.full(pages, (1 - share) / max(pages - len(hot), 1))
    shares[hot] = share / len(hot)
    return shares


def needles() -> NDArray[np.int64]:
    """Single pages, far from each other, in a GiB that nobody touches otherwise."""
    return np.sort(np.random.default_rng(7).choice(GIB_PAGES, 23, replace=False))


def start_workloads(stack: contextlib.ExitStack, names: list[str]) -> dict[str, Exerciser]:
    random = np.random.default_rng(3)
    only_half = np.zeros(PAGES)
    only_half[: PAGES // 2] = 1
    in_needles = np.zeros(GIB_PAGES)
    in_needles[needles()] = 1
    options = {
        "zipf": {"page_shares": zipf_shares(PAGES)},
        "hot": {"page_shares": hot_shares(random.choice(PAGES, PAGES // 10, replace=False)), "threads": 2},
        "shift": {"page_shares": hot_shares(np.arange(PAGES // 10)), "shift_pages": PAGES // 2},
        "stride": {"pattern": "sweep", "stride": 8},
        "half": {"page_shares": only_half},
        "needles": {"page_shares": in_needles, "mib": GIB_PAGES >> 8},
    }
    return {
        name: stack.enter_context(
            Exerciser.start(**{"mib": MIB, "threads": 1, "work": WORK} | options[name])  # type: ignore[arg-type]
        )
        for name in names
    }


def await_passes(workloads: dict[str, Exerciser], passes: int) -> None:
    """So many more arming passes over each workload's memory, every page of it."""
    before = {name: scans(workload.pid) for name, workload in workloads.items()}
    wait_for(
        lambda: all(scans(workload.pid) - before[name] > passes for name, workload in workloads.items()),
        f"{passes} arming passes",
    )


def held_by(recorder: int) -> set[int]:
    """The processes whose memory a child of the recorder has open."""
    links = [
        str(link.readlink())
        for child in children_of(recorder)
        for link in Path(f"/proc/{child}/fd").glob("*")
        if link.is_symlink()
    ]
    return {int(match[1]) for link in links if (match := re.fullmatch("/proc/([0-9]+)/mem", link))}


def anonymous_mib() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("AnonPages:"))


@pytest.fixture(scope="module")
def watched(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    BALANCING.write_text("0")
    set_scan_period(400)
    scratch = tmp_path_factory.mktemp("watched")
    os.environ["HOTPAGE_STATE_DIR"] = str(scratch / "state")
    with contextlib.ExitStack() as stack:
        # Half of them on a machine with one node: what it adds is the one node.
        names = (
            ["zipf", "hot"]
            if len(topology.nodes) == 1
            else ["zipf", "hot", "shift", "stride", "half", "needles"]
        )
        workloads = start_workloads(stack, names)
        leaving = stack.enter_context(Exerciser.start(mib=EXITED_MIB, threads=1, work=WORK))
        pids = ",".join(str(workload.pid) for workload in (*workloads.values(), leaving))
        recording = Recording(scratch / "profile", "-p", pids, "--arm")
        stack.callback(recording.process.communicate)
        stack.callback(recording.process.kill)
        recording.await_start()
        single = {workload.pid for name, workload in workloads.items() if name != "hot"} | {leaving.pid}
        wait_for(lambda: single <= held_by(recording.process.pid), "the single-threaded ones are held")
        await_passes(workloads, PASSES)
        full_mib = anonymous_mib()
        os.kill(leaving.pid, 9)
        wait_for(
            lambda: anonymous_mib() < full_mib - EXITED_MIB * 0.9, "the memory of the one that ended is free"
        )
        exited_mib = full_mib - anonymous_mib()
        first = recording.snapshot()
        truth = {name: workload.page_shares.copy() for name, workload in workloads.items()}
        shifted = first
        if "shift" in workloads:
            workloads["shift"].shift()
            await_passes({"shift": workloads["shift"]}, 2)
        assert recording.stop() == 0, recording.said
        shifted = recording.snapshot()
        yield Watched(workloads, truth, first, shifted, exited_mib)


def rates(snapshot: Snapshot, workload: Exerciser, short: bool = False) -> NDArray[np.float64]:
    """accesses/s of each page of the workload, on the short or the long horizon; 0 where it is unknown."""
    (process,) = [index for index, record in snapshot.processes.items() if record.process.pid == workload.pid]
    first_vpn = workload.base >> 12
    pages = snapshot.pages.of(process).between(first_vpn, first_vpn + workload.pages)
    found = np.zeros(workload.pages)
    found[pages.vpn - first_vpn] = np.nan_to_num(pages.rate_short_hz if short else pages.rate_hz)
    return found


def hit_share(rate_hz: NDArray[np.float64], hot: NDArray[np.bool_]) -> float:
    """Of as many pages as are hot, the hottest: what share is hot. Precision and recall in one, as in a fast
    tier that the hot set just fits into."""
    hottest = np.argsort(rate_hz, kind="stable")[len(rate_hz) - int(hot.sum()) :]
    return float(hot[hottest].mean())


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0 on; equal values share the middle one."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[place]


@pytest.mark.guest(topology=("flat", "cxl"))
def test_nothing_is_lost_at_the_default_size(watched: Watched) -> None:
    assert all(source.lost == 0 for source in watched.shifted.usage.sources)
    assert sum(source.received for source in watched.shifted.usage.sources) > PASSES * PAGES


@pytest.mark.guest(topology=("flat", "cxl"))
@pytest.mark.parametrize("name", ["hot", "zipf"], ids=["two threads", "one thread"])
def test_every_page_has_a_rate(watched: Watched, name: str) -> None:
    assert (rates(watched.first, watched.workloads[name]) > 0).mean() > 0.99


@pytest.mark.guest(topology=("flat", "cxl"))
def test_memory_of_a_held_process_is_free_after_its_end(watched: Watched) -> None:
    assert watched.exited_mib > 0.9 * EXITED_MIB


@pytest.mark.guest(topology=("flat", "cxl"))
def test_the_hot_tenth_is_found(watched: Watched) -> None:
    truth = watched.truth["hot"]
    found = hit_share(rates(watched.first, watched.workloads["hot"]), truth > truth.max() / 2)
    assert found >= 0.9


@pytest.mark.guest(topology=("flat", "cxl"))
def test_zipf_pages_come_in_their_order(watched: Watched) -> None:
    truth = watched.truth["zipf"]
    correlation = float(
        np.corrcoef(ranks(rates(watched.first, watched.workloads["zipf"])), ranks(truth))[0, 1]
    )
    found = hit_share(rates(watched.first, watched.workloads["zipf"]), truth >= np.sort(truth)[-PAGES // 10])
    print(f"rank correlation {correlation:.3f}, of the hottest tenth {found:.3f}")
    assert correlation >= 0.8


@pytest.mark.guest(topology="cxl")
def test_a_strided_scan_is_seen_as_one(watched: Watched) -> None:
    found = rates(watched.first, watched.workloads["stride"])
    touched = watched.truth["stride"] > 0
    assert hit_share(found, touched) >= 0.9
    assert np.median(found[touched]) > 10 * np.median(found[~touched])


@pytest.mark.guest(topology="cxl")
def test_the_half_that_nobody_touches_is_cold(watched: Watched) -> None:
    found = rates(watched.first, watched.workloads["half"])
    touched = watched.truth["half"] > 0
    assert hit_share(found, touched) >= 0.9
    assert np.median(found[touched]) > 10 * np.median(found[~touched])


@pytest.mark.guest(topology="cxl")
def test_single_hot_pages_in_a_cold_gib_are_found(watched: Watched) -> None:
    found = rates(watched.first, watched.workloads["needles"])
    assert hit_share(found, watched.truth["needles"] > 0) == 1
    assert np.sort(found)[-len(needles())] > 10 * np.sort(found)[-len(needles()) - 1]


@pytest.mark.guest(topology="cxl")
def test_a_shift_is_seen_within_two_passes(watched: Watched) -> None:
    before, after = watched.truth["shift"], watched.workloads["shift"].page_shares
    workload = watched.workloads["shift"]
    assert hit_share(rates(watched.first, workload), before > before.max() / 2) >= 0.9
    assert hit_share(rates(watched.shifted, workload, short=True), after > after.max() / 2) >= 0.9
