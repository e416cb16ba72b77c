# SPDX-License-Identifier: Apache-2.0
"""A session over a cgroup that has everything: mappings of each kind, and processes that come and go.

It ends with a SIGKILL. What was seen until then can be read, and ``restore`` puts everything else right.
"""

import ast
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from recordings import HOTPAGE, Recording
from toucher import Toucher, loaded_programs, stop, wait_for
from workload import BALANCING, SCAN_KNOBS, await_passes, halted, set_scan_period

from hotpage.machine.cgroups import cgroup_mount
from hotpage.machine.proc import read_stat
from hotpage.machine.processes import children_of
from hotpage.machine.tiering import ARMING_ONLY, PROMOTE_RATE_LIMIT
from hotpage.profile.summary import Heat, summarise

pytestmark = [pytest.mark.needs("bcc"), pytest.mark.guest(topology="cxl")]

SIZE = 4 << 20
CHILDREN = 300
ARMS_SHARED_MEMORY = ("7.3",)
"""And private mappings of files in tmpfs; the others do not."""

# A thread that reads every page of each mapping, over and over, and a child that reads one that they share.
# Prints where each mapping is; then, for every line on its input, so many processes that end at once.
_ZOO = r"""
import ctypes, mmap, os, subprocess, sys, tempfile, threading, time
SIZE = int(sys.argv[1])
def address(memory):
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
private = mmap.MAP_PRIVATE
file = tempfile.TemporaryFile(dir="/tmp")
file.truncate(SIZE)
regions = {
    "anonymous": mmap.mmap(-1, SIZE, private | mmap.MAP_ANONYMOUS),
    "shared": mmap.mmap(-1, SIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS),
    "forked": mmap.mmap(-1, SIZE, private | mmap.MAP_ANONYMOUS),
    "file": mmap.mmap(file.fileno(), SIZE, mmap.MAP_SHARED),
    "private file": mmap.mmap(file.fileno(), SIZE, private),
    "huge": mmap.mmap(-1, SIZE, private | mmap.MAP_ANONYMOUS | 0x40000),  # MAP_HUGETLB
}
def write(name):
    regions[name][:: mmap.PAGESIZE] = b"x" * (SIZE // mmap.PAGESIZE)
def read(*names, pause_s=0):
    while True:
        for name in names:
            regions[name][:: mmap.PAGESIZE]
        if pause_s:
            time.sleep(pause_s)
for name, memory in regions.items():
    if name != "huge":
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    write(name)
child = os.fork()
if child == 0:
    read("forked", pause_s=0.02)
for name in set(regions) - {"forked"}:
    write(name)
threading.Thread(target=read, args=regions, daemon=True).start()
print(child, {name: address(memory) for name, memory in regions.items()}, flush=True)
for line in sys.stdin:
    subprocess.run(["sh", "-c", f"i=0; while [ $i -lt {int(line)} ]; do (:); i=$((i+1)); done"])
    print("done", flush=True)
os.killpg(0, 9)
"""


@dataclass(frozen=True)
class Seen:
    """What was found out before the recorder was killed, and how the machine was left."""

    said: str
    heat: dict[str, Heat]
    """By kind of mapping, of the zoo itself."""
    pids: set[int]
    zoo_pid: int
    child_pid: int
    outsider_pid: int
    lost: int
    settings: dict[str, list[str]]
    """At what time; those of SETTINGS."""
    left: list[object]
    """Programs and processes."""


SETTINGS = BALANCING, PROMOTE_RATE_LIMIT, SCAN_KNOBS / "scan_period_max_ms"


def halt_armed(recorder: int) -> bool:
    """Stop it where it stands, if the switch is on just now: there shall be something to put right."""
    stop(recorder)
    if BALANCING.read_text().strip() != "0":
        return True
    os.kill(recorder, signal.SIGCONT)
    return False


def settings() -> list[str]:
    return [file.read_text().strip() for file in SETTINGS]


@pytest.fixture(scope="module")
def cgroup() -> Iterator[Path]:
    path = cgroup_mount() / "hotpage-zoo"
    path.mkdir()
    yield path
    wait_for(lambda: not (path / "cgroup.procs").read_text(), "the cgroup is empty")
    path.rmdir()


