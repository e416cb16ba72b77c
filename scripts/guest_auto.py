# SPDX-License-Identifier: Apache-2.0
"""The part of scripts/bench_auto.py that runs in a guest with two tiers: one JSON object on standard output.

    guest_auto.py SEED KIND [METHOD,...]

Fast memory is filled, by a process that holds it locked, until CAPACITY_MIB above the high watermark are left
when the workload begins. Each workload starts with everything on the slow node, so that with nobody to place
its pages no access goes to fast memory; but a sweep starts with as much on the fast node as fits there, and
nothing is left to gain. What counts is known to the
workload, not to whoever places its pages: the share of its accesses that go to pages on the fast node, by the
shares that they were dealt (redis: counted, guest_redis.py), and where the kernel says that they are. The
oracle has the most accessed CAPACITY_MIB there. Moved: /proc/vmstat's pgmigrate_success, of which compaction
has a part, what the kernel migrates at hint faults another, and what it demotes a third.

All on one CPU, which the workload has only while nothing else wants it: an emulated machine's CPUs take
turns. Beside a sweep the same sweep runs with a memory policy of its own, which keeps the kernel from arming
it: what it does in a second of its CPU time, on the same machine at the same time, is what the placed one
would do without hint faults and moves.
What everybody else needs is on the slow node, so that nothing but the workload can give way on the fast one.
"""

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from guest_redis import Redis

from hotpage.exerciser import Exerciser, zipf_shares
from hotpage.machine.cgroups import cgroup_mount, memory_by_node
from hotpage.machine.knobs import NUMA_BALANCING
from hotpage.machine.numa import MovePages, read_watermarks
from hotpage.machine.tiering import TieringCounters

FAST, SLOW = 0, 1
PAGE, MIB = 4096, 1 << 20
WORKLOAD_MIB, CAPACITY_MIB = 96, 24
CAPACITY = CAPACITY_MIB * MIB // PAGE
SLACK_MIB = 2
"""What the kernel may want itself of a node that a sweep has filled."""
CEILING_MIB = 6
"""Of the second of two cgroups: less than what its pages would get by their accesses."""
WORK, SHIFT_WORK = 100, 3000
"""Rounds of arithmetic between two accesses. After a shift nothing but the latencies of a few passes tells
hot pages from cold ones: what a fault costs here, a tenth of a millisecond, must not hide them.
"""
SETTLE_S = {"zipf": 110.0, "shift": 70.0, "sweep": 45.0, "groups": 90.0, "redis": 110.0}
WARM_UP_S, LOOK_S = 3.0, 3.0
METRICS = "127.0.0.1:9753"
_FILL_ROUNDS = 8
BUDGETS = "[budget]\ncpu_percent = 100.0\nplan_percent = 20.0\n"
"""An emulated CPU does a tenth of a real one's work, or less. But a sweep, of which nothing counts but what
it costs to place it, has the budgets of everybody who says nothing else.
"""
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
DEMOTION = Path("/sys/kernel/mm/numa/demotion_enabled")
_SET_MEMPOLICY, _MIGRATE_PAGES = 238, 256  # x86-64
MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND = 0, 1, 2  # linux/mempolicy.h
METHODS = {"zipf": ("kernel", "random", "auto")}
OTHER_METHODS = ("kernel", "auto")
MOVE = MovePages()
AUTO = [sys.executable, "-P", "-m", "hotpage", "auto"]
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def vmstat() -> dict[str, int]:
    """Counters since boot; "demoted" is the sum of all ways to demote."""
    pairs = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(count) for name, count in pairs} | {"demoted": TieringCounters.read().demoted}


class Filler:
    """A process that holds fast memory locked, as much as it is told.

    In small pages: for huge ones the kernel would compact the fast node, which moves as much as the rest.
    """

    CODE = (
        "import ctypes, mmap, sys\n"
        f"assert not ctypes.CDLL(None).syscall({_SET_MEMPOLICY}, {MPOL_BIND},"
        f" ctypes.byref(ctypes.c_ulong(1 << {FAST})), 64)\n"
        "held, size = [], 1 << 20\n"
        "for line in sys.stdin:\n"
        "    while len(held) < int(line):\n"
        "        held.append(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))\n"
        "        held[-1].madvise(mmap.MADV_NOHUGEPAGE)\n"
        "        start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(held[-1])))\n"
        "        assert ctypes.CDLL(None).mlock(start, ctypes.c_size_t(size)) == 0\n"
        "    while len(held) > int(line):\n"
        "        held.pop().close()\n"
        "    print(len(held), flush=True)\n"
    )

    def __init__(self, stack: ExitStack) -> None:
        self._mib = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.enter_context(self._process)
        stack.callback(self._process.kill)

    def leave(self, mib: int) -> float:
        """Hold so much that so many MiB are left above the high watermark; how many are."""
        for _ in range(_FILL_ROUNDS):
            marks = read_watermarks()[FAST]
            surplus = round((marks.available - marks.high) / MIB) - mib
            if not surplus:
                break
            self._mib = max(self._mib + surplus, 0)
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.write(f"{self._mib}\n")
            self._process.stdin.flush()
            assert int(self._process.stdout.readline()) == self._mib
        marks = read_watermarks()[FAST]
        return (marks.available - marks.high) / MIB


