# SPDX-License-Identifier: Apache-2.0
"""Moves by pointing: what a wish comes to, how a job goes in its thread, and what the log remembers."""

import ctypes
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from fakekernel import FakeKernel
from patience import PATIENCE_S
from profiles import armed, changes, interval, run_info
from situations import facts
from test_placement_mover import on, plan_of, whereabouts

from hotpage.errors import ProfileError
from hotpage.machine.proc import PROC
from hotpage.machine.processes import ProcessTable
from hotpage.machine.topology import Node, Topology
from hotpage.placement import situation as situation_module
from hotpage.placement.background import BackgroundMover, MoveJob, Stage
from hotpage.placement.chosen import Proposal, Wish, propose
from hotpage.placement.movelog import MoveLog
from hotpage.placement.movers.move_pages import MovePagesMover
from hotpage.placement.movers.whereabouts import Whereabouts
from hotpage.placement.outcome import MoveOutcome, Outcome, Result
from hotpage.placement.plan import Fate
from hotpage.profile.live.watched import WatchedProfile
from hotpage.profile.snapshot import ProcessRecord

PAGES = 600
TOPOLOGY = Topology(
    (
        Node(0, (0,), 64 << 30, 32 << 30, {0: 10, 1: 20}, tier=0),
        Node(1, (), 64 << 30, 32 << 30, {0: 20, 1: 10}, tier=1),
    ),
    {},
    None,
    None,
    None,
    None,
)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """First page of a mapping of this process, which may use two nodes that have room."""
    real = situation_module.process_facts
    monkeypatch.setattr(
        situation_module,
        "process_facts",
        lambda record: (
            None if (found := real(record)) is None else replace(found, allowed_nodes=frozenset({0, 1}))
        ),
    )
    monkeypatch.setattr(situation_module, "read_watermarks", dict)
    with mmap.mmap(-1, PAGES * 4096) as mapping:
        buffer = ctypes.c_char.from_buffer(mapping)
        yield ctypes.addressof(buffer) // 4096
        del buffer


def watched(first: int, start_time_ticks: int | None = None) -> WatchedProfile:
    """Pages 0..9 at 100..109 accesses/s, page 10 seen only; all was armed 10 s ago."""
    found = ProcessTable().add(os.getpid())
    assert found is not None
    process = replace(found, index=3, start_time_ticks=start_time_ticks or found.start_time_ticks)
    boot_id = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    profile = WatchedProfile(run_info(boot_id=boot_id))
    rows = changes(*((3, first + page, 100.0 + page) for page in range(10)), (3, first + 10, np.nan))
    coverage = {3: armed(first - 5, first + PAGES + 5)}
    profile.interval(interval(10, rows, start_s=0.0, processes=[ProcessRecord(process, 0.0)], armed=coverage))
    return profile


def proposed(profile: WatchedProfile, wish: Wish, node: int, first: int) -> Proposal:
    kernel = FakeKernel(on(node, *range(first, first + PAGES)))
    snapshot = profile.snapshot(wish.process, wish.start, wish.end)
    proposal = propose(wish, snapshot, Whereabouts(kernel), TOPOLOGY)
    assert not kernel.calls, "a dry run"
    return proposal


def vpns(proposal: Proposal) -> list[int]:
    return sorted(vpn for move in proposal.plan.moves for vpn in move.vpn.tolist())


@pytest.mark.parametrize("promote", [True, False])
def test_everything_of_known_rate_moves(memory: int, promote: bool) -> None:
    wish = Wish("all of it", 3, promote)
    proposal = proposed(watched(memory), wish, int(promote), memory)
    # Neighbours of the mapping in this process may be armed as well, but the kernel has them nowhere.
    assert vpns(proposal) == [vpn for vpn in range(memory, memory + PAGES) if vpn != memory + 10]
    assert {(move.source, move.target) for move in proposal.plan.moves} == {(1, 0) if promote else (0, 1)}
    assert proposal.plan.kept_bytes[Fate.UNKNOWN] == 4096, "nobody observed it"
    assert proposal.checked.bytes_by_result() == {Result.PLANNED: (PAGES - 1) * 4096}
    assert not proposal.plan.hot_hz > 0


