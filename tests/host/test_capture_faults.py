# SPDX-License-Identifier: Apache-2.0
"""Real faults on this kernel: each seen once, as what it was, of whom it was asked for, or counted lost."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from toucher import (
    DEADLINE_S,
    PAGE,
    TOUCHED,
    Toucher,
    pages_seen,
    read_until,
    wait_for,
    within,
)

from hotpage.capture.capture import Capture
from hotpage.capture.events import EventFlag, EventSource
from hotpage.capture.target import Target
from hotpage.machine.cgroups import cgroup_id, cgroup_level, cgroup_mount

pytestmark = [pytest.mark.needs("bcc"), pytest.mark.usefixtures("nothing_stays_loaded")]

ALL_PAGES = list(range(TOUCHED))
BOTH_RUNGS = ["tracepoint", "software event"]


@contextmanager
def capturing(target: Target, rung: str = "tracepoint", **words: object) -> Iterator[Capture]:
    with Capture(forced_rungs={"fault": rung}, **words) as capture:  # type: ignore[arg-type]
        assert capture.rungs["fault"].name == rung
        capture.set_target(target)
        capture.read()
        yield capture


def only_page_faults(events: np.ndarray) -> bool:
    return set(events["source"].tolist()) == {EventSource.PAGE_FAULT}


@pytest.mark.parametrize("rung", BOTH_RUNGS)
def test_every_first_touch_is_seen_once(toucher: Toucher, rung: str) -> None:
    written, read = toucher.region("written"), toucher.region("read")
    with capturing(Target.processes([toucher.pid]), rung) as capture:
        toucher.run("write('written')")
        toucher.run("read('read')")
        events = capture.read()
    for start in (written, read):
        mine = within(events, start)
        assert pages_seen(events, start) == ALL_PAGES
        assert only_page_faults(mine)
        assert set(mine["tgid"].tolist()) == set(mine["tid"].tolist()) == {toucher.pid}
        assert (np.diff(mine["time_ns"].astype(np.int64)) > 0).all()
    assert set((within(events, written)["address"] % PAGE).tolist()) == {5}, "the byte written"
    assert set((within(events, read)["address"] % PAGE).tolist()) == {9}, "the byte read"
    if rung == "tracepoint":
        assert set(within(events, written)["flags"].tolist()) == {EventFlag.WRITE}
        assert set(within(events, read)["flags"].tolist()) == {0}


@pytest.mark.parametrize("rung", BOTH_RUNGS)
def test_reading_then_writing_is_two_faults_the_second_of_them_on_a_present_page(
    toucher: Toucher, rung: str
) -> None:
    start = toucher.region("both")
    with capturing(Target.processes([toucher.pid]), rung) as capture:
        toucher.run("read('both')")
        first = capture.read()
        toucher.run("write('both')")
        second = capture.read()
    assert pages_seen(first, start) == pages_seen(second, start) == ALL_PAGES
    write = EventFlag.WRITE if rung == "tracepoint" else 0
    assert set(within(second, start)["flags"].tolist()) == {write | EventFlag.PRESENT}


def test_copy_on_write_after_a_fork(toucher: Toucher) -> None:
    start = toucher.region("shared")
    toucher.run("write('shared')")
    with capturing(Target.processes([toucher.pid])) as capture:
        child = int(toucher.run("forks(1, 'shared')"))
        mine = within(capture.read(), start)
    of_child = mine[mine["tgid"] == child]
    assert ((of_child["address"] - np.uint64(start)) // PAGE).tolist() == ALL_PAGES
    assert set(of_child["flags"].tolist()) == {EventFlag.WRITE | EventFlag.PRESENT}


@pytest.mark.parametrize("rung", BOTH_RUNGS)
def test_instructions_are_accesses_too(toucher: Toucher, rung: str) -> None:
    toucher.run("code('code')")
    start = int(toucher.run("address('code')"))
    with capturing(Target.processes([toucher.pid]), rung) as capture:
        toucher.run("execute('code')")
        mine = within(capture.read(), start, 16 * TOUCHED)
    assert (mine["address"] - np.uint64(start)).tolist() == [page * 16 * PAGE for page in ALL_PAGES]
    assert set(mine["flags"].tolist()) == {0}


def test_accesses_by_the_kernel_are_marked(toucher: Toucher) -> None:
    start = toucher.region("buffer")
    with capturing(Target.processes([toucher.pid])) as capture:
        toucher.run("os.readv(os.open('/dev/zero', os.O_RDONLY), [regions['buffer']])")
        mine = within(capture.read(), start)
    assert set((mine["flags"] & EventFlag.KERNEL).tolist()) == {EventFlag.KERNEL}
    assert sorted(set(((mine["address"] - np.uint64(start)) // PAGE).tolist())) == ALL_PAGES


def test_protected_pages_are_no_hint_faults_to_the_program_that_protects_them(toucher: Toucher) -> None:
    """What looks like an armed page to the walk of the page table is one only where a scan armed it."""
    start = toucher.region("guarded")
    toucher.run("write('guarded')")
    with capturing(Target.processes([toucher.pid])) as capture:
        toucher.run("protect('guarded', 0)")
        toucher.run("protect('guarded', 3)")
        toucher.run("write('guarded')")
        assert pages_seen(capture.read(), start) == []


def test_without_balancing_there_are_no_hint_faults(toucher: Toucher) -> None:
    assert Path("/proc/sys/kernel/numa_balancing").read_text() == "0\n"
    toucher.region("plain", 2000)
    with capturing(Target.processes([toucher.pid])) as capture:
        for _ in range(5):
            toucher.run("write('plain')")
            toucher.run("drop('plain')")
        counts = np.bincount(capture.read()["source"], minlength=8)
    assert counts[EventSource.PAGE_FAULT] >= 10_000
    assert counts.sum() == counts[EventSource.PAGE_FAULT]


@pytest.mark.parametrize("rung", BOTH_RUNGS)
def test_children_are_followed_from_their_first_instruction(toucher: Toucher, rung: str) -> None:
    start = toucher.region("inherited")
    with capturing(Target.processes([toucher.pid]), rung) as capture:
        children = set(map(int, toucher.run("forks(40, 'inherited')").split()))
        assert children <= capture.target_pids()
        mine = within(capture.read(), start)
        toucher.run("fork_and_fork('inherited')")
        assert pages_seen(capture.read(), start) == ALL_PAGES, "grandchildren, too"
    pids, counts = np.unique(mine["tgid"], return_counts=True)
    assert dict(zip(pids.tolist(), counts.tolist(), strict=True)) == dict.fromkeys(children, TOUCHED)


def test_others_are_not_captured_and_the_target_changes_at_once(toucher: Toucher) -> None:
    with Toucher() as other:
        regions = {t.pid: [t.region(f"r{n}") for n in range(4)] for t in (toucher, other)}

        def seen(capture: Capture, turn: int) -> set[int]:
            for t in (toucher, other):
                t.run(f"write('r{turn}')")
            events = capture.read()
            return {pid for pid, starts in regions.items() if pages_seen(events, starts[turn]) == ALL_PAGES}

        with capturing(Target.processes([toucher.pid])) as capture:
            assert seen(capture, 0) == {toucher.pid}
            capture.set_target(Target.processes([other.pid]))
            assert seen(capture, 1) == {other.pid}
            capture.add_pid(toucher.pid)
            assert seen(capture, 2) == {toucher.pid, other.pid}
            capture.remove_pid(other.pid)
            assert seen(capture, 3) == {toucher.pid}
            capture.set_target(Target.nothing())
            toucher.region("late")
            toucher.run("write('late')")
            assert len(capture.read()) == 0


def test_all_processes_but_hotpage(toucher: Toucher) -> None:
    start = toucher.region("mine")
    with capturing(Target.everything()) as capture:
        toucher.run("write('mine')")
        own = np.zeros(4 << 20, np.uint8)
        own[::PAGE] = 1
        events = capture.read()
    assert pages_seen(events, start) == ALL_PAGES
    assert os.getpid() not in events["tgid"]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup with one below it."""
    outer = cgroup_mount() / f"hotpage-test-{os.getpid()}"
    inner = outer / "inner"
    inner.mkdir(parents=True)
    yield outer
    end = time.monotonic() + DEADLINE_S
    for directory in (inner, outer):
        while True:
            try:
                directory.rmdir()
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)