def set_policy(mode: int, node: int | None = None) -> None:
    """set_mempolicy(2) of this process."""
    mask = ctypes.c_ulong(0 if node is None else 1 << node)
    if ctypes.CDLL(None).syscall(_SET_MEMPOLICY, mode, ctypes.byref(mask), 64):
        raise OSError("set_mempolicy failed")


def migrate(pid: int, origin: int, destination: int) -> None:
    """migrate_pages(2): all of a process's pages on a node."""
    nodes = (ctypes.byref(ctypes.c_ulong(1 << node)) for node in (origin, destination))
    if ctypes.CDLL(None).syscall(_MIGRATE_PAGES, pid, 64, *nodes) < 0:
        raise OSError("migrate_pages failed")


@contextmanager
def without_policy() -> Iterator[None]:
    """What is started meanwhile may have its memory anywhere."""
    set_policy(MPOL_DEFAULT)
    try:
        yield
    finally:
        set_policy(MPOL_PREFERRED, SLOW)


@dataclass
class Part:
    """A program, in a cgroup of its own or not; its pages that count; how many the oracle has at most."""

    program: Exerciser | Redis
    vpn: npt.NDArray[np.int64]
    cgroup: str | None = None
    ceiling: int = CAPACITY

    @property
    def pid(self) -> int:
        return self.program.pid

    def send(self, number: signal.Signals) -> None:
        if isinstance(self.program, Redis):
            self.program.send(number)  # and to its clients
        else:
            os.kill(self.pid, number)

    def move(self, node: int, pages: int) -> None:
        """The first pages go there; the part is halted."""
        vpn = self.vpn[:pages]
        status = np.empty(vpn.size, np.int32)
        addresses = vpn.astype(np.uint64) * np.uint64(PAGE)
        MOVE(self.pid, addresses, np.full(vpn.size, node, np.int32), status)
        assert (MOVE.query(self.pid, vpn) == node).all()

    def accesses_per_cpu_s(self) -> float:
        """Since it was started."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return self.program.accesses() / (sum(map(int, fields[11:13])) * TICK_S)

    def is_fast(self) -> npt.NDArray[np.bool_]:
        node = MOVE.query(self.pid, self.vpn)
        assert (node >= 0).any(), "the workload has ended"  # a page on its way has no node
        there: npt.NDArray[np.bool_] = node == FAST
        return there


class Workload:
    """Programs on the slow node, and the share of their accesses that fast memory serves."""

    def __init__(self, kind: str, seed: int, stack: ExitStack) -> None:
        self.control: Part | None = None
        if kind == "sweep":
            self.control = _part(kind, seed, WORKLOAD_MIB, stack, is_armed=False)
        if kind == "groups":  # like each other, but for their shares of fast memory
            halves = [("/bench-a", CAPACITY), ("/bench-b", CEILING_MIB * MIB // PAGE)]
            self.parts = [
                _part("zipf", seed + place, WORKLOAD_MIB // 2, stack, *half)
                for place, half in enumerate(halves)
            ]
        elif kind == "redis":
            self.parts = [_redis_part(seed, stack)]
        else:
            self.parts = [_part(kind, seed, WORKLOAD_MIB, stack)]

    @property
    def pids(self) -> list[int]:
        return [part.pid for part in self.parts]

    def send(self, number: signal.Signals) -> None:
        for part in [*self.parts, *([self.control] if self.control else [])]:
            part.send(number)

    def shift(self) -> None:
        for part in self.parts:
            assert isinstance(part.program, Exerciser)
            part.program.shift()

    def accesses(self) -> int:
        return sum(part.program.accesses() for part in self.parts)

    def fast_share(self) -> float:
        shares = [float(part.program.page_shares[part.is_fast()].sum()) for part in self.parts]
        return sum(shares) / len(shares)

    @property
    def oracle_share(self) -> float:
        best = [np.sort(part.program.page_shares)[::-1][: part.ceiling] for part in self.parts]
        return float(np.sort(np.concatenate(best))[::-1][:CAPACITY].sum()) / len(best)

    def to_best_of_as_many(self) -> float:
        """The fast share to what it would be if the most accessed pages, as many of each part, were there."""
        counts = [int(part.is_fast().sum()) for part in self.parts]
        best = [
            np.sort(part.program.page_shares)[::-1][:count].sum()
            for part, count in zip(self.parts, counts, strict=True)
        ]
        return self.fast_share() * len(best) / float(sum(best)) if any(counts) else 0.0

    def targets(self) -> str:
        """The part of the configuration that names them.

        A cgroup has more memory than what counts, like the table that its exerciser draws from, and some
        of that was there before: it does not use the ceiling up.
        """
        text = ""
        for part in self.parts:
            if part.cgroup is None:
                return f"[targets]\npids = {self.pids}\n"
            there = (memory_by_node(part.cgroup) or {}).get(FAST, 0)
            print(f"{part.cgroup}: {there / MIB:.1f} MiB on the fast node before", file=sys.stderr)
            ceiling = part.ceiling * PAGE + there
            text += f'[[targets.cgroups]]\npath = "{part.cgroup}"\nceiling = {ceiling}\n'
        return text


def _part(
    kind: str,
    seed: int,
    mib: int,
    stack: ExitStack,
    cgroup: str | None = None,
    ceiling: int = CAPACITY,
    *,
    is_armed: bool = True,
) -> Part:
    """A part of a workload, halted, on the slow node."""
    pages = mib * MIB // PAGE
    work = SHIFT_WORK if kind == "shift" else WORK
    more: dict[str, Any] = {"pattern": "sweep"} if kind == "sweep" else {}
    if kind == "zipf":
        more["page_shares"] = zipf_shares(pages, seed=seed)
    if kind == "shift":  # a hot set as large as what fits
        more |= {"hot_fraction": CAPACITY_MIB / mib, "shift_pages": pages // 2, "seed": seed}
    # Memory counts for the cgroup in which it was touched first, and is not armed under a policy of its own.
    with _inside(cgroup), without_policy() if is_armed else nullcontext():
        exerciser = Exerciser.start(mib=mib, threads=2, work=work, **more)
    stack.callback(exerciser.stop)
    part = Part(exerciser, exerciser.base // PAGE + np.arange(pages, dtype=np.int64), cgroup, ceiling)
    part.send(signal.SIGSTOP)
    give_way(part.pid)
    part.move(SLOW, part.vpn.size)
    return part


def _redis_part(seed: int, stack: ExitStack) -> Part:
    """As _part, but everything of the server is on the slow node, not only what counts."""
    with without_policy():
        redis = Redis(WORKLOAD_MIB, seed)
    stack.callback(redis.stop)
    redis.load()
    for pid in redis.pids:
        give_way(pid)
    migrate(redis.pid, FAST, SLOW)
    part = Part(redis, redis.vpn)
    part.move(SLOW, part.vpn.size)
    return part


def give_way(pid: int) -> None:
    """Run it only while nothing else wants a CPU."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