def test_a_range_is_no_more_than_that(memory: int) -> None:
    wish = Wish("a range", 3, True, (memory + 5) << 12, (memory + 8) << 12)
    assert vpns(proposed(watched(memory), wish, 1, memory)) == [memory + 5, memory + 6, memory + 7]
    silent = Wish("a page", 3, False, (memory + 500) << 12, (memory + 501) << 12)
    assert vpns(proposed(watched(memory), silent, 0, memory)) == [memory + 500]


def test_only_what_is_hot_or_cold(memory: int) -> None:
    profile = watched(memory)
    hot = Wish("hot", 3, True, hot_hz=105.0)
    assert vpns(proposed(profile, hot, 1, memory)) == list(range(memory + 5, memory + 10))
    cold = proposed(profile, Wish("cold", 3, False, hot_hz=105.0), 0, memory)
    assert vpns(cold) == list(range(memory + 11, memory + PAGES)), "an octave colder: the silent ones"
    assert cold.plan.kept_bytes[Fate.WARM] == 5 * 4096


def test_what_is_there_already_says_so(memory: int) -> None:
    proposal = proposed(watched(memory), Wish("all", 3, True), 0, memory)
    assert not proposal.plan.moves
    assert "fast memory already" in proposal.plan.why_nothing()


def test_another_process_of_that_pid_is_left_alone(memory: int) -> None:
    wish = Wish("all", 3, True)
    with pytest.raises(ProfileError, match="has gone"):
        proposed(watched(memory, start_time_ticks=1), wish, 1, memory)
    with pytest.raises(ProfileError, match="has gone"):
        proposed(watched(memory), replace(wish, process=4), 1, memory)


# Jobs


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Bench:
    """A background mover on a fake kernel with 3,000 pages of process 0 on node 1."""

    def __init__(self) -> None:
        self.kernel = FakeKernel(on(1, *range(3000)))
        self.log = MoveLog()
        self.threads: list[int] = []
        self.mover = BackgroundMover(
            self.propose, self.open, self.log, lambda: self.threads.append(threading.get_ident())
        )

    def propose(self, wish: Wish) -> Proposal:
        self.threads.append(threading.get_ident())
        if wish.name == "gone":
            raise ProfileError("the process has gone")
        plan = plan_of(list(range(3000)))
        return Proposal(plan, {0: facts()}, Outcome())

    def open(self) -> MovePagesMover:
        self.threads.append(threading.get_ident())
        return MovePagesMover(
            whereabouts(self.kernel),
            around=nullcontext,
            clock=self.kernel.clock,
            sleep=self.kernel.sleep,
        )

    def start(self, name: str = "all") -> MoveJob:
        return self.mover.propose(Wish(name, 0, True))


def test_a_job_from_plan_to_outcome() -> None:
    bench = Bench()
    with bench.mover.running():
        job = bench.start()
        until(lambda: job.stage is Stage.PROPOSED)
        assert not bench.kernel.calls and job.outcome is None, "it waits to be confirmed"
        bench.mover.carry_out(job)
        until(lambda: job.stage is Stage.DONE)
    assert job.outcome is not None and job.outcome.moved_bytes == 3000 * 4096
    assert job.progress is not None and job.progress.moved_bytes == 3000 * 4096
    assert len(bench.log.of(0, 0, 5000)) == 3000
    assert bench.log.pages_per_s(1000.0) == {0: 3.0}
    assert len(set(bench.threads)) == 1 and threading.get_ident() not in bench.threads


