# SPDX-License-Identifier: Apache-2.0
"""The move_pages mover on real nodes: every requested page is accounted for, whatever stands in its way.

The truth is asked for separately: numa_maps, and move_pages in query mode by a call of the test's own.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from movetarget import HUGE, PAGE, PAGES
from moving import FAST, SLOW, Target, filled

from hotpage.machine.folios import huge_blocks
from hotpage.machine.knobs import KnobSession
from hotpage.machine.numa import MovePages, hides_armed_pages
from hotpage.machine.proc import read_stat
from hotpage.machine.tiering import ARMING_ONLY, PROMOTE_RATE_LIMIT, hold_promotion
from hotpage.placement.movers.dry_run import DryRunMover
from hotpage.placement.movers.move_pages import MovePagesMover
from hotpage.placement.movers.whereabouts import Whereabouts
from hotpage.placement.outcome import Outcome
from hotpage.placement.plan import Move, Plan, ProcessFacts

pytestmark = pytest.mark.guest(topology="small-dram", limit_s=600.0)
# What hotpage decides by itself, of a room and of who a process is.
ON_ONE_KERNEL = pytest.mark.guest(topology="small-dram", kernels=("7.3",), limit_s=600.0)

_DEADLINE_S = 120.0


@pytest.fixture
def target() -> Iterator[Target]:
    one = Target(SLOW)
    yield one
    one.end()


def plan_of(vpn: Sequence[int] | np.ndarray, target: int = FAST, pages: int = 1) -> Plan:
    vpns = np.asarray(vpn, np.int64)
    sizes = np.full(vpns.size, pages, np.int32)
    source = SLOW if target == FAST else FAST
    return Plan("test", (Move(0, source, target, target == FAST, "", vpns, sizes, 1.0, 1.0, 1.0),), {})


def pages_by_result(outcome: Outcome) -> dict[str, int]:
    counts = {kind.name: count // PAGE for kind, count in outcome.bytes_by_result().items()}
    assert sum(counts.values()) == outcome.requested_bytes // PAGE
    return counts


def run(target: Target, plan: Plan, facts: ProcessFacts | None = None, **more: object) -> dict[str, int]:
    outcome = MovePagesMover(**more).run(plan, {0: facts or target.facts()})  # type: ignore[arg-type]
    return pages_by_result(outcome)


def test_pages_move_there_and_back_and_keep_what_they_hold(target: Target) -> None:
    assert target.pages_on(SLOW) == PAGES
    dry = DryRunMover().run(plan_of(target.vpn), {0: target.facts()})
    assert pages_by_result(dry) == {"PLANNED": PAGES}
    assert target.pages_on(SLOW) == PAGES
    assert run(target, plan_of(target.vpn)) == {"MOVED": PAGES}
    assert target.pages_on(FAST) == PAGES
    assert target.tell("read") == "0"
    assert run(target, plan_of(target.vpn)) == {"ALREADY": PAGES}
    assert run(target, plan_of(target.vpn[:700], SLOW)) == {"MOVED": 700}
    assert target.pages_on(SLOW) == 700
    assert target.tell("read") == "0"


def test_pages_that_are_not_there(target: Target) -> None:
    beyond = target.vpn[-1] + 1 + np.arange(1 << 20, (1 << 20) + 5)
    vpns = np.concatenate((target.vpn[:10], beyond))
    assert run(target, plan_of(vpns)) == {"MOVED": 10, "NOT_PRESENT": 5}


def test_pinned_pages_stay_and_cost_only_themselves(target: Target) -> None:
    target.tell("pin", 100, 3)
    target.tell("pin", 1500, 2)
    assert run(target, plan_of(target.vpn)) == {"MOVED": PAGES - 5, "PINNED": 5}
    assert (target.pages_on(FAST), target.pages_on(SLOW)) == (PAGES - 5, 5)


def test_shared_pages_stay(target: Target) -> None:
    target.tell("fork")
    counts = run(target, plan_of(target.vpn))
    # Pages that it has written since are its own again.
    assert counts["SHARED"] + counts.get("MOVED", 0) == PAGES
    assert counts["SHARED"] > PAGES - 50
    assert target.pages_on(FAST) == counts.get("MOVED", 0)


def test_armed_pages(target: Target) -> None:
    """The kernels that hide them from move_pages say so, pages and all; the others move them."""
    target.tell("arm", 0, 500)
    dry = pages_by_result(DryRunMover().run(plan_of(target.vpn), {0: target.facts()}))
    counts = run(target, plan_of(target.vpn))
    assert dry["PLANNED"] == counts["MOVED"] and dry.get("ARMED") == counts.get("ARMED")
    if hides_armed_pages(MovePages()):
        assert counts == {"MOVED": PAGES - 500, "ARMED": 500}
    else:
        assert counts == {"MOVED": PAGES}
    assert target.pages_on(FAST) == counts["MOVED"]
    target.tell("disarm")
    rest = run(target, plan_of(target.vpn))
    assert rest.get("MOVED", 0) + rest["ALREADY"] == PAGES
    assert target.pages_on(FAST) == PAGES
    assert target.tell("read") == "0"


def test_only_old_kernels_hide_armed_pages(machine: object) -> None:
    assert hides_armed_pages(MovePages()) == (machine.kernel == "6.1")  # type: ignore[attr-defined]


def test_pages_armed_by_the_kernel_itself(target: Target) -> None:
    """Real NUMA balancing, of a process that does not touch its memory: what is armed stays armed."""
    knob = Path("/proc/sys/kernel/numa_balancing")
    before = knob.read_text()
    knob.write_text("1")
    try:
        time.sleep(1.0)
    finally:
        knob.write_text(before)
    counts = run(target, plan_of(target.vpn))
    assert counts.get("MOVED", 0) + counts.get("ARMED", 0) + counts.get("ALREADY", 0) == PAGES


def test_a_huge_page_is_one_entry_and_stays_huge(target: Target) -> None:
    first = int(target.tell("huge"))
    blocks = np.array([first // HUGE, first // HUGE + 1], np.int64)
    assert huge_blocks(target.pid, blocks).all()
    outcome = MovePagesMover().run(plan_of(blocks * 512, pages=512), {0: target.facts()})
    assert pages_by_result(outcome) == {"MOVED": 1024}
    assert huge_blocks(target.pid, blocks).all()
    assert (MovePages().query(target.pid, np.arange(first // PAGE, first // PAGE + 1024)) == FAST).all()
    small = int(target.vpn[0]) // 512 + 1
    assert not huge_blocks(target.pid, np.array([small], np.int64)).any()


@ON_ONE_KERNEL
def test_no_more_is_asked_for_than_there_is_room(target: Target) -> None:
    asked: list[int] = []

    def room_bytes(node: int) -> float:
        asked.append(node)
        return 300 * PAGE if len(asked) == 1 else 0

    limited = MovePagesMover(room_bytes=room_bytes)
    counts = pages_by_result(limited.run(plan_of(target.vpn), {0: target.facts()}))
    assert counts == {"MOVED": 300, "NO_ROOM": PAGES - 300}


def test_a_really_full_node() -> None:
    """The fast node is filled but for a few MiB and some page cache, and 128 MiB are to go there."""
    pages = 32768
    target = Target(SLOW, pages=pages)
    try:
        with filled(FAST):
            counts = run(target, plan_of(target.vpn))
            on_fast = target.pages_on(FAST)
    finally:
        target.end()
    assert counts["NO_ROOM"] > 0
    assert sum(counts.values()) == pages
    # The kernel is short of memory: it may have a page in hand just when it is asked where that is.
    between = pages - counts.get("MOVED", 0) - counts["NO_ROOM"]
    assert between <= pages // 100, counts
    assert 0 <= on_fast - counts.get("MOVED", 0) <= between


def test_a_node_that_the_cpuset_forbids() -> None:
    group = Path("/sys/fs/cgroup/forbidden")
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+cpuset")
    group.mkdir(exist_ok=True)
    (group / "cpuset.mems").write_text(str(SLOW))
    target = Target(SLOW, preexec=f"echo $$ >{group}/cgroup.procs")
    try:
        assert run(target, plan_of(target.vpn)) == {"FORBIDDEN": PAGES}
        assert target.pages_on(SLOW) == PAGES
    finally:
        target.end()
        deadline = time.monotonic() + _DEADLINE_S
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        group.rmdir()


def test_a_node_that_does_not_exist(target: Target) -> None:
    assert run(target, plan_of(target.vpn, target=FAST)) == {"MOVED": PAGES}
    move = plan_of(target.vpn, target=SLOW).moves[0]
    nowhere = Move(0, FAST, 5, False, "", move.vpn, move.pages, 1.0, 1.0, 1.0)
    assert run(target, Plan("test", (nowhere,), {})) == {"NO_NODE": PAGES}


def test_a_target_that_ends_between_calls(target: Target) -> None:
    """Every page is accounted for although the process goes while its pages move."""
    facts = target.facts()

    class Killer(MovePages):
        calls = 0

        def __call__(self, *arguments: object) -> int:  # type: ignore[override]
            self.calls += 1
            if arguments[2] is not None and self.calls > 3:
                target.kill()
            return super().__call__(*arguments)  # type: ignore[arg-type]

    counts = run(target, plan_of(target.vpn), facts, where=replace(Whereabouts.here(), kernel=Killer()))
    assert sum(counts.values()) == PAGES
    assert set(counts) <= {"MOVED", "GONE", "PINNED", "NOT_PRESENT"}, counts


def test_a_target_that_ends_in_mid_call(target: Target) -> None:
    facts = target.facts()
    killer = threading.Timer(0.02, target.kill)
    killer.start()
    counts = run(target, plan_of(target.vpn), facts)
    killer.join()
    assert sum(counts.values()) == PAGES
    assert set(counts) <= {"MOVED", "GONE", "PINNED", "NOT_PRESENT"}, counts


@ON_ONE_KERNEL
def test_another_process_of_that_pid_is_not_touched(target: Target) -> None:
    """As after the pid was reused: the start time is another one."""
    facts = target.facts()
    stranger = ProcessFacts(facts.pid, facts.start_time_ticks - 1, facts.image, "", "/", frozenset({0, 1}))
    assert run(target, plan_of(target.vpn), stranger) == {"GONE": PAGES}
    assert target.pages_on(SLOW) == PAGES


def with_pid(pid: int) -> Target:
    """A target of that pid, where any process could be that was forked last."""
    for _ in range(20):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        target = Target(SLOW, preexec=SAME_ADDRESSES)
        if target.pid == pid:
            return target
        target.end()
    raise AssertionError(f"no process gets pid {pid}")


SAME_ADDRESSES = 'set -- setarch -R "$@"'


@ON_ONE_KERNEL
def test_the_pid_of_a_target_is_another_process_s_before_the_move() -> None:
    gone = Target(SLOW, preexec=SAME_ADDRESSES)
    facts = gone.facts()
    gone.end()
    stranger = with_pid(gone.pid)
    try:
        assert stranger.address == gone.address
        assert run(stranger, plan_of(stranger.vpn), facts) == {"GONE": PAGES}
        assert stranger.pages_on(SLOW) == PAGES
    finally:
        stranger.end()


@ON_ONE_KERNEL
def test_the_pid_of_a_target_becomes_another_process_s_between_calls() -> None:
    """What had moved before counts; of the stranger, with memory at the same addresses, nothing moves."""
    gone = Target(SLOW, preexec=SAME_ADDRESSES)
    facts = gone.facts()
    strangers: list[Target] = []

    class Replacer(MovePages):
        moved = 0

        def __call__(self, *arguments: object) -> int:  # type: ignore[override]
            result = super().__call__(*arguments)  # type: ignore[arg-type]
            if arguments[2] is not None and not strangers:
                self.moved = int((arguments[3] == FAST).sum())  # type: ignore[attr-defined]
                gone.end()
                strangers.append(with_pid(gone.pid))
            return result

    kernel = Replacer()
    try:
        counts = run(gone, plan_of(gone.vpn), facts, where=replace(Whereabouts.here(), kernel=kernel))
        assert strangers[0].address == gone.address
        # Of the call in whose course the process changed nothing is believed.
        assert 0 < kernel.moved < PAGES and counts == {"GONE": PAGES}
        assert strangers[0].pages_on(SLOW) == PAGES
    finally:
        gone.end()
        for stranger in strangers:
            stranger.end()


@ON_ONE_KERNEL
def test_a_program_that_became_another_is_not_touched(target: Target) -> None:
    facts = target.facts()
    target.tell("exec")
    deadline = time.monotonic() + _DEADLINE_S
    while (stat := read_stat(target.pid)) is not None and stat.comm != "sleep":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert run(target, plan_of(target.vpn), facts) == {"GONE": PAGES}


def vmstat(name: str) -> int:
    words = Path("/proc/vmstat").read_text().split()
    return int(words[words.index(name) + 1])


MOVED = "numa_pages_migrated", "pgpromote_success"


# Linux 6.1 has both nodes in one tier of its own here: it migrates as between sockets.
@pytest.mark.guest(topology="small-dram", kernels=("6.12", "7.3"), limit_s=600.0)
def test_the_kernel_promotes_nothing_while_it_is_held(target: Target, tmp_path: Path) -> None:
    """Hint faults go on, no page migrates, and everything is as before afterwards."""
    balancing = Path("/proc/sys/kernel/numa_balancing")
    before = PROMOTE_RATE_LIMIT.read_text(), balancing.read_text()
    try:
        balancing.write_text("1")
        with KnobSession(tmp_path) as knobs:
            assert not hold_promotion(knobs), "the tiering bit could not be taken back without harm"
        assert (balancing.read_text(), PROMOTE_RATE_LIMIT.read_text()) == ("1\n", before[0])
        balancing.write_text("0")
        assert run(target, plan_of(target.vpn, SLOW)) == {"ALREADY": PAGES}
        with KnobSession(tmp_path) as knobs:
            assert hold_promotion(knobs)
            assert balancing.read_text() == "0\n", "what is off stays off"
            target.tell("touch")
            faults, moved = vmstat("numa_hint_faults"), [vmstat(name) for name in MOVED]
            balancing.write_text(str(ARMING_ONLY))
            deadline = time.monotonic() + _DEADLINE_S
            while vmstat("numa_hint_faults") < faults + 2 * PAGES:
                assert time.monotonic() < deadline, "hardly any hint faults"
                time.sleep(0.5)
            assert [vmstat(name) for name in MOVED] == moved
            balancing.write_text("0")
        assert PROMOTE_RATE_LIMIT.read_text() == before[0]
        # Not held, the same kernel promotes the same pages.
        balancing.write_text("2")
        deadline = time.monotonic() + _DEADLINE_S
        while vmstat("pgpromote_success") == moved[1]:
            assert time.monotonic() < deadline, "nothing is promoted"
            time.sleep(0.5)
    finally:
        balancing.write_text(before[1])
