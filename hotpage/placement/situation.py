# SPDX-License-Identifier: Apache-2.0
"""From a profile to the situation that policies see: whose pages live, where they are, what moves whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hotpage.arrays import Float32s, offsets
from hotpage.errors import ProfileError
from hotpage.heat.estimator import HEADROOM_SHARE
from hotpage.machine.folios import HUGE_PAGES, PAGE_BYTES, huge_blocks
from hotpage.machine.numa import Watermarks, read_watermarks
from hotpage.machine.proc import PROC, boot_id, printable, read_bytes, read_lines, read_living
from hotpage.machine.processes import cgroup_of
from hotpage.machine.topology import Topology, parse_cpulist
from hotpage.machine.vmas import read_vmas
from hotpage.placement.budget import headroom_bytes
from hotpage.placement.movers.whereabouts import Kernel
from hotpage.placement.plan import ABSENT, Candidates, Costs, NodeRoom, ProcessFacts, Situation
from hotpage.placement.silent import Pages, silent_pages
from hotpage.profile.snapshot import ProcessRecord, Snapshot


@dataclass(frozen=True)
class Gathered:
    """A situation, and which processes of the profile are no longer there, for people."""

    situation: Situation
    gone: tuple[str, ...]


def gather(
    snapshot: Snapshot, move_pages: Kernel, topology: Topology, costs: Costs | None = None
) -> Gathered:
    """Ask the kernel where the profile's pages are now.

    Silent pages (resident, armed and never accessed) are candidates too, at the highest rate that their
    silence allows. Raises ProfileError for a profile of another boot, PrivilegeError where processes may not
    be looked into.
    """
    now, then = boot_id(), snapshot.run.boot_id
    if now is not None and then and then != now:
        raise ProfileError(
            "the profile was recorded before this machine was booted, or on another", "record again"
        )
    tables, facts, gone = [], {}, []
    for index, record in sorted(snapshot.processes.items()):
        found = process_facts(record)
        if found is None:
            if record.exited_s is None:
                gone.append(f"{record.process.pid} ({printable(record.process.comm)})")
            continue
        facts[index] = found
        tables.append(_candidates(snapshot, index, found.pid, move_pages))
    nodes = node_rooms(topology, read_watermarks())
    situation = Situation(joined(tables), facts, nodes, costs=costs or Costs())
    return Gathered(situation, tuple(gone))


def process_facts(
    record: ProcessRecord, proc_root: Path = PROC, may_be_renamed: bool = False
) -> ProcessFacts | None:
    """The process as it is now; None when it has gone, or is another program now.

    Another name means that, too, unless execs are followed: then a process ``may_be_renamed``.
    """
    process = record.process
    if record.exited_s is not None:
        return None
    stat = read_living(process.pid, proc_root, process.start_time_ticks)
    if stat is None or (stat.comm != process.comm and not may_be_renamed):  # exec
        return None
    directory = proc_root / str(process.pid)
    allowed: tuple[int, ...] = ()
    for line in read_lines(directory / "status"):
        if line.startswith(b"Mems_allowed_list:"):
            allowed = parse_cpulist(line.split(b":")[1].decode())
    uptime_s = float((read_bytes(proc_root / "uptime") or b"0").split()[0])
    age_s = uptime_s - stat.start_time_ticks / os.sysconf("SC_CLK_TCK")
    cgroup = cgroup_of(directory)  # the record's may be of before a move to another
    return ProcessFacts(
        process.pid, stat.start_time_ticks, stat.image, stat.comm, cgroup, frozenset(allowed), age_s
    )


def node_rooms(
    topology: Topology, watermarks: Mapping[int, Watermarks], headroom_share: float = HEADROOM_SHARE
) -> list[NodeRoom]:
    """The nodes that have memory, with the room that there is now.

    ``watermarks``: of every node that is online; empty where nobody tells, and then what the topology says
    holds.
    """
    rooms = []
    for node in topology.nodes:
        if node.tier is None or not node.total_bytes:
            continue
        marks = watermarks.get(node.id)
        if watermarks and marks is None:  # taken offline since the topology was read
            continue
        free = free_bytes(marks) if marks else node.free_bytes or 0
        rooms.append(
            NodeRoom(
                node.id,
                node.tier,
                node.total_bytes,
                free,
                headroom_bytes(node.total_bytes, marks.high if marks else 0, headroom_share),
                node.distances,
                node.read_latency_ns,
                is_device=node.is_device,
                watermark_bytes=marks.high if marks else 0,
            )
        )
    return rooms


def free_bytes(marks: Watermarks) -> int:
    """What a node can give, and what it lacks of its high watermark.

    What CPUs have at hand is no room to fill, but while that would do nothing has to give way: demoted pages
    go there first, so that the node would seem as short as before, and be emptied again and again.
    """
    return max(marks.available, min(marks.available + marks.at_hand, marks.high))


def _candidates(snapshot: Snapshot, index: int, pid: int, move_pages: Kernel) -> Candidates:
    pages = _with_silent(snapshot, index, pid)
    node = move_pages.query(pid, pages.vpn)
    has_row = np.isin(pages.vpn, snapshot.pages.of(index).vpn)
    kept = (node >= 0) | has_row  # armed ranges have holes
    return fold(index, pid, pages.take(kept), np.where(node < 0, ABSENT, node)[kept].astype(np.int16))


def _with_silent(snapshot: Snapshot, index: int, pid: int) -> Pages:
    """Rows of the profile and armed pages without a row, ascending, in mappings that are still there."""
    rows = snapshot.pages.of(index)
    spans = [(vma.start // PAGE_BYTES, vma.end // PAGE_BYTES) for vma in read_vmas(pid) if vma.kind != "vdso"]
    edges = np.array(spans, np.int64).reshape(-1)
    # Mappings ascend: within one of them an odd number of edges is not above.
    inside = np.searchsorted(edges, rows.vpn, side="right") % 2 == 1
    known = Pages(rows.vpn, rows.rate_hz, rows.rate_short_hz, rows.relative_error).take(inside)
    if index not in snapshot.armed:
        return known
    silent = silent_pages(
        snapshot.armed[index],
        spans,
        known.vpn,
        np.ones(known.vpn.size, np.int32),
        snapshot.time_s,
        rate_hz=lambda silent_s: snapshot.run.silent_rate_hz(silent_s).astype(np.float32),
    )
    both = Pages.joined([known, silent])
    return both.take(np.argsort(both.vpn, kind="stable"))


def fold(index: int, pid: int, pages: Pages, node: np.ndarray[tuple[int], np.dtype[np.int16]]) -> Candidates:
    """Candidates with huge pages as one row each: the mean rate of its 512 pages, those never seen at 0."""
    block = pages.vpn // HUGE_PAGES
    blocks, first, counts = np.unique(block, return_index=True, return_counts=True)
    likely = counts >= HUGE_PAGES // 8  # a huge page faults as a whole: most of its pages have a row
    is_huge = np.zeros(blocks.size, np.bool_)
    is_huge[likely] = huge_blocks(pid, blocks[likely])
    in_huge = np.repeat(is_huge, counts)
    single = ~in_huge
    first, counts, blocks = first[is_huge], counts[is_huge], blocks[is_huge]
    starts = offsets(counts)  # among the rows in huge pages

    def mean(values: Float32s) -> Float32s:
        inside = values[in_huge]
        known = np.logical_or.reduceat(~np.isnan(inside), starts) if starts.size else starts > 0
        sums = np.add.reduceat(np.nan_to_num(inside), starts) if starts.size else np.empty(0, np.float32)
        return np.where(known, sums / HUGE_PAGES, np.nan).astype(np.float32)

    huge_rate, huge_short = mean(pages.rate_hz), mean(pages.rate_short_hz)
    vpn = np.concatenate((pages.vpn[single], blocks * HUGE_PAGES))
    order = np.argsort(vpn, kind="stable")
    sizes = np.concatenate((np.ones(int(single.sum()), np.int32), np.full(blocks.size, HUGE_PAGES, np.int32)))
    return Candidates(
        np.full(vpn.size, index, np.int32),
        vpn[order],
        sizes[order],
        np.concatenate((node[single], node[first]))[order],
        np.concatenate((pages.rate_hz[single], huge_rate))[order],
        np.concatenate((pages.rate_short_hz[single], huge_short))[order],
        np.concatenate((pages.relative_error[single], pages.relative_error[first]))[order],
    )


def joined(tables: Sequence[Candidates]) -> Candidates:
    if not tables:
        f32 = np.empty(0, np.float32)
        empty = np.empty(0, np.int32)
        return Candidates(empty, np.empty(0, np.int64), empty, np.empty(0, np.int16), f32, f32, f32)
    return tables[0] if len(tables) == 1 else Candidates.joined(tables)
