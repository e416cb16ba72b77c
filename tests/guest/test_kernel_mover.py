# SPDX-License-Identifier: Apache-2.0
"""``hotpage move --mover kernel`` on real nodes: the kernel moves, every page has a result, knobs go back.

The truth is asked for separately: by a move_pages call of the tests' own, and the kernel's own counters.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from movetarget import PAGE
from moving import FAST, SLOW, Target, assert_accounted, move, run_move, write_profile
from toucher import stop
from workload import nodes_of

from hotpage.machine.knobs import NUMA_BALANCING
from hotpage.machine.tiering import PROMOTE_RATE_LIMIT

# Linux 6.1 has both nodes in one tier of its own here.
pytestmark = pytest.mark.guest(topology="small-dram", kernels=("6.12", "7.3"), limit_s=600.0)

PAGES = 4096
MANY_PAGES = 65536
"""As much as others have on the fast node, or more: a node that is told to reclaim chooses of all."""
_DEADLINE_S = 240.0
KNOBS = (
    NUMA_BALANCING,
    PROMOTE_RATE_LIMIT,
    Path("/sys/kernel/mm/numa/demotion_enabled"),
    Path("/sys/kernel/debug/sched/numa_balancing/hot_threshold_ms"),
)
GROUP = Path("/sys/fs/cgroup/kernelmover")
NODE_RECLAIM = Path(f"/sys/devices/system/node/node{FAST}/reclaim")


def settings() -> dict[Path, str]:
    return {knob: knob.read_text() for knob in KNOBS if knob.exists()}


@contextlib.contextmanager
def promoting(profile: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """``hotpage move`` at the point from which on the kernel promotes, for so long."""
    limit = PROMOTE_RATE_LIMIT.read_text()
    command = [sys.executable, "-m", "hotpage", "move", "-i", str(profile), "--json", "--promote"]
    command += ["--mover", "kernel", "-d", str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + _DEADLINE_S
    try:
        while PROMOTE_RATE_LIMIT.read_text() in (limit, "0\n"):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        assert int(NUMA_BALANCING.read_text()) & 2
        yield process
    finally:
        process.kill()


@pytest.fixture(autouse=True)
def knobs_are_restored() -> Iterator[dict[Path, str]]:
    """What is set before a test is set after it."""
    balancing = NUMA_BALANCING.read_text()
    NUMA_BALANCING.write_text("0")  # else it promotes what a test wants to see promoted
    before = settings()
    assert {NUMA_BALANCING, PROMOTE_RATE_LIMIT} <= before.keys()
    yield before
    after = settings()
    NUMA_BALANCING.write_text(balancing)
    assert after == before


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup whose memory can be reclaimed by itself, for kernels without nodeX/reclaim."""
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
    GROUP.mkdir(exist_ok=True)
    yield GROUP
    deadline = time.monotonic() + _DEADLINE_S
    while (GROUP / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    GROUP.rmdir()


@pytest.fixture
def on_slow(group: Path) -> Iterator[Target]:
    target = Target(SLOW, f"echo $$ >{group}/cgroup.procs", PAGES)
    yield target
    target.end()


@pytest.fixture
def on_fast(group: Path, elders: list[subprocess.Popen[str]]) -> Iterator[Target]:
    pages = MANY_PAGES if NODE_RECLAIM.exists() else PAGES  # a cgroup has no others
    target = Target(FAST, f"echo $$ >{group}/cgroup.procs", pages, elders.pop())
    yield target
    target.end()


def pages_on(target: Target, node: int) -> int:
    """Of its memory; numa_maps is of no use, for mappings of the touching thread join this one."""
    return int((nodes_of(target.pid, target.address, target.vpn.size) == node).sum())


def vmstat(prefix: str) -> int:
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return sum(int(count) for name, count in lines if name.startswith(prefix))


@pytest.mark.guest(topology="small-dram", kernels=("7.3",), limit_s=600.0)  # 6.12 promotes as 7.3 does
def test_it_promotes_what_is_accessed(on_slow: Target, tmp_path: Path) -> None:
    profile = write_profile(on_slow, tmp_path / "profile", lambda page: 1000.0)
    on_slow.tell("touch")
    stop(on_slow.pid)  # until the kernel promotes it would only take half of the emulated processor
    before = vmstat("pgpromote_success")
    with promoting(profile, 15) as mover:
        os.kill(on_slow.pid, signal.SIGCONT)
        output, said = mover.communicate(timeout=_DEADLINE_S)
    promoted = vmstat("pgpromote_success") - before
    assert (mover.returncode, said) == (0, "")
    document = json.loads(output)
    assert_accounted(document)
    moved = document["result"]["moved_bytes"]
    assert document["planned_bytes"] == PAGES * PAGE
    assert 0 < moved <= promoted * PAGE
    assert moved <= pages_on(on_slow, FAST) * PAGE, "what was armed then may have gone up since"
    by_result = document["result"]["bytes"]
    assert set(by_result) <= {"moved", "left", "not_present"}
    assert by_result.get("not_present", 0) <= 0.02 * PAGES * PAGE, (
        "some were on their way when the kernel was asked"
    )
    assert " meanwhile, of all processes" in document["result"]["notes"][-1]


def test_it_demotes_what_is_not(on_fast: Target, tmp_path: Path) -> None:
    profile = write_profile(on_fast, tmp_path / "profile", lambda page: 0.01)
    on_fast.await_age(31.0)
    Path("/proc/sys/vm/drop_caches").write_text("1")  # what else is old goes first
    before = vmstat("pgdemote_")
    status, document, said = move(profile, "--demote", "--hot", "1000/s", "--mover", "kernel")
    demoted = vmstat("pgdemote_") - before
    moved = document["result"]["moved_bytes"]
    assert document["planned_bytes"] == on_fast.vpn.size * PAGE
    assert moved <= demoted * PAGE and demoted > 0
    assert status == (0 if moved else 1), said
    # Of a cgroup nothing else could go; of a node that is told to reclaim, other processes' pages may.
    assert moved or NODE_RECLAIM.exists()
    assert moved == pages_on(on_fast, SLOW) * PAGE
    assert set(document["result"]["bytes"]) <= {"moved", "left"}
    assert on_fast.tell("read") == "0"


# Nothing but hotpage's own end is in it.
@pytest.mark.guest(topology="small-dram", kernels=("7.3",), limit_s=600.0)
def test_a_signal_ends_it_and_restores_everything(on_slow: Target, tmp_path: Path) -> None:
    """Nobody accesses the pages, so it would wait for all of its time; they are left."""
    profile = write_profile(on_slow, tmp_path / "profile", lambda page: 1000.0)
    with promoting(profile, 10000) as mover:
        mover.terminate()
        output, said = mover.communicate(timeout=_DEADLINE_S)
    assert mover.returncode == 1 and "hotpage: nothing was moved: " in said
    document = json.loads(output)
    assert_accounted(document)
    assert document["result"]["bytes"] == {"left": PAGES * PAGE}
    assert pages_on(on_slow, SLOW) == PAGES


@pytest.mark.guest(topology="small-dram", kernels=("6.1",), limit_s=600.0)
@pytest.mark.parametrize("way", ["--promote", "--demote"])
def test_a_kernel_that_sees_one_tier_refuses(
    way: str, elders: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    target = Target(SLOW if way == "--promote" else FAST, pages=PAGES, shell=elders.pop())
    try:
        profile = write_profile(target, tmp_path / "profile", lambda page: 1000.0)
        if way == "--demote":
            target.await_age(31.0)
        hot = "1000/s" if way == "--promote" else "5000/s"
        done = run_move(profile, way, "--hot", hot, "--mover", "kernel")
        assert done.returncode == 1, done.stderr
        verb = way.removeprefix("--") + "s"
        refusal = f"the kernel sees one memory tier, so it {verb} nothing itself: use --mover move_pages"
        assert done.stderr == f"hotpage: {refusal}\n"
        assert f"{PAGES * PAGE >> 20}M to move" in done.stdout, "the plan is there"
        assert target.pages_on(FAST) == (0 if way == "--promote" else PAGES)
    finally:
        target.end()