@contextmanager
def _inside(cgroup: str | None) -> Iterator[None]:
    """What is started meanwhile belongs to that cgroup."""
    if cgroup is None:
        yield
        return
    mount = cgroup_mount()
    (mount / "cgroup.subtree_control").write_text("+memory")
    directory = mount / cgroup.lstrip("/")
    directory.mkdir(exist_ok=True)
    (directory / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (mount / "cgroup.procs").write_text(str(os.getpid()))


@contextmanager
def placed_by(method: str, workload: Workload, directory: Path) -> Iterator[None]:
    """Have the workload's pages placed by this method meanwhile; the workload is halted until it begins."""
    if method == "kernel":
        before = NUMA_BALANCING.read_text(), DEMOTION.read_text()
        DEMOTION.write_text("1")
        NUMA_BALANCING.write_text("2")
        try:
            yield
        finally:
            NUMA_BALANCING.write_text(before[0])
            DEMOTION.write_text(before[1])
        return
    config = directory / f"{method}.toml"
    config.write_text(
        f'state_dir = "{directory / method}-{workload.pids[0]}"\n'
        f"{workload.targets()}"
        f"{BUDGETS if workload.control is None else ''}"
        # 50 MiB, the least that is kept free otherwise, are twice of what there is; the kernel keeps none.
        "[placement]\nheadroom_percent = 0.0\n"
        f'policy = "{"fit" if method == "auto" else method}"\n[metrics]\naddress = "{METRICS}"\n'
    )
    with subprocess.Popen(
        [*AUTO, "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
    ) as service:
        assert service.stdout is not None
        while " moves pages of " not in (line := service.stdout.readline()):
            assert line, "hotpage auto did not start: its words are above"
        log = subprocess.Popen(["sed", f"s/^/{method}: /"], stdin=service.stdout, stdout=sys.stderr)
        try:
            yield
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait()
            log.wait()


class Look(NamedTuple):
    """``seconds`` since the first look; the share of hotpage's own moves that bounced in the last minute."""

    seconds: float
    fast_share: float
    bounce_share: float


def watch(workload: Workload, seconds: float) -> list[Look]:
    """A look every ``LOOK_S``."""
    begun_s, seen = time.monotonic(), []
    while (now_s := time.monotonic() - begun_s) < seconds:
        seen.append(Look(now_s, workload.fast_share(), bounce_share()))
        time.sleep(LOOK_S)
    print("fast share:", *(f"{one.seconds:.0f}s {one.fast_share:.3f}" for one in seen), file=sys.stderr)
    return seen


def bounce_share() -> float:
    """As the service says; 0 without one, or without moves."""
    try:
        with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0.0
    share = next(float(line.split()[1]) for line in lines if line.startswith("hotpage_bounce_ratio "))
    return 0.0 if math.isnan(share) else share


def reached_s(seen: list[Look], share: float) -> float:
    """When the fast share came to so much for the first time; the whole time if it never did."""
    return next((one.seconds for one in seen if one.fast_share >= share), seen[-1].seconds)


def measure(kind: str, method: str, seed: int, directory: Path, filler: Filler) -> dict[str, float]:
    with ExitStack() as stack:
        workload = Workload(kind, seed, stack)
        workload.send(signal.SIGCONT)  # what the kernel needs for it, it takes now
        time.sleep(WARM_UP_S)
        workload.send(signal.SIGSTOP)
        room_mib = CAPACITY_MIB
        if kind == "sweep":
            filler.leave(CAPACITY_MIB)
            workload.parts[0].move(FAST, CAPACITY)
            room_mib = SLACK_MIB
        with placed_by(method, workload, directory):
            time.sleep(WARM_UP_S)  # for what starting it has taken and gives back
            DROP_CACHES.write_text("3")  # else pages used more than once come free as they grow old
            figures = {"room_mib": filler.leave(room_mib)}
            before, accesses, begun_s = vmstat(), workload.accesses(), time.monotonic()
            workload.send(signal.SIGCONT)
            looks = seen = watch(workload, SETTLE_S[kind])
            figures["first_s"] = reached_s(seen, 0.95 * workload.oracle_share)
            if kind == "shift":
                workload.shift()
                seen = watch(workload, SETTLE_S[kind])
                looks = looks + seen
            workload.send(signal.SIGSTOP)  # numbers of one moment; and numa_balancing is switched next
            figures["accesses_per_s"] = (workload.accesses() - accesses) / (time.monotonic() - begun_s)
            since = {name: (count - before[name]) * PAGE / MIB for name, count in vmstat().items()}
            figures["moved_mib"] = since["pgmigrate_success"]
            figures["moved_at_faults_mib"] = since["numa_pages_migrated"]
            figures["demoted_mib"] = since["demoted"]
            figures["compacted_mib"] = since["compact_isolated"] / 2  # isolated are where from and where to
            figures["fast_share"] = workload.fast_share()
            figures["oracle_share"] = workload.oracle_share
            figures["to_best_of_as_many"] = workload.to_best_of_as_many()
            for part in workload.parts:
                name = (part.cgroup or "").replace("/bench-", "_")
                figures[f"on_fast{name}_mib"] = float(part.is_fast().sum()) * PAGE / MIB
            marks = read_watermarks()[FAST]
            figures["room_left_mib"] = (marks.available - marks.high) / MIB
            if method == "auto":
                figures["bounce_share"] = max(one.bounce_share for one in looks)
            if workload.control is not None:
                placed = workload.parts[0].accesses_per_cpu_s()
                figures["throughput_to_control"] = placed / workload.control.accesses_per_cpu_s()
            if kind == "shift":
                figures["back_s"] = reached_s(seen, 0.95 * figures["fast_share"])
        return {name: round(value, 4) for name, value in figures.items()}


def main() -> None:
    seed, kind = int(sys.argv[1]), sys.argv[2]
    methods = sys.argv[3].split(",") if len(sys.argv) > 3 else METHODS.get(kind, OTHER_METHODS)
    numbers: dict[str, Any] = {"kernel_release": os.uname().release}
    NUMA_BALANCING.write_text("0")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        filler = Filler(stack)
        for method in methods:
            numbers[method] = measure(kind, method, seed, Path(directory), filler)
            print(kind, method, numbers[method], file=sys.stderr, flush=True)
            filler.leave(2 * WORKLOAD_MIB)
    print(json.dumps(numbers))


def begin() -> None:
    """On the slow node, this interpreter included, and on one CPU."""
    if "on-slow-node" in sys.argv:
        sys.argv.remove("on-slow-node")
        main()
        return
    os.sched_setaffinity(0, {0})
    set_policy(MPOL_PREFERRED, SLOW)
    os.execv(sys.executable, [sys.executable, *sys.argv, "on-slow-node"])


if __name__ == "__main__":
    begin()
