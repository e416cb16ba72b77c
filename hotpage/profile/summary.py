# SPDX-License-Identifier: Apache-2.0
"""The numbers of a report, computed from a snapshot: how much memory is hot, where, and how sure that is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from hotpage.arrays import Bools, Float32s, Float64s, Int64s
from hotpage.heat.estimator import working_set_bytes
from hotpage.heat.histogram import BIN_COUNT, RateHistogram, bin_edges_hz, rate_bins
from hotpage.machine.folios import PAGE_BYTES
from hotpage.profile.attribution import Attribution, attribute
from hotpage.profile.runs import PageRuns, join_neighbours
from hotpage.profile.sharing import memory_of, repeated, seen_by_class
from hotpage.profile.snapshot import NodeRecord, ProcessRecord, Snapshot, VmaRecord
from hotpage.profile.threshold import HeatClass, Threshold, choose_threshold

WINDOWS_S = (1.0, 10.0, 60.0)
_UNTOUCHED = (0.0,) * len(WINDOWS_S)
# Of a range that people read: rates within a factor of four. A rate from a few accesses is no surer than
# that.
RANGE_OCTAVES = 2.0


@dataclass(frozen=True)
class Heat:
    """The heat of some memory; sums of it are heat again."""

    hot_bytes: int = 0
    warm_bytes: int = 0
    cold_bytes: int = 0
    silent_bytes: int = 0  # the part of cold_bytes that was armed and never accessed
    unknown_bytes: int = 0  # resident, and nobody observed it
    accesses_per_s: float = 0.0
    uncertain_accesses_per_s: float = 0.0  # sum of rate x relative error
    working_set_bytes: tuple[float, ...] = _UNTOUCHED  # over WINDOWS_S, silent pages left out
    resident_bytes_by_node: Mapping[int, int] = field(default_factory=dict)

    @property
    def relative_error(self) -> float:
        """Relative standard error of the rates, the busier pages counting more; NaN without any."""
        return self.uncertain_accesses_per_s / self.accesses_per_s if self.accesses_per_s else float("nan")

    @property
    def resident_bytes(self) -> int:
        """On all nodes."""
        return sum(self.resident_bytes_by_node.values())

    def __add__(self, other: Heat) -> Heat:
        nodes = dict(self.resident_bytes_by_node)
        for node, count in other.resident_bytes_by_node.items():
            nodes[node] = nodes.get(node, 0) + count
        return Heat(
            self.hot_bytes + other.hot_bytes,
            self.warm_bytes + other.warm_bytes,
            self.cold_bytes + other.cold_bytes,
            self.silent_bytes + other.silent_bytes,
            self.unknown_bytes + other.unknown_bytes,
            self.accesses_per_s + other.accesses_per_s,
            self.uncertain_accesses_per_s + other.uncertain_accesses_per_s,
            tuple(a + b for a, b in zip(self.working_set_bytes, other.working_set_bytes, strict=True)),
            nodes,
        )


@dataclass(frozen=True)
class MappingHeat:
    """A mapping's heat; ``record`` is None for pages of a process that lie in no mapping that was read."""

    process: int
    record: VmaRecord | None
    heat: Heat


@dataclass(frozen=True)
class ProcessHeat:
    """A process's heat; ``record`` is None when its row was lost with a damaged part."""

    process: int
    record: ProcessRecord | None
    heat: Heat


@dataclass(frozen=True)
class RangeHeat:
    """Neighbouring pages of similar rate (within a factor of four). Addresses in bytes, ``end`` exclusive."""

    process: int
    start: int
    end: int
    rate_hz: float  # of each page
    rate_short_hz: float
    relative_error: float
    heat_class: HeatClass
    record: VmaRecord | None

    @property
    def size_bytes(self) -> int:
        """Length."""
        return self.end - self.start

    @property
    def accesses_per_s(self) -> float:
        """Of all its pages."""
        return self.rate_hz * self.size_bytes / PAGE_BYTES