@pytest.fixture(scope="module")
def seen(cgroup: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    scratch = tmp_path_factory.mktemp("session")
    os.environ["HOTPAGE_STATE_DIR"] = str(scratch / "state")
    BALANCING.write_text("0")
    set_scan_period(100, slowest_ms=60_000)
    Path("/proc/sys/vm/nr_hugepages").write_text("4")
    programs = loaded_programs()
    found = {"before": settings()}
    python = [sys.executable, "-c", _ZOO, str(SIZE)]
    with contextlib.ExitStack() as stack:
        outsider = stack.enter_context(Toucher())
        outsider.region("r")
        zoo = subprocess.Popen(
            ["sh", "-c", 'echo $$ >"$0" && exec "$@"', cgroup / "cgroup.procs", *python],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        stack.callback(zoo.communicate)
        stack.callback(os.killpg, zoo.pid, signal.SIGKILL)
        assert zoo.stdin is not None and zoo.stdout is not None
        child, where = zoo.stdout.readline().split(maxsplit=1)
        with halted([zoo.pid, int(child)]):
            recording = Recording(scratch / "profile", "--cgroup", f"/{cgroup.name}", "--arm")
            stack.callback(recording.process.communicate)
            stack.callback(recording.process.kill)
            recording.await_start()
        # The child's scans find nothing to arm, and the kernel soon spaces them out.
        await_passes([zoo.pid], 2)
        outsider.run("write('r')")
        begun_s = time.monotonic()
        zoo.stdin.write(f"{CHILDREN}\n")
        zoo.stdin.flush()
        assert zoo.stdout.readline() == "done\n"
        print(f"{CHILDREN / (time.monotonic() - begun_s):.0f} short processes a second")
        recording.await_now()
        helpers = children_of(recording.process.pid)
        wait_for(lambda: halt_armed(recording.process.pid), "it arms pages")
        recording.process.kill()
        recording.process.wait()
        found["killed"] = settings()
        subprocess.run([*HOTPAGE, "restore"], check=True, capture_output=True)
        found["restored"] = settings()

        def left() -> list[object]:
            stats = {pid: read_stat(pid) for pid in helpers}  # nobody may be there to reap them
            alive = [pid for pid, stat in stats.items() if stat is not None and not stat.has_ended]
            return [*(loaded_programs() - programs), *alive]

        with contextlib.suppress(AssertionError):
            wait_for(lambda: not left(), "nothing is left")
    snapshot = recording.snapshot()
    (index,) = [number for number, one in snapshot.processes.items() if one.process.pid == zoo.pid]
    heat = {
        (one.record.vma.start, one.record.vma.end): one.heat
        for one in summarise(snapshot).mappings
        if one.process == index and one.record is not None
    }
    return Seen(
        recording.said,
        {kind: heat[start, start + SIZE] for kind, start in ast.literal_eval(where).items()},
        {record.process.pid for record in snapshot.processes.values()},
        zoo.pid,
        int(child),
        outsider.pid,
        sum(source.lost for source in snapshot.usage.sources),
        found,
        left(),
    )


def test_a_cgroup_is_its_members(seen: Seen) -> None:
    assert {seen.zoo_pid, seen.child_pid} <= seen.pids
    assert seen.outsider_pid not in seen.pids


def test_processes_that_come_and_go_lose_nothing(seen: Seen) -> None:
    assert seen.lost == 0


def test_memory_of_its_own_has_rates(seen: Seen) -> None:
    heat = seen.heat["anonymous"]
    assert heat.accesses_per_s > 0
    assert heat.unknown_bytes == 0


@pytest.mark.parametrize("kind", ["huge", "forked"])
def test_what_no_kernel_arms_is_unknown_and_not_cold(seen: Seen, kind: str) -> None:
    """After a fork pages are mapped copy-on-write; the kernel arms none that several processes have."""
    heat = seen.heat[kind]
    assert (heat.hot_bytes, heat.cold_bytes, heat.unknown_bytes) == (0, 0, SIZE)


@pytest.mark.parametrize("kind", ["shared", "file", "private file"])
def test_shared_memory_has_rates_where_the_kernel_arms_it(seen: Seen, machine: Any, kind: str) -> None:
    heat = seen.heat[kind]
    if machine.kernel in ARMS_SHARED_MEMORY:
        assert heat.accesses_per_s > 0
        assert heat.silent_bytes == heat.unknown_bytes == 0
    else:
        assert (heat.hot_bytes, heat.cold_bytes, heat.unknown_bytes) == (0, 0, SIZE)


def test_the_pace_of_arming_is_set_for_the_session(seen: Seen) -> None:
    assert "arming pace" not in seen.said
    assert (seen.settings["before"][0], seen.settings["before"][2]) == ("0", "60000")
    assert seen.settings["killed"] == [str(ARMING_ONLY), "0", "2000"]


def test_a_killed_session_is_put_right(seen: Seen) -> None:
    assert seen.settings["restored"] == seen.settings["before"]
    assert not seen.left