def test_a_cgroup_and_all_below_it(cgroup: Path) -> None:
    with Toucher() as inside, Toucher() as below, Toucher() as outside:
        starts = {t.pid: t.region("r") for t in (inside, below, outside)}
        (cgroup / "cgroup.procs").write_text(str(inside.pid))
        (cgroup / "inner" / "cgroup.procs").write_text(str(below.pid))
        with capturing(Target.cgroup(cgroup_id(cgroup), cgroup_level(cgroup))) as capture:
            for t in (inside, below, outside):
                t.run("write('r')")
            events = capture.read()
            assert {p for p, s in starts.items() if pages_seen(events, s) == ALL_PAGES} == {
                inside.pid,
                below.pid,
            }
            assert set(events["tgid"].tolist()) == {inside.pid, below.pid}
            (cgroup / "cgroup.procs").write_text(str(outside.pid))
            late = outside.region("late")
            outside.run("write('late')")
            assert pages_seen(capture.read(), late) == ALL_PAGES, "who joins later belongs to it"


def test_a_command_name_is_its_leaders(toucher: Toucher) -> None:
    toucher.run("rename('fifteen-bytes-x')")
    named, threaded = toucher.region("named"), toucher.region("threaded")
    with Toucher() as other:
        foreign = other.region("foreign")
        with capturing(Target.named("fifteen-bytes-x")) as capture:
            toucher.run("write('named')")
            toucher.run("in_a_thread('another name', 'threaded')")
            other.run("in_a_thread('fifteen-bytes-x', 'foreign')")
            events = capture.read()
    assert pages_seen(events, named) == pages_seen(events, threaded) == ALL_PAGES
    assert len(set(within(events, threaded)["tid"].tolist())) == 1
    assert set(within(events, threaded)["tid"].tolist()) != {toucher.pid}
    assert pages_seen(events, foreign) == []