@dataclass(frozen=True)
class NodeHeat:
    """A node and what is known to lie on it.

    No source says on which node a single page lies: hot memory counts for a node where its whole mapping is
    there.
    """

    record: NodeRecord
    resident_bytes: int
    hot_bytes: int
    warm_bytes: int


@dataclass(frozen=True)
class Summary:
    """What a report says about heat. Exited processes are listed; what sums up all processes, from the
    histogram to the nodes, leaves them out if any lives, and has shared memory once.
    """

    snapshot: Snapshot
    threshold: Threshold
    histogram: RateHistogram
    total: Heat
    processes: Sequence[ProcessHeat]
    mappings: Sequence[MappingHeat]
    nodes: Sequence[NodeHeat]
    hot_bytes_on_several_nodes: int
    counted: Sequence[MappingHeat]
    """What adds up to the total: the mappings of living processes, of those of shared memory one for all."""

    def unarmable_bytes(self) -> dict[str, int]:
        """Unknown bytes of the total in mappings that hint faults never see, by why they do not."""
        found: dict[str, int] = {}
        for entry in self.counted:
            record = entry.record
            if record is None or record.armable:
                continue
            vma = record.vma
            why = "shared memory" if vma.kind == "shared" else "read-only files"
            if vma.kind == "vdso" or (vma.kind != "shared" and "w" in vma.permissions):
                why = "other mappings"
            found[why] = found.get(why, 0) + entry.heat.unknown_bytes
        return {why: count for why, count in found.items() if count}

    @cached_property
    def _runs(self) -> PageRuns:
        pages = self.snapshot.pages
        return join_neighbours(pages.take(np.isfinite(pages.rate_hz)), RANGE_OCTAVES, compare_short=False)

    def ranges(self, key: str = "accesses", count: int | None = None) -> list[RangeHeat]:
        """The first ``count`` ranges by a key of RANGE_KEYS; all of them with None."""
        return self._described(self._runs, key, count)

    def pages(self, key: str = "rate", count: int | None = None) -> list[RangeHeat]:
        """The first ``count`` pages of known rate by a key of RANGE_KEYS, each a range of its own."""
        pages = self.snapshot.pages
        pages = pages.take(np.isfinite(pages.rate_hz))
        single = np.ones(len(pages), np.int32)
        rates = (pages.rate_hz, pages.rate_short_hz, pages.relative_error)
        return self._described(PageRuns(pages.process, pages.vpn, single, *rates), key, count)

    def _described(self, runs: PageRuns, key: str, count: int | None) -> list[RangeHeat]:
        values = RANGE_KEYS[key](runs)
        first = np.arange(len(runs))
        if count is not None and 0 < count < len(runs):
            first = np.flatnonzero(values <= np.partition(values, count - 1)[count - 1])
        order = first[np.lexsort((runs.start_vpn[first], runs.process[first], values[first]))][:count]
        classes = self.threshold.classes(runs.rate_hz)
        return [
            RangeHeat(
                process=int(runs.process[row]),
                start=int(runs.start_vpn[row]) * PAGE_BYTES,
                end=int(runs.start_vpn[row] + runs.pages[row]) * PAGE_BYTES,
                rate_hz=float(runs.rate_hz[row]),
                rate_short_hz=float(runs.rate_short_hz[row]),
                relative_error=float(runs.relative_error[row]),
                heat_class=HeatClass(classes[row]),
                record=self._mapping_at(int(runs.process[row]), int(runs.start_vpn[row]) * PAGE_BYTES),
            )
            for row in order
        ]

    def _mapping_at(self, process: int, address: int) -> VmaRecord | None:
        records = self.snapshot.vmas.get(process, ())
        place = bisect_right(records, address, key=lambda record: record.vma.start) - 1
        return records[place] if place >= 0 and address < records[place].vma.end else None


