# SPDX-License-Identifier: Apache-2.0
"""From a profile to candidates: who is still there, what was silent, what is one huge page."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fakeproc import FakeProc
from profiles import armed, changes, interval, run_info, vma

from hotpage.errors import ProfileError
from hotpage.machine.folios import present_pages
from hotpage.machine.numa import Watermarks, hides_armed_pages, read_watermarks
from hotpage.machine.proc import PROC, read_stat
from hotpage.machine.processes import ProcessTable
from hotpage.machine.topology import Node, Topology
from hotpage.placement import situation as module
from hotpage.placement.plan import ABSENT
from hotpage.placement.silent import Pages
from hotpage.placement.situation import fold, free_bytes, gather, node_rooms, process_facts
from hotpage.profile.inmemory import InMemoryProfile
from hotpage.profile.snapshot import ProcessRecord, Snapshot

PAGES = 600


class OnNodeOne:
    """In place of move_pages: every third page is not in memory."""

    def query(self, pid: int, vpn: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        return np.where(vpn % 3 == 0, -2, 1).astype(np.int32)


@pytest.fixture
def memory() -> Iterator[int]:
    """First page of a mapping of this process."""
    with mmap.mmap(-1, PAGES * 4096) as mapping:
        buffer = ctypes.c_char.from_buffer(mapping)
        yield ctypes.addressof(buffer) // 4096
        del buffer


def own_record() -> ProcessRecord:
    process = ProcessTable().add(os.getpid())
    assert process is not None
    return ProcessRecord(replace(process, index=0), 0.0)


def snapshot(first: int, **run: object) -> Snapshot:
    """Pages 0..9 have rows, all of the mapping was armed 10 s before."""
    boot_id = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    profile = InMemoryProfile(run_info(boot_id=boot_id, **run))
    rows = changes(*((0, first + page, 100.0 + page) for page in range(10)))
    mapping = vma(first, first + PAGES, {1: PAGES * 4096}, "")
    profile.interval(
        interval(
            10,
            rows,
            start_s=0.0,
            processes=[own_record()],
            vmas={0: [mapping]},
            armed={0: armed(first - 5, first + PAGES + 5)},
        )
    )
    return profile.snapshot()


def topology(*nodes: Node) -> Topology:
    return Topology(nodes, {}, None, None, None, None)


def test_the_name_of_what_has_gone_is_printable(memory: int) -> None:
    picture, record = snapshot(memory), own_record()
    other = replace(record.process, start_time_ticks=0, comm="\udcff\x1b[31m")
    gone = replace(picture, processes={0: replace(record, process=other)})
    found = gather(gone, OnNodeOne(), topology())  # type: ignore[arg-type]
    assert found.gone == (rf"{os.getpid()} (\udcff\x1b[31m)",)


def test_rows_and_silent_pages_become_candidates(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "huge_blocks", lambda pid, block: np.zeros(block.size, np.bool_))
    monkeypatch.setattr(module, "read_vmas", lambda pid: [vma(memory, memory + PAGES, {1: 1}, "").vma])
    found = gather(snapshot(memory), OnNodeOne(), topology())  # type: ignore[arg-type]
    table = found.situation.candidates
    assert found.gone == ()
    has_row = table.vpn < memory + 10
    assert has_row.sum() == 10
    assert (table.node[has_row] == np.where(table.vpn[has_row] % 3 == 0, ABSENT, 1)).all()
    silent = ~has_row
    expected = [vpn for vpn in range(memory + 10, memory + PAGES) if vpn % 3]
    assert table.vpn[silent].tolist() == expected, "resident ones only, and none outside the mapping"
    assert table.rate_hz[silent] == pytest.approx(0.5 / (1e-5 + 10.0))
    assert (table.relative_error[silent] > 1).all()
    assert table.rate_hz[has_row] == pytest.approx(100.0 + np.arange(10))
    facts = found.situation.processes[0]
    stat = read_stat(os.getpid())
    assert stat is not None
    assert (facts.pid, facts.start_time_ticks, facts.image) == (
        os.getpid(),
        stat.start_time_ticks,
        stat.image,
    )
    assert 0 in facts.allowed_nodes and facts.age_s >= 0


def test_pages_in_memory_are_told_from_others() -> None:
    with mmap.mmap(-1, 2000 * 4096) as mapping:
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
        buffer = ctypes.c_char.from_buffer(mapping)
        first = ctypes.addressof(buffer) // 4096
        touched = np.array([0, 3, 700, 1400, 1999])
        for page in touched.tolist():
            mapping[page * 4096] = 1
        vpn = np.random.default_rng(1).permutation(np.arange(first, first + 2000))
        found = present_pages(os.getpid(), vpn)
        del buffer
    assert sorted(vpn[found].tolist()) == (first + touched).tolist()
    assert not present_pages(1 << 30, vpn).any()


def test_a_profile_of_another_boot_moves_nothing(memory: int) -> None:
    strange = snapshot(memory)
    strange = replace(strange, run=replace(strange.run, boot_id="another"))
    with pytest.raises(ProfileError, match="record again"):
        gather(strange, OnNodeOne(), topology())  # type: ignore[arg-type]


def test_a_process_is_known_by_its_start_time_and_name() -> None:
    record = own_record()
    assert process_facts(record) is not None
    assert process_facts(replace(record, exited_s=3.0)) is None
    later = replace(record.process, start_time_ticks=record.process.start_time_ticks + 1)
    assert process_facts(replace(record, process=later)) is None
    other = replace(record.process, comm="other")
    assert process_facts(replace(record, process=other)) is None
    nobody = replace(record.process, pid=1 << 30)
    assert process_facts(replace(record, process=nobody)) is None


def test_a_process_is_in_the_cgroup_that_it_has_moved_to(tmp_path: Path) -> None:
    FakeProc(tmp_path).put(7)
    process = ProcessTable(tmp_path).add(7)
    assert process is not None
    (tmp_path / "7/cgroup").write_text("0::/db\n")
    facts = process_facts(ProcessRecord(process, 0.0), tmp_path)
    assert facts is not None and facts.cgroup == "/db" != process.cgroup


def test_a_huge_page_is_one_row_of_its_mean_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "huge_blocks", lambda pid, block: block == 2)
    vpn = np.concatenate((np.arange(1024, 1024 + 256), np.arange(2000, 2003))).astype(np.int64)
    rate = np.full(vpn.size, 10.0, np.float32)
    error = np.full(vpn.size, 0.5, np.float32)
    pages = Pages(vpn, rate, rate * 2, error)
    table = fold(7, 1, pages, np.ones(vpn.size, np.int16))
    assert table.vpn.tolist() == [1024, 2000, 2001, 2002]
    assert table.pages.tolist() == [512, 1, 1, 1]
    assert table.rate_hz.tolist() == [5.0, 10.0, 10.0, 10.0], "of which half were never seen"
    assert table.rate_short_hz[0] == 10.0
    assert (table.process == 7).all()


def test_rooms_come_from_the_zones_and_leave_memoryless_nodes_out() -> None:
    fast = Node(0, (0,), 16 << 30, 1 << 30, {0: 10, 1: 20}, read_latency_ns=80, tier=0)
    accelerator = Node(1, (), 8 << 30, 4 << 30, {0: 20, 1: 10}, tier=1, is_device=True)
    cpus = Node(2, (1,), None, None, {})
    marks = {
        0: Watermarks(2 << 30, 1 << 20, 2 << 20, 64 << 20, cache=1 << 30),
        1: Watermarks(4 << 30, 1 << 20, 2 << 20, 3 << 20),
        2: Watermarks(0, 0, 0, 0),
    }
    rooms = node_rooms(topology(fast, accelerator, cpus), marks)
    assert [(room.node, room.tier, room.free_bytes, room.is_device) for room in rooms] == [
        (0, 0, 3 << 30, False),  # idle page cache is room
        (1, 1, 4 << 30, True),
    ]
    assert rooms[0].headroom_bytes == (64 << 20) + int(0.02 * (16 << 30))


def test_a_node_that_was_taken_offline_has_no_room() -> None:
    fast, slow = Node(0, (0,), 4 << 30, 1 << 30, {}, tier=0), Node(1, (), 8 << 30, 7 << 30, {}, tier=1)
    marks = {0: Watermarks(1 << 30, 1 << 20, 2 << 20, 3 << 20)}
    assert [room.node for room in node_rooms(topology(fast, slow), marks)] == [0]
    assert [room.node for room in node_rooms(topology(fast, slow), {})] == [0, 1], "nobody tells"


def test_watermarks_are_sums_over_zones(tmp_path: Path) -> None:
    (tmp_path / "zoneinfo").write_text(
        """Node 0, zone      DMA
  pages free     3840
        min      11
        low      14
        high     17
        protection: (0, 725, 725, 725, 725)
  pagesets
    cpu: 0
              count:    12
              high:     13
    cpu: 1
              count:    30
              high:     99