def test_a_prefix_of_the_name_is_another_name(toucher: Toucher) -> None:
    toucher.run("rename('touch-prefix')")
    start = toucher.region("r")
    with capturing(Target.named("touch-prefixes")) as capture:
        toucher.run("write('r')")
        assert len(capture.read()) == 0
        capture.set_target(Target.named("touch-prefix"))
        toucher.run("drop('r')")
        toucher.run("write('r')")
        assert pages_seen(capture.read(), start) == ALL_PAGES


def test_sampling_leaves_out_what_it_counts(toucher: Toucher) -> None:
    pages = 20_000
    start = toucher.region("many", pages)
    with capturing(Target.processes([toucher.pid])) as capture:
        capture.page_fault_one_in = 8
        before = capture.counters()
        toucher.run("write('many')")
        events, after = capture.read(), capture.counters()
        fault = EventSource.PAGE_FAULT
        emitted = int(after.emitted[fault] - before.emitted[fault])
        left_out = int(after.sampled_out[fault] - before.sampled_out[fault])
        assert len(events) == emitted
        kept = len(within(events, start, pages))
        assert pages <= emitted + left_out <= pages + 500, "the interpreter faults a little, too"
        # Six standard deviations of a binomial distribution: it fails once in 500 million.
        assert abs(kept - pages / 8) < 6 * (pages / 8 * 7 / 8) ** 0.5
        capture.page_fault_one_in = 1
        toucher.run("drop('many')")
        toucher.run("write('many')")
        assert len(pages_seen(capture.read(), start, pages)) == pages


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_rings_for_groups_of_cpus(toucher: Toucher, shards: int) -> None:
    pages = 5000
    starts = [toucher.region(f"r{n}", pages) for n in range(2)]
    with capturing(Target.processes([toucher.pid]), shards=shards) as capture:
        cpus = sorted(os.sched_getaffinity(0))
        for n, cpu in enumerate(cpus[:2]):
            os.sched_setaffinity(toucher.pid, {cpu})
            toucher.run(f"write('r{n}')")
        events = capture.read()
        counters = capture.counters()
        assert counters.emitted.sum() == capture.received + counters.lost.sum()
        assert not counters.lost.any()
    for start in starts[: len(cpus)]:
        assert pages_seen(events, start, pages) == list(range(pages))
    assert (np.diff(events["time_ns"].astype(np.int64)) >= 0).all()


