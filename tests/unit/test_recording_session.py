# SPDX-License-Identifier: Apache-2.0
"""The session's loop, with a capture and process events of our own making and real processes."""

import mmap
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from profiles import run_info
from recorded import arm, batch, fault, sample

from hotpage.capture.capture import Counters, ProgramCost
from hotpage.capture.events import EVENT_DTYPE, Events, EventSource
from hotpage.capture.target import Target
from hotpage.errors import ProfileError
from hotpage.machine import cgroups
from hotpage.machine.proc import read_stat
from hotpage.machine.processes import Process
from hotpage.machine.procevents import Exec, Exit, Fork, Lost, ProcessEvent
from hotpage.machine.vmas import Vma, read_vmas
from hotpage.profile.inmemory import InMemoryProfile
from hotpage.profile.snapshot import IntervalData, RunEnd, SourceCounts
from hotpage.recording import busy, dirtying, following, mappings, selection
from hotpage.recording import session as recording_session
from hotpage.recording.budget import ArmingAccount
from hotpage.recording.command import Command
from hotpage.recording.selection import Selection
from hotpage.recording.session import Progress, Session


class FakeCapture:
    """A kernel side that says what it is told to."""

    fullest_ring = 0.0

    def __init__(self) -> None:
        self.rungs = {"fault": SimpleNamespace(name="tracepoint")}
        self.targets: set[int] = set()
        self.set_targets: list[Target] = []
        self.batches: list[Events] = []
        self.page_fault_one_in = 1
        self.covered_cpus = 0
        self.emitted = 0
        self.lost = np.zeros(8, np.uint64)
        self.useless = (0, 0)
        self.unwatched = 0.0
        self.missed = 0

    def set_target(self, target: Target) -> None:
        self.set_targets.append(target)
        self.targets = set(target.pids)

    def add_pid(self, pid: int) -> None:
        self.targets.add(pid)

    def remove_pid(self, pid: int) -> None:
        self.targets.discard(pid)

    def target_pids(self) -> set[int]:
        return set(self.targets)

    def read(self) -> Events:
        return self.batches.pop(0) if self.batches else np.empty(0, EVENT_DTYPE)

    def counters(self) -> Counters:
        return Counters(np.zeros(8, np.uint64), self.lost.copy(), np.zeros(8, np.uint64), *self.useless)

    def unwatched_s(self) -> float:
        return self.unwatched

    def cost(self) -> ProgramCost:
        return ProgramCost(0.0, 0)

    def missed_runs(self) -> dict[str, int]:
        return dict.fromkeys(self.rungs, self.missed)

    def attach_new_cpus(self) -> None:
        self.covered_cpus += 1


class FakeProcessEvents:
    rung, reason = "fake", ""

    def __init__(self) -> None:
        self.queue: list[list[ProcessEvent]] = []

    def fileno(self) -> None:
        return None

    def drain(self) -> list[ProcessEvent]:
        return self.queue.pop(0) if self.queue else []

    def close(self) -> None:
        return None


class FakeArming:
    helper_pid = None
    is_arming, pauses = True, False
    notes: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.held: set[int] = set()

    def start(self) -> None:
        return None

    def steer(self) -> None:
        return None

    def hold(self, processes: Sequence[Process]) -> None:
        self.held |= {process.pid for process in processes}