RANGE_KEYS: Mapping[str, Callable[[PageRuns], Float64s | Int64s]] = {
    "accesses": lambda runs: -np.asarray(runs.rate_hz, np.float64) * runs.pages,
    "rate": lambda runs: -np.asarray(runs.rate_hz, np.float64),
    "rate-short": lambda runs: -np.asarray(runs.rate_short_hz, np.float64),
    "size": lambda runs: -runs.pages.astype(np.int64),
    "error": lambda runs: np.asarray(runs.relative_error, np.float64),
    "address": lambda runs: runs.start_vpn,
}


def summarise(snapshot: Snapshot, hot_rate_hz: float | None = None, hot_bytes: int | None = None) -> Summary:
    """Compute a report's numbers; the two options replace the rule for what is hot (``choose_threshold``)."""
    found = attribute(snapshot)
    every = {*snapshot.processes, *found.process.tolist()}
    # All when none lives, so that a finished command has a report.
    living = {process for process in every if not snapshot.has_exited(process)} or every
    counted = np.isin(found.process, list(living))
    histogram = _histogram(snapshot, found, counted)
    threshold = choose_threshold(histogram, snapshot.nodes, hot_rate_hz, hot_bytes)
    mappings = _mappings(snapshot, found, threshold)
    by_process: dict[int, Heat] = {}
    for mapping in mappings:
        by_process[mapping.process] = by_process.get(mapping.process, Heat()) + mapping.heat
    present = _once([mapping for mapping in mappings if mapping.process in living])
    return Summary(
        snapshot=snapshot,
        threshold=threshold,
        histogram=histogram,
        total=sum((mapping.heat for mapping in present), Heat()),
        processes=[
            ProcessHeat(process, snapshot.processes.get(process), by_process.get(process, Heat()))
            for process in sorted(every)
        ],
        mappings=mappings,
        nodes=[_node(record, present) for record in snapshot.nodes],
        hot_bytes_on_several_nodes=sum(m.heat.hot_bytes for m in present if _only_node(m.heat) is None),
        counted=present,
    )


def _once(mappings: Sequence[MappingHeat]) -> list[MappingHeat]:
    """With one mapping for all of the same memory."""
    by_memory: dict[int, list[MappingHeat]] = {}
    for place, mapping in enumerate(mappings):
        memory = memory_of(mapping.record.vma) if mapping.record else 0
        by_memory.setdefault(memory or -place - 1, []).append(mapping)
    return [
        same[0] if len(same) == 1 else replace(same[0], heat=_seen_together([one.heat for one in same]))
        for same in by_memory.values()
    ]


def _seen_together(heats: Sequence[Heat]) -> Heat:
    """The heat of one piece of memory that several processes map (profile.sharing); accesses add up."""
    sizes = np.array([(h.hot_bytes, h.warm_bytes, h.cold_bytes, h.unknown_bytes) for h in heats], np.int64)
    hot, warm, cold, unknown = seen_by_class(sizes, [0])[0].tolist()
    nodes = {node for heat in heats for node in heat.resident_bytes_by_node}
    return Heat(
        hot,
        warm,
        cold,
        min(max(heat.silent_bytes for heat in heats), cold),
        unknown,
        sum(heat.accesses_per_s for heat in heats),
        sum(heat.uncertain_accesses_per_s for heat in heats),
        tuple(max(sizes) for sizes in zip(*(heat.working_set_bytes for heat in heats), strict=True)),
        {node: max(heat.resident_bytes_by_node.get(node, 0) for heat in heats) for node in sorted(nodes)},
    )