def test_stopping_leaves_what_has_moved() -> None:
    bench = Bench()
    jobs: list[MoveJob] = []
    bench.kernel.on_call = lambda number: jobs[0].cancel() if number == 2 else None
    with bench.mover.running():
        jobs.append(bench.start())
        until(lambda: jobs[0].stage is Stage.PROPOSED)
        bench.mover.carry_out(jobs[0])
        until(lambda: jobs[0].stage is Stage.DONE)
    outcome = jobs[0].outcome
    assert outcome is not None and len(bench.kernel.calls) == 2
    results = outcome.bytes_by_result()
    assert results[Result.MOVED] + results[Result.UNTRIED] == 3000 * 4096
    assert len(bench.log.of(0, 0, 5000)) == results[Result.MOVED] // 4096


def test_leaving_stops_what_is_under_way() -> None:
    bench = Bench()
    begun, go_on = threading.Event(), threading.Event()

    def wait(number: int) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)

    bench.kernel.on_call = wait
    with bench.mover.running():
        job = bench.start()
        until(lambda: job.stage is Stage.PROPOSED)
        bench.mover.carry_out(job)
        assert begun.wait(PATIENCE_S) and job.is_moving
        threading.Timer(0.2, go_on.set).start()
    assert job.stage is Stage.DONE and len(bench.kernel.calls) == 1


def test_what_goes_wrong_is_the_jobs_problem() -> None:
    bench = Bench()
    with bench.mover.running():
        job = bench.start("gone")
        until(lambda: job.stage is Stage.FAILED)
        assert job.problem == "the process has gone"
        bench.mover.carry_out(job)  # nothing to carry out
        after = bench.start()
        until(lambda: after.stage is Stage.PROPOSED)
    assert not bench.kernel.calls


# The log


def outcome_of(process: int, vpn: list[int], results: list[Result], pages: list[int], target: int) -> Outcome:
    move = replace(plan_of(vpn, pages, source=1 - target, target=target).moves[0], process=process)
    return Outcome([MoveOutcome(move, np.array(results, np.uint8))])


def test_the_newest_result_of_each_page() -> None:
    now_s = [100.0]
    log = MoveLog(lambda: now_s[0])
    log.note(outcome_of(1, [10, 11, 12], [Result.MOVED, Result.ARMED, Result.UNTRIED], [1, 1, 1], 0))
    now_s[0] = 130.0
    log.note(outcome_of(1, [11, 20], [Result.MOVED, Result.PINNED], [1, 1], 1))
    log.note(outcome_of(2, [10], [Result.SHARED], [1], 1))
    now_s[0] = 135.0
    moves = log.of(1, 0, 1000)
    assert moves.vpn.tolist() == [10, 11, 20]
    assert [
        (one.source, one.target, one.result, one.age_s) for vpn in (10, 11, 20) if (one := moves.newest(vpn))
    ] == [
        (1, 0, Result.MOVED, 35.0),
        (0, 1, Result.MOVED, 5.0),
        (0, 1, Result.PINNED, 5.0),
    ]
    assert moves.newest(12) is None and moves.newest(9) is None and moves.newest(21) is None
    assert log.of(1, 11, 20).vpn.tolist() == [11]
    assert len(log.of(7, 0, 1000)) == 0
    one = log.of(2, 0, 100).newest(10)
    assert one is not None and (one.word, one.words) == ("shared", "shared with another process")


def test_each_page_of_a_huge_page_has_a_result() -> None:
    log = MoveLog()
    log.note(outcome_of(0, [512, 1024], [Result.MOVED] * 512 + [Result.BUSY], [512, 1], 0))
    assert log.of(0, 0, 2000).vpn.tolist() == list(range(512, 1025))


def test_pages_per_second_of_the_last_seconds() -> None:
    now_s = [0.0]
    log = MoveLog(lambda: now_s[0])
    log.note_moved(1, 500)
    now_s[0] = 9.0
    log.note_moved(1, 20)
    log.note_moved(2, 40)
    now_s[0] = 10.0
    assert log.pages_per_s(2.0) == {1: 10.0, 2: 20.0}
    assert log.pages_per_s(20.0) == {1: 26.0, 2: 2.0}
    now_s[0] = 20.0
    assert log.pages_per_s(2.0) == {}
