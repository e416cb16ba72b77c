# SPDX-License-Identifier: Apache-2.0
"""A session over a cgroup that has everything: mappings of each kind, and processes that come and go.

It ends with a SIGKILL. What was seen until then can be read, and ``restore`` puts everything else right.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_record_command import HOTPAGE, Recording
from toucher import loaded_programs, wait_for
from workload import BALANCING, set_scan_period

from hotpage.exerciser import Exerciser
from hotpage.machine.cgroups import cgroup_mount
from hotpage.machine.processes import children_of
from hotpage.profile.summary import Heat, summarise

pytestmark = [pytest.mark.needs("bcc", "compiler"), pytest.mark.guest(topology="cxl")]

CHILDREN = 300

# Two threads that touch every page of each mapping, over and over, and a child that shares its memory. Prints
# where each mapping is; then, for every line on its input, so many children that end at once.
_ZOO = r"""
import ctypes, mmap, os, sys, tempfile, threading, time
SIZE = 4096 << 10
def address(memory):
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
private = mmap.MAP_PRIVATE
file = tempfile.TemporaryFile(dir="/tmp")
file.truncate(SIZE)
regions = {
    "anonymous": mmap.mmap(-1, SIZE, private | mmap.MAP_ANONYMOUS),
    "forked": mmap.mmap(-1, SIZE, private | mmap.MAP_ANONYMOUS),
    "shared": mmap.mmap(-1, SIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS),
    "file": mmap.mmap(file.fileno(), SIZE, mmap.MAP_SHARED),
    "private file": mmap.mmap(file.fileno(), SIZE, private),
    "huge": mmap.mmap(-1, SIZE, private | mmap.MAP_ANONYMOUS | 0x40000),  # MAP_HUGETLB
}
for name, memory in regions.items():
    if name != "huge":
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory[:: mmap.PAGESIZE] = b"x" * (SIZE // mmap.PAGESIZE)
if os.fork() == 0:
    while True:
        regions["forked"][:: mmap.PAGESIZE]
def touch():
    while True:
        for memory in regions.values():
            memory[:: mmap.PAGESIZE]
for _ in range(2):
    threading.Thread(target=touch, daemon=True).start()
print({name: address(memory) for name, memory in regions.items()}, flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    print("done", flush=True)
os.killpg(0, 9)
"""


@dataclass(frozen=True)
class Seen:
    """What was found out before the recorder was killed, and how the machine was left."""

    heat: dict[str, Heat]  # by kind of mapping, of the zoo itself
    pids: set[int]
    zoo_pid: int
    outsider_pid: int
    lost: int
    balancing_after_kill: str
    balancing_after_restore: str
    programs_left: set[str]
    children_left: list[int]


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
    set_scan_period(300)
    Path("/proc/sys/vm/nr_hugepages").write_text("4")
    programs_before = loaded_programs()
    with contextlib.ExitStack() as stack:
        outsider = stack.enter_context(Exerciser.start(mib=4, threads=2))
        zoo = subprocess.Popen(
            ["sh", "-c", 'echo $$ >"$0" && exec "$1" -c "$2"', cgroup / "cgroup.procs", sys.executable, _ZOO],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        stack.callback(os.killpg, zoo.pid, signal.SIGKILL)
        assert zoo.stdin is not None and zoo.stdout is not None
        where: dict[str, int] = eval(zoo.stdout.readline())
        recording = Recording(scratch / "profile", "--cgroup", f"/{cgroup.name}", "--arm")
        stack.callback(recording.process.communicate)
        stack.callback(recording.process.kill)
        recording.await_start()

        def of_region(start: int) -> Heat:
            found = [
                mapping.heat
                for mapping in summarise(recording.snapshot()).mappings
                if mapping.record is not None
                and mapping.record.vma.start <= start < mapping.record.vma.end
                and recording.snapshot().processes[mapping.process].process.pid == zoo.pid
            ]
            return found[0] if found else Heat()

        # The kernel's scan leaves out a mapping that the scanning thread has not used lately: it takes some.
        wait_for(
            lambda: (
                of_region(where["anonymous"]).accesses_per_s > 0
                and of_region(where["anonymous"]).unknown_bytes == 0
            ),
            "rates of anonymous memory",
        )
        zoo.stdin.write(f"{CHILDREN}\n")
        zoo.stdin.flush()
        assert zoo.stdout.readline() == "done\n"
        written = len(list((recording.directory / "intervals").glob("part*")))
        recording.await_interval(written + 2)
        helpers = children_of(recording.process.pid)
        recording.process.kill()
        recording.process.wait()
        after_kill = BALANCING.read_text().strip()
        subprocess.run([*HOTPAGE, "restore"], check=True, capture_output=True)
        wait_for(lambda: not loaded_programs() - programs_before, "the kernel lets go of the programs")
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in helpers), "the helper has ended")
        snapshot = recording.snapshot()
        return Seen(
            {name: of_region(start) for name, start in where.items()},
            {record.process.pid for record in snapshot.processes.values()},
            zoo.pid,
            outsider.pid,
            sum(source.lost for source in snapshot.usage.sources),
            after_kill,
            BALANCING.read_text().strip(),
            loaded_programs() - programs_before,
            [pid for pid in helpers if Path(f"/proc/{pid}").exists()],
        )


def test_a_cgroup_is_its_members(seen: Seen) -> None:
    assert seen.zoo_pid in seen.pids
    assert seen.outsider_pid not in seen.pids


def test_processes_that_come_and_go_lose_nothing(seen: Seen) -> None:
    assert seen.lost == 0


def test_anonymous_memory_has_rates(seen: Seen) -> None:
    heat = seen.heat["anonymous"]
    assert heat.accesses_per_s > 0
    assert heat.unknown_bytes == 0


@pytest.mark.parametrize("kind", ["shared", "file", "huge"])
def test_what_the_kernel_does_not_arm_is_unknown_and_not_cold(seen: Seen, kind: str) -> None:
    heat = seen.heat[kind]
    assert heat.cold_bytes == 0, heat
    assert heat.hot_bytes == 0, heat


def test_pages_shared_by_fork_are_not_called_cold(seen: Seen) -> None:
    """They are mapped copy-on-write, and the kernel arms no such page that several processes have."""
    heat = seen.heat["forked"]
    assert heat.silent_bytes == 0 or heat.hot_bytes > 0, heat


def test_a_killed_session_is_put_right(seen: Seen) -> None:
    assert seen.balancing_after_kill != "0", "there is something to put right"
    assert seen.balancing_after_restore == "0"
    assert not seen.programs_left
    assert not seen.children_left