class FakeNodes:
    """A machine without any."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *words: []


class Bench:
    """A session over fakes; ``steps`` run one after the other, one a tick, then it is interrupted."""

    def __init__(self, selection: Selection, budget_percent: float = 50.0) -> None:
        self.capture, self.events = FakeCapture(), FakeProcessEvents()
        self.run = run_info(budget_percent=budget_percent, interval_s=0.25)
        self.sink: Any = InMemoryProfile(self.run)
        self.selection = selection
        self.progress = Progress()
        self.session: Any = None
        self.keep_changes = True
        self.command: Command | None = None
        self.arming: Any = None

    def record(self, steps: Sequence[Callable[[], object]] = (), ticks: int = 0) -> RunEnd:
        todo = [*steps, *[lambda: None] * ticks]
        self.session = Session(
            self.run, self.selection, self.command, self.capture, self.events, FakeNodes(), self.sink,
            ArmingAccount(2.0, 1e-6), self.arming, self.progress, keep_changes=self.keep_changes,
        )  # type: ignore[arg-type]  # fmt: skip

        def next_step() -> str | None:
            if not todo:
                return "interrupted"
            todo.pop(0)()
            return None

        return self.session.run(None, next_step, lambda progress: None)

    def says(self, *events: ProcessEvent) -> Callable[[], None]:
        """A step: the kernel tells of these."""
        return lambda: self.events.queue.append(list(events))


Sleeper = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "1000"]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def pids(bench: Bench, *, ended: bool = False) -> set[int]:
    records = bench.sink.snapshot().processes.values()
    return {record.process.pid for record in records if (record.exited_s is not None) == ended}


def test_forks_and_exits_are_followed(sleeper: Sleeper) -> None:
    first, child = sleeper(), sleeper()
    bench = Bench(Selection(pids=frozenset({first.pid})))
    bench.record([
        bench.says(Fork(child.pid, first.pid, 1)),
        lambda: None,
        lambda: end(child),
        bench.says(Exit(child.pid, 2)),
        lambda: None,
    ])  # fmt: skip
    assert pids(bench) == {first.pid}
    assert pids(bench, ended=True) == {child.pid}
    assert bench.capture.set_targets[-1] == Target.nothing()


def test_pids_of_unseen_children_do_not_stay_targets(sleeper: Sleeper) -> None:
    """The kernel made them targets; they were gone before anybody looked; their pids will be others'."""
    first = sleeper()
    bench = Bench(Selection(pids=frozenset({first.pid})))
    gone, reused = 2**22 - 5, 2**22 - 7
    seen: list[set[int]] = []
    bench.record([
        lambda: bench.capture.targets.update({gone, reused}),
        bench.says(
            Fork(gone, first.pid, 1), Exit(gone, 2), Exit(reused, 3), Fork(reused, first.pid, 4)
        ),
        lambda: None,
        lambda: seen.append(bench.capture.target_pids()),
    ])  # fmt: skip
    assert seen == [{first.pid, reused}]


