# SPDX-License-Identifier: Apache-2.0
"""Which ranges went away between two readings of a process's mappings, and how often those are read."""

import os
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotpage.errors import PrivilegeError
from hotpage.machine.processes import ProcessTable
from hotpage.machine.vmas import Residency, Vma
from hotpage.profile.snapshot import VmaRecord
from hotpage.recording import dirtying, mappings
from hotpage.recording.mappings import MappingWatch, unmapped

PAGE = 4096


def vmas(cuts: list[int]) -> list[Vma]:
    """Disjoint mappings between every other pair of page numbers; equal neighbours make them touch."""
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    return [Vma(a * PAGE, b * PAGE, "rw-p", 0, 0, "", "anon") for a, b in pairs if a < b]


layouts = st.lists(st.integers(0, 60), max_size=16).map(lambda cuts: vmas(sorted(cuts)))


def pages_of(layout: list[Vma]) -> set[int]:
    return {page for vma in layout for page in range(vma.start // PAGE, vma.end // PAGE)}


@given(before=layouts, now=layouts)
def test_what_was_covered_and_is_no_more(before: list[Vma], now: list[Vma]) -> None:
    gone = unmapped(7, before, now)
    assert all(cleared.process == 7 and cleared.start_vpn < cleared.end_vpn for cleared in gone)
    listed = [page for cleared in gone for page in range(cleared.start_vpn, cleared.end_vpn)]
    assert sorted(pages_of(before) - pages_of(now)) == listed


def watch() -> MappingWatch:
    process = ProcessTable().add(os.getpid())
    assert process is not None
    return MappingWatch(process, 4.0)


def test_mappings_are_read_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappings.time, "perf_counter", lambda: 0.0)
    mine = watch()
    readings, now_s = [], 0.0
    while now_s < 30:
        if mine.is_due(now_s):
            readings.append(now_s)
            assert mine.read(now_s) == [] or len(readings) > 1
        now_s += 0.5
    assert readings[:5] == [0.0, 1.0, 3.0, 7.0, 11.0]
    assert {later - earlier for earlier, later in pairwise(readings[3:])} == {4.0}
    assert any(record.vma.kind == "stack" for record in mine.records)


@pytest.mark.parametrize(("watches", "due_s"), [(1, 50.0), (10, 500.0)])
def test_costly_readings_are_rare_all_together(
    monkeypatch: pytest.MonkeyPatch, watches: int, due_s: float
) -> None:
    clock = iter([0.0, 0.1])
    monkeypatch.setattr(mappings.time, "perf_counter", lambda: next(clock))
    mine = watch()
    mine.read(0.0, watches)
    assert not mine.is_due(due_s - 0.01)
    assert mine.is_due(due_s + 0.01)


def test_who_has_gone_or_is_closed_has_no_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = watch()
    gone = MappingWatch(replace(mine.process, pid=2**22 - 1), 4.0)
    assert gone.read(0.0) is None

    def refuse(pid: int) -> list[Vma]:
        raise PrivilegeError("may not be read")

    monkeypatch.setattr(mappings, "read_vmas", refuse)
    assert mine.read(0.0) is None


def test_a_part_unmapped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = watch()
    monkeypatch.setattr(mappings, "read_residency", lambda pid: {})
    monkeypatch.setattr(mappings, "read_vmas", lambda pid: vmas([10, 20]))
    assert mine.read(0.0) == []
    monkeypatch.setattr(mappings, "read_vmas", lambda pid: vmas([10, 13, 15, 20]))
    cleared = mine.read(1.0)
    assert cleared is not None
    assert [(c.process, c.start_vpn, c.end_vpn) for c in cleared] == [(0, 13, 15)]


def test_where_slow_memory_alone_is_armed_the_silence_of_the_rest_is_no_evidence() -> None:
    mine = watch()
    mine.shared = [(3, 5), (40, 41)]
    spans = [(0, 10), (10, 20), (20, 30), (30, 50)]
    by_node = [{1: PAGE}, {0: PAGE, 1: PAGE}, None, {}]
    mine.records = [
        VmaRecord(
            Vma(start * PAGE, end * PAGE, "rw-p", 0, 0, "", "anon"),
            None if nodes is None else Residency(PAGE, nodes, "default"),
        )
        for (start, end), nodes in zip(spans, by_node, strict=True)
    ]
    assert mine.left_out() == mine.shared
    assert mine.left_out(frozenset({1})) == [(3, 5), (10, 50)]
    assert mine.left_out(frozenset()) == [(0, 50)]


def test_dirty_pages_of_files_are_not_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = watch()
    asked: list[list[tuple[int, int]]] = []
    found = [
        (Vma(10 * PAGE, 20 * PAGE, "rw-s", 0, 5, "/data.mdb", "file"), 3),
        (Vma(20 * PAGE, 30 * PAGE, "rw-s", 0, 6, "/clean.mdb", "file"), 0),
        (Vma(30 * PAGE, 40 * PAGE, "r--s", 0, 5, "/data.mdb", "file"), 3),
        (Vma(40 * PAGE, 50 * PAGE, "rw-p", 0, 0, "", "anon"), 0),
    ]
    monkeypatch.setattr(mappings, "read_vmas", lambda pid: [vma for vma, _ in found])
    monkeypatch.setattr(
        mappings,
        "read_residency",
        lambda pid: {vma.start: Residency(PAGE, {0: PAGE}, "default", 1, dirty) for vma, dirty in found},
    )
    monkeypatch.setattr(dirtying, "dirty_ranges", lambda pid, spans: asked.append(spans) or [(12, 15)])
    mine.read(0.0)
    assert not asked and mine.left_out() == [(10, 20)], "which ones has yet to be read, at another time"
    mine.dirty.read(0.1)
    assert asked == [[(10, 20)]] and mine.left_out() == [(12, 15)]