Node 0, zone    DMA32
  pages free     20000
        min      100
        low      200
        high     300
        protection: (0, 0, 5000, 5000, 5000)
      nr_free_pages 20000
      nr_zone_inactive_file 900
      nr_zone_active_file 50
      nr_zone_write_pending 100
Node 1, zone   Normal
  per-node stats
      nr_inactive_file 77
  pages free     70
        min      7
        low      8
        high     9
        protection: (0, 0, 0, 0, 0)
      nr_zone_inactive_file 30
      nr_zone_write_pending 40
"""
    )
    assert read_watermarks(tmp_path) == {
        0: Watermarks((3840 - 725 + 15000) * 4096, 111 * 4096, 214 * 4096, 317 * 4096, 800 * 4096, 42 * 4096),
        1: Watermarks(70 * 4096, 7 * 4096, 8 * 4096, 9 * 4096, 0),
    }
    assert read_watermarks(tmp_path)[0].available == (3840 - 725 + 15000 + 800) * 4096
    assert all(0 < marks.min <= marks.low <= marks.high for marks in read_watermarks().values())


def test_what_cpus_have_at_hand_makes_up_for_a_shortage_and_is_no_room() -> None:
    def free(available: int) -> int:
        return free_bytes(Watermarks(available - 5, 10, 20, 30, cache=5, at_hand=8))

    assert [free(available) for available in (40, 31, 30, 25, 22, 20)] == [40, 31, 30, 30, 30, 28]


def test_this_kernel_shows_or_hides_armed_pages() -> None:
    from hotpage.machine.numa import MovePages

    assert hides_armed_pages(MovePages()) in (True, False)
    page = mmap.mmap(-1, 4096)
    page[0] = 1
    page.close()