def test_where_proc_is_compared_children_that_nobody_saw_do_not_stay_targets(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_MEMBERS_PERIOD_S", 0.0)
    first, child = sleeper(), sleeper()
    bench = Bench(Selection(pids=frozenset({first.pid})))
    bench.events.rung = "polling"
    seen: list[set[int]] = []
    bench.record([
        lambda: bench.capture.targets.update({child.pid, 2**22 - 5}),
        lambda: None,
        lambda: seen.append(bench.capture.target_pids()),
    ])  # fmt: skip
    assert seen == [{first.pid, child.pid}]


def test_after_a_loss_of_events_all_is_looked_at_again(sleeper: Sleeper) -> None:
    first, ended, child = sleeper(), sleeper(), sleeper()
    bench = Bench(Selection(pids=frozenset({first.pid, ended.pid})))
    seen: list[set[int]] = []
    bench.record([
        lambda: end(ended),
        # The kernel followed a fork that nobody told of, and one that is over.
        lambda: bench.capture.targets.update({child.pid, 2**22 - 5}),
        bench.says(Lost(1)),
        lambda: None,
        lambda: seen.append(bench.capture.target_pids()),
    ])  # fmt: skip
    assert pids(bench) == {first.pid, child.pid}
    assert pids(bench, ended=True) == {ended.pid}
    assert seen == [{first.pid, child.pid}]


def test_after_a_loss_new_processes_of_a_name_are_found(sleeper: Sleeper) -> None:
    first = sleeper()
    bench = Bench(Selection(comm="sleep"))
    late: list[int] = []
    bench.record([lambda: late.append(sleeper().pid), lambda: None, bench.says(Lost(1)), lambda: None], 2)
    assert {first.pid, *late} <= pids(bench)


def test_the_session_ends_with_its_last_process(sleeper: Sleeper) -> None:
    first = sleeper()
    bench = Bench(Selection(pids=frozenset({first.pid})))
    result = bench.record([lambda: end(first), bench.says(Exit(first.pid, 1))], ticks=1000)
    assert result.status == "target exited"


def test_the_mappings_of_a_process_that_ended_within_the_interval_are_kept(sleeper: Sleeper) -> None:
    first, other = sleeper(), sleeper()
    bench = Bench(Selection(pids=frozenset({first.pid, other.pid})))
    bench.record([lambda: end(first), bench.says(Exit(first.pid, 1))], ticks=2)
    snapshot = bench.sink.snapshot()
    process = next(p for p, record in snapshot.processes.items() if record.process.pid == first.pid)
    assert any(record.vma.kind == "stack" for record in snapshot.vmas[process])


def test_an_exec_makes_another_process_of_it(sleeper: Sleeper) -> None:
    first = sleeper()
    bench = Bench(Selection(pids=frozenset({first.pid})))
    bench.record([bench.says(Exec(first.pid, 1))], ticks=3)
    old, new = sorted(bench.sink.snapshot().processes.items())
    assert old[1].exited_s is not None and new[1].exited_s is None
    assert new[1].previous_index == old[0]


@pytest.fixture
def named(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process called "hp_named", until it is told something: then it is a sleep."""
    script = tmp_path / "hp_named"
    script.write_text("#!/bin/sh\nread line\nexec sleep 1000\n")
    script.chmod(0o755)
    process = subprocess.Popen([script], stdin=subprocess.PIPE, bufsize=0)
    await_comm(process, "hp_named")
    with process:
        yield process
        process.kill()


def await_comm(process: subprocess.Popen[bytes], comm: str) -> None:
    deadline_s = time.monotonic() + 60
    while (stat := read_stat(process.pid)) is None or stat.comm != comm:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def replace_itself(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    await_comm(process, "sleep")


def test_an_exec_into_another_name_leaves_a_selection_by_name(named: subprocess.Popen[bytes]) -> None:
    bench = Bench(Selection(comm="hp_named"))
    bench.record([lambda: replace_itself(named), bench.says(Exec(named.pid, 1))], ticks=3)
    assert pids(bench, ended=True) == {named.pid}
    assert pids(bench) == set()


def test_who_has_another_name_by_now_does_not_come_into_a_selection_by_name(sleeper: Sleeper) -> None:
    """A process with the name has forked, and the child replaced itself before anybody heard of it."""
    child = sleeper()
    bench = Bench(Selection(comm="hp_named"))
    bench.record([lambda: bench.capture.batches.append(fault(7, 1, pid=child.pid))], ticks=3)
    assert not bench.sink.snapshot().processes


def test_what_an_unknown_process_did_before_its_exec_is_past(sleeper: Sleeper) -> None:
    first = sleeper()
    bench = Bench(Selection(everything=True))

    def happen() -> None:
        bench.events.queue.append([Exec(first.pid, 2_000_000)])
        bench.capture.batches.append(batch(fault(7, 1, pid=first.pid), fault(8, 3, pid=first.pid)))

    bench.record([happen], ticks=3)
    assert bench.sink.snapshot().pages.vpn.tolist() == [8]


def test_what_starting_cost_does_not_thin_the_events(sleeper: Sleeper) -> None:
    bench = Bench(Selection(pids=frozenset({sleeper().pid})))
    bench.record(ticks=8)
    assert bench.capture.page_fault_one_in == 1
    assert bench.progress.start_up_cpu_s > 0.2  # this test's imports
    assert bench.progress.own_cpu_s < bench.progress.start_up_cpu_s


def test_processes_that_have_gone_leave_nothing_behind(sleeper: Sleeper) -> None:
    first = sleeper()
    bench = Bench(Selection(pids=frozenset({first.pid})))
    children = [sleeper() for _ in range(5)]
    steps: list[Callable[[], object]] = []
    for child in children:
        steps += [
            bench.says(Fork(child.pid, first.pid, 1)),
            lambda child=child: bench.capture.batches.append(fault(7, 1, pid=child.pid)),
            lambda child=child: end(child),
            bench.says(Exit(child.pid, 2)),
            lambda: None,
        ]
    bench.record(steps, ticks=4)
    session = bench.session
    assert pids(bench, ended=True) == {child.pid for child in children}
    followed = session._processes
    assert len(followed.records) == len(followed.watches) == len(followed.table.all()) == 1
    assert session._observer.table.tracked_pages == 0


def test_a_command_does_not_run_when_its_start_was_interrupted(tmp_path: Path) -> None:
    with Command(["touch", str(tmp_path / "ran")]) as command:
        bench = Bench(Selection(pids=frozenset({command.pid})))
        bench.command = command
        end = bench.record()
    assert (end.status, end.command_exit_status) == ("interrupted", 130)
    assert not (tmp_path / "ran").exists()
    assert not bench.sink.snapshot().processes, "what waited for its release was hotpage"


def test_a_process_that_runs_without_a_fault_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread it has no hint fault before it is held, and it was met by its events only."""
    monkeypatch.setattr(busy, "_ROUND_S", 0.0)
    monkeypatch.setattr(busy, "_AT_ONCE", 1_000_000)
    for arming in (None, FakeArming()):
        bench = Bench(Selection(everything=True))
        bench.arming = arming
        with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as spinning:
            bench.record(ticks=12)
            spinning.kill()
        assert (spinning.pid in pids(bench)) == (arming is not None)
        assert os.getpid() not in pids(bench)
    assert spinning.pid in bench.arming.held


def test_new_cpus_are_looked_for(sleeper: Sleeper) -> None:
    bench = Bench(Selection(pids=frozenset({sleeper().pid})))
    bench.record(ticks=12)
    assert bench.capture.covered_cpus >= 2


def test_events_are_counted_by_source(sleeper: Sleeper) -> None:
    first = sleeper()
    bench = Bench(Selection(pids=frozenset({first.pid})))
    bench.record([lambda: bench.capture.batches.extend([fault(1, 1, pid=first.pid)] * 3)], ticks=3)
    assert bench.progress.received == {"fault": 3}
    assert {s.source: s.received for s in bench.sink.snapshot().usage.sources} == {"fault": 3}
    assert len(bench.sink.snapshot().pages) == 1
    assert EventSource.PAGE_FAULT == 2


def test_what_samples_stand_for_goes_with_their_counts(sleeper: Sleeper) -> None:
    pid = sleeper().pid
    bench = Bench(Selection(pids=frozenset({pid})))
    bench.capture.rungs = {"sample": SimpleNamespace(name="pebs")}
    bench.capture.missed = 40  # before the session

    def lose() -> None:
        bench.capture.lost[EventSource.MEMORY_SAMPLE] += 3
        bench.capture.useless = (5, 7)
        bench.capture.missed += 2
        now_ms = time.monotonic_ns() / 1e6
        bench.capture.batches += [sample(vpn, now_ms, period=100, pid=pid) for vpn in (1, 2)]

    def stand_still() -> None:  # told after both batches have been read
        bench.capture.unwatched = 0.25

    bench.record([lose, *[lambda: None] * 3, stand_still], ticks=3)
    snapshot = bench.sink.snapshot()
    (counts,) = snapshot.usage.sources
    assert counts == SourceCounts(
        "sample", 2, 3, stands_for=200, without_address=5, cache_hits=7, unwatched_s=0.25, missed_runs=2
    )
    assert bench.progress.received == {"sample": 2}
    assert snapshot.pages.vpn.tolist() == [1, 2]
    first, second = snapshot.pages.rate_hz.tolist()
    assert first == pytest.approx(4 * second, rel=0.01), (
        "it stands for the three that were lost before it, too"
    )


class FullDisk(InMemoryProfile):
    closed: RunEnd | None = None

    def interval(self, data: IntervalData) -> None:
        if self._usage.intervals == 2:
            raise ProfileError("no space left")
        super().interval(data)

    def close(self, end: RunEnd) -> None:
        self.closed = end


def test_a_sink_that_fails_ends_the_session(sleeper: Sleeper) -> None:
    bench = Bench(Selection(pids=frozenset({sleeper().pid})))
    bench.sink = FullDisk(bench.run)
    with pytest.raises(ProfileError, match="no space left"):
        bench.record(ticks=1000)
    assert bench.sink.closed is not None and bench.sink.closed.status == "disk full"


def test_several_selections_find_who_joins_later(sleeper: Sleeper) -> None:
    """A process that comes by no fork of a member's, as one that is put into a cgroup."""
    first, later = sleeper(), sleeper()

    class Group(Selection):
        pids_there: ClassVar[set[int]] = set()

        def members(self) -> set[int]:
            return set(self.pids_there)

    bench = Bench(Selection(several=(Selection(pids=frozenset({first.pid})), Group())))
    seen: list[set[int]] = []
    bench.record([
        lambda: seen.append(bench.capture.target_pids()),
        lambda: Group.pids_there.add(later.pid),
        lambda: setattr(bench.session._processes, "_members_s", -1e9),
        lambda: None,
        lambda: seen.append(bench.capture.target_pids()),
        lambda: end(first),
        bench.says(Exit(first.pid, 2)),
        lambda: None,
    ])  # fmt: skip
    assert seen == [{first.pid}, {first.pid, later.pid}]
    assert pids(bench) == {later.pid} and pids(bench, ended=True) == {first.pid}


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that passes for a cgroup; more such can be had with ``make_cgroup``."""
    monkeypatch.setattr(following, "_MEMBERS_PERIOD_S", 0.0)
    monkeypatch.setattr(cgroups, "cgroup_mount", lambda *proc_root: tmp_path)
    monkeypatch.setattr(cgroups, "_ROOT_INODE", tmp_path.stat().st_ino)
    return make_cgroup(tmp_path / "x.service")


def make_cgroup(directory: Path, *members: int) -> Path:
    directory.mkdir()
    (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in members))
    return directory


def test_a_cgroup_that_is_made_anew_is_followed(cgroup: Path, sleeper: Sleeper) -> None:
    member = sleeper()
    bench = Bench(Selection(cgroup=cgroup))
    told: list[list[str]] = []
    bench.record([
        lambda: told.append(list(bench.progress.notes)),
        lambda: cgroup.rename(cgroup.with_name("gone")),
        lambda: None,
        lambda: told.append(list(bench.progress.notes)),
        lambda: make_cgroup(cgroup, member.pid),
        lambda: None,
    ])  # fmt: skip
    first, second, _nothing = bench.capture.set_targets
    assert first.cgroup_id == cgroup.with_name("gone").stat().st_ino
    assert second == Target.cgroup(cgroup.stat().st_ino, 1)
    assert pids(bench) == {member.pid}
    assert told == [[], [f"cgroup {cgroup} is not there: nothing can be seen until it is made again"]]
    assert bench.progress.notes == []


def test_notes_of_arming_and_of_the_cgroup_come_and_go_by_themselves(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(Selection(cgroup=cgroup))
    bench.progress.notes = ["of before"]
    bench.arming = FakeArming()
    lost = f"cgroup {cgroup} is not there: nothing can be seen until it is made again"
    told: list[list[str]] = []

    def tell() -> None:
        told.append(list(bench.progress.notes))

    monkeypatch.setattr(recording_session, "_STEER_PERIOD_S", 0.0)
    bench.record([
        lambda: setattr(bench.arming, "notes", ["first"]),
        lambda: cgroup.rename(cgroup.with_name("gone")),
        tell,
        lambda: setattr(bench.arming, "notes", ["second"]),
        tell,
        lambda: make_cgroup(cgroup),
        tell,
        lambda: setattr(bench.arming, "notes", []),
        tell,
    ])  # fmt: skip
    assert told == [
        ["of before", lost, "first"],
        ["of before", lost, "second"],
        ["of before", "second"],
        ["of before"],
    ]


def test_a_selection_says_names_in_printable_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    strange, escaped = "\udcff\x1b[31m", r"\udcff\x1b[31m"
    monkeypatch.setattr(selection, "read_stat", lambda pid: SimpleNamespace(comm=strange))
    whole = Selection(
        several=(
            Selection(pids=frozenset({1})),
            Selection(comm=strange),
            Selection(cgroup=Path(f"/sys/fs/cgroup/{strange}")),
        )
    )
    assert str(whole) == (
        f"process 1 ({escaped}); processes named {escaped}; cgroup /sys/fs/cgroup/{escaped}"
    )


def test_a_sink_may_read_the_rates_itself(sleeper: Sleeper) -> None:
    first = sleeper()
    bench = Bench(Selection(pids=frozenset({first.pid})))
    found: list[list[int]] = []

    class Reader:
        def interval(self, data: IntervalData) -> None:
            assert len(data.changes) == 0 and data.folios is not None
            found.append(data.folios(0).vpn.tolist())

        def close(self, end: RunEnd) -> None:
            return None

    bench.sink, bench.keep_changes = Reader(), False
    bench.capture.batches = [fault(77, 1.0, pid=first.pid)]
    bench.record(ticks=2)
    assert found[-1] == [77]


@pytest.mark.parametrize(("mode", "slow", "is_armed"), [(2, 1, 0), (2, 0, 1), (3, 1, 1), (0, 1, 1)])
def test_silent_fast_memory_is_not_cold_where_the_kernel_arms_slow_memory_alone(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, mode: int, slow: int, is_armed: int
) -> None:
    """The scan says that it armed the whole range; its pages are on node 0, whatever that is."""
    monkeypatch.setattr(recording_session, "balancing_mode", lambda: mode)
    monkeypatch.setattr(recording_session, "slow_nodes", lambda topology: frozenset({slow}))
    first = sleeper()
    (stack,) = [vma for vma in read_vmas(first.pid) if vma.kind == "stack"]
    start, pages = stack.start >> 12, stack.size_bytes >> 12
    bench = Bench(Selection(pids=frozenset({first.pid})))
    bench.capture.batches = [batch(arm(start, pages, 1.0, pid=first.pid))]
    bench.record(ticks=4)
    bench.capture.batches = [batch(arm(start, pages, 2.0, pid=first.pid))]
    bench.record(ticks=4)
    armed = bench.sink.snapshot().armed.get(0)
    assert bool(armed is not None and len(armed)) == is_armed


def silent_pages(bench: Bench, vma: Vma) -> int:
    """Armed pages of a mapping, of which a scan says that it armed all."""
    start, pages = vma.start >> 12, vma.size_bytes >> 12
    pid = next(iter(bench.selection.pids))
    wait = [lambda: None] * 4
    bench.record([*wait, lambda: bench.capture.batches.append(arm(start, pages, 1.0, pid=pid)), *wait])
    armed = bench.sink.snapshot().armed.get(0)
    return 0 if armed is None else int((armed.end_vpn - armed.start_vpn).sum())


def test_dirty_pages_are_looked_for_after_mappings_were_read(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sleeper()
    (stack,) = [vma for vma in read_vmas(first.pid) if vma.kind == "stack"]
    start = stack.start >> 12
    monkeypatch.setattr(mappings, "may_be_dirty", lambda record: record.vma.kind == "stack")
    monkeypatch.setattr(dirtying, "dirty_ranges", lambda pid, spans: [(start, start + 3)])
    bench = Bench(Selection(pids=frozenset({first.pid})))
    assert silent_pages(bench, stack) == (stack.size_bytes >> 12) - 3


@pytest.mark.parametrize(
    ("release", "walks", "is_armed"),
    [("6.18.1", True, False), ("6.18.1", False, True), ("6.1.0", True, True)],
)
def test_silence_of_files_is_no_evidence_where_one_page_of_a_large_folio_is_seen(
    tmp_path: Path, release: str, walks: bool, is_armed: bool
) -> None:
    bench = Bench(Selection(pids=frozenset({os.getpid()})))
    bench.run = replace(bench.run, kernel_release=release)
    bench.capture.rungs["hint"] = SimpleNamespace(name="any", walks_page_tables=walks)
    with (tmp_path / "mapped").open("w+b") as file:
        file.truncate(8 << 12)
        with mmap.mmap(file.fileno(), 8 << 12):
            (vma,) = [vma for vma in read_vmas(os.getpid()) if vma.name == "mapped"]
            assert silent_pages(bench, vma) == (8 if is_armed else 0)