@pytest.mark.parametrize("shards", [1, 2])
def test_what_does_not_fit_is_counted_exactly(toucher: Toucher, shards: int) -> None:
    pages, ring_bytes = 30_000, 16 * PAGE
    start = toucher.region("many", pages)
    with capturing(Target.processes([toucher.pid]), ring_bytes=ring_bytes, shards=shards) as capture:
        toucher.run("write('many')")
        events = capture.read()
        counters = capture.counters()
        lost = int(counters.lost[EventSource.PAGE_FAULT])
        assert counters.emitted.sum() == capture.received + counters.lost.sum()
        assert lost > 0
        assert len(within(events, start, pages)) >= ring_bytes // 40 - 300
        toucher.region("after")
        address = int(toucher.run("address('after')"))
        toucher.run("write('after')")
        assert pages_seen(capture.read(), address) == ALL_PAGES, "and it goes on afterwards"
        assert capture.counters().emitted.sum() == capture.received + capture.counters().lost.sum()


def test_reading_while_it_overflows_loses_nothing_uncounted(toucher: Toucher) -> None:
    toucher.region("many", 4000)
    with capturing(Target.everything(), ring_bytes=4 * PAGE) as capture:
        toucher.run("globals().update(storm=threading.Thread("
                    "target=lambda: [(write('many'), drop('many')) for _ in range(20)]))")  # fmt: skip
        toucher.run("storm.start()")
        while toucher.run("storm.is_alive()") == "True":
            capture.read()
        capture.set_target(Target.nothing())
        assert capture.counters().emitted[EventSource.PAGE_FAULT] >= 80_000

        def all_is_accounted_for() -> bool:
            capture.read()
            counters = capture.counters()
            return bool(counters.emitted.sum() == capture.received + counters.lost.sum())

        # Not at once: a program of another process may be on its way still.
        wait_for(all_is_accounted_for, "every event is received or counted lost")


def test_two_captures_do_not_see_each_others_targets(toucher: Toucher) -> None:
    start = toucher.region("r")
    with capturing(Target.processes([toucher.pid])) as one, capturing(Target.nothing()) as other:
        toucher.run("write('r')")
        assert pages_seen(read_until(one, len), start) == ALL_PAGES
        assert len(other.read()) == 0


def test_the_cost_of_the_programs_is_measured(toucher: Toucher) -> None:
    toucher.region("many", 5000)
    with capturing(Target.processes([toucher.pid])) as capture:
        capture.measure_cost(True)
        before = capture.cost()
        toucher.run("write('many')")
        after = capture.cost()
        missed_runs = capture.missed_runs()
        capture.measure_cost(False)
    assert after.runs - before.runs >= 5000
    assert after.run_time_s > before.run_time_s
    assert not any(missed_runs.values()), "nothing preempts a tracepoint's program"


def test_the_kernels_own_types_are_what_the_abi_says() -> None:
    from hotpage.capture.btf import Btf

    btf = Btf()
    assert (btf.offset("list_head", "next"), btf.offset("list_head", "prev")) == (0, 8)
    assert btf.offset("task_struct", "pid") + 4 == btf.offset("task_struct", "tgid")
    assert btf.offset("vm_area_struct", "vm_start") + 8 == btf.offset("vm_area_struct", "vm_end")
    with pytest.raises(KeyError):
        btf.function_id("no_such_function_in_any_kernel")