def _histogram(snapshot: Snapshot, found: Attribution, counted: Bools) -> RateHistogram:
    """Bytes by rate, silent memory at its highest possible rate; of the counted mappings."""
    bins, owner = rate_bins(snapshot.pages.rate_hz), found.owner
    if not counted.all():
        bins, owner = bins[counted[owner]], owner[counted[owner]]
    silent_bins = rate_bins(found.silent_rate_hz.astype(np.float32))
    sizes = np.bincount(bins, minlength=BIN_COUNT + 1).astype(np.float64) * PAGE_BYTES
    sizes += np.bincount(silent_bins, weights=found.silent_bytes * counted, minlength=BIN_COUNT + 1)
    sizes[0] += found.unseen_bytes[counted].sum()
    memory = np.array([memory_of(record.vma) if record else 0 for record in found.records], np.int64)
    again = repeated(memory, counted)
    if len(again.rows):
        place = np.full(len(found), -1)
        place[again.rows] = np.arange(len(again.rows))
        theirs = place[owner] >= 0
        each = np.zeros((len(again.rows), BIN_COUNT + 1))
        np.add.at(each, (place[owner[theirs]], bins[theirs]), PAGE_BYTES)
        each[np.arange(len(again.rows)), silent_bins[again.rows]] += found.silent_bytes[again.rows]
        each[:, 0] += found.unseen_bytes[again.rows]
        sizes -= again.surplus_by_class(each)
    return RateHistogram(bin_edges_hz(), sizes[1:], float(sizes[0]))


def _mappings(snapshot: Snapshot, found: Attribution, threshold: Threshold) -> list[MappingHeat]:
    """The heat of every mapping that has something in memory or a row."""
    pages, owner, count = snapshot.pages, found.owner, len(found)
    kinds = np.bincount(
        owner.astype(np.int64) * len(HeatClass) + threshold.classes(pages.rate_hz),
        minlength=count * len(HeatClass),
    ).reshape(count, len(HeatClass))
    rate = np.nan_to_num(pages.rate_hz.astype(np.float64))
    accesses = np.bincount(owner, weights=rate, minlength=count)
    uncertain = np.bincount(owner, weights=rate * np.nan_to_num(pages.relative_error), minlength=count)
    silent = np.where(threshold.is_told_by(found.silent_rate_hz), found.silent_bytes, 0.0)
    unseen = found.unseen_bytes + found.silent_bytes - silent
    by_owner = np.argsort(owner, kind="stable")
    bounds = np.concatenate(([0], np.cumsum(kinds.sum(axis=1))))
    result = []
    for index, record in enumerate(found.records):
        rows = by_owner[bounds[index] : bounds[index + 1]]
        nodes = record.residency.bytes_by_node if record and record.residency else {}
        if not len(rows) and not any(nodes.values()):
            continue
        sizes = (kinds[index] * PAGE_BYTES).tolist()
        heat = Heat(
            hot_bytes=sizes[HeatClass.HOT],
            warm_bytes=sizes[HeatClass.WARM],
            cold_bytes=sizes[HeatClass.COLD] + round(silent[index]),
            silent_bytes=round(silent[index]),
            unknown_bytes=sizes[HeatClass.UNKNOWN] + round(unseen[index]),
            accesses_per_s=float(accesses[index]),
            uncertain_accesses_per_s=float(uncertain[index]),
            working_set_bytes=_touched(pages.rate_hz[rows]) if accesses[index] else _UNTOUCHED,
            resident_bytes_by_node=nodes,
        )
        result.append(MappingHeat(int(found.process[index]), record, heat))
    return result


def _touched(rate_hz: Float32s) -> tuple[float, ...]:
    return tuple(working_set_bytes(rate_hz, window_s) for window_s in WINDOWS_S)


def _only_node(heat: Heat) -> int | None:
    """The node on which all of some memory lies; None when there are several or it is not known."""
    nodes = [node for node, count in heat.resident_bytes_by_node.items() if count]
    return nodes[0] if len(nodes) == 1 and nodes[0] >= 0 else None


def _node(record: NodeRecord, mappings: Sequence[MappingHeat]) -> NodeHeat:
    here = [mapping.heat for mapping in mappings if _only_node(mapping.heat) == record.node]
    return NodeHeat(
        record,
        resident_bytes=sum(m.heat.resident_bytes_by_node.get(record.node, 0) for m in mappings),
        hot_bytes=sum(heat.hot_bytes for heat in here),
        warm_bytes=sum(heat.warm_bytes for heat in here),
    )
