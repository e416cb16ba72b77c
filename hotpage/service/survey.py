# SPDX-License-Identifier: Apache-2.0
"""From a picture of the heat to the situation that a policy sees: who is looked after, within what limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from hotpage.arrays import Int64s
from hotpage.heat.results import ArmedRanges, Folios
from hotpage.machine.cgroups import memory_by_node
from hotpage.machine.folios import PAGE_BYTES
from hotpage.machine.numa import Watermarks, read_watermarks
from hotpage.machine.topology import Topology
from hotpage.placement.census import places
from hotpage.placement.history import History
from hotpage.placement.plan import (
    ABSENT,
    Aim,
    Candidates,
    Costs,
    GroupLimits,
    ProcessFacts,
    Situation,
)
from hotpage.placement.silent import NO_PAGES, Pages, SilentMemory
from hotpage.placement.situation import fold, joined, node_rooms, process_facts
from hotpage.profile.snapshot import NodeRecord, ProcessRecord
from hotpage.recording.recorder import HORIZONS_S
from hotpage.service.configuration import Configuration
from hotpage.service.heatfeed import Picture
from hotpage.service.learned import Learned
from hotpage.service.nodemap import NodeMap
from hotpage.service.turn import Turn

REFRESH_S = 30.0
"""Within this time the kernel is asked again where each page is: others move pages as well."""
ENOUGH_PASSES = 4
"""Arming passes over a page after which it is not waited for."""
_REMEMBERED_S = max(HORIZONS_S)
"""The half-life of what an access tells of a rate."""

Query = Callable[[int, Int64s], npt.NDArray[np.int32]]


@dataclass
class Surveyor:
    """Keeps what need not be found out anew each time. The functions are what tests replace."""

    configuration: Configuration
    query: Query
    read_topology: Callable[[], Topology] = Topology.read
    read_watermarks: Callable[[], Mapping[int, Watermarks]] = read_watermarks
    read_facts: Callable[[ProcessRecord], ProcessFacts | None] = lambda record: process_facts(
        record, may_be_renamed=True
    )
    fast_bytes_of: Callable[[str], Mapping[int, int] | None] = memory_by_node
    learned: Learned | None = None

    def __post_init__(self) -> None:
        self._surveyed_s: float | None = None
        self._nodes: Sequence[NodeRecord] = ()
        self.begin_session()

    def begin_session(self) -> None:
        """Processes are numbered anew, and nodes may have come or gone."""
        self._maps: dict[int, NodeMap] = {}
        self._turns: dict[int, Turn] = {}
        self.topology = self.read_topology()

    def survey(
        self,
        picture: Picture,
        history: History,
        now_s: float,
        period_s: float,
        factor: Callable[[str], float] = lambda cgroup: 1.0,
        horizon_s: Callable[[int], float | None] = lambda process: None,
    ) -> Situation:
        """The situation at ``now_s``, with what may be moved in ``period_s``.

        ``factor``: what to multiply a cgroup's rate with; ``horizon_s``: P of a process.
        """
        nodes_there = [replace(node, free_bytes=0) for node in picture.nodes]
        if nodes_there != self._nodes:  # memory has come or gone; how much is free changes all the time
            self._nodes, self.topology = nodes_there, self.read_topology()
        if self.learned is not None and self.learned.is_over(picture.time_s):
            self.learned = None
        elapsed_s = 0.0 if self._surveyed_s is None else now_s - self._surveyed_s
        self._surveyed_s = now_s
        rate_bytes = self.configuration.budget.move_rate * period_s
        share = self.configuration.placement.headroom_percent / 100
        rooms = node_rooms(self.topology, self.read_watermarks(), share)
        nodes = [replace(room, rate_bytes=rate_bytes) for room in rooms]
        fast = places(nodes, Aim()).fast
        facts, tables = {}, []
        for index in sorted(picture.processes):
            found = self._facts(picture.processes[index])
            if found is None:
                continue
            will_be_surer = _will_be_surer(picture.armed.get(index), picture.time_s)
            facts[index] = replace(found, horizon_s=horizon_s(index), will_be_surer=will_be_surer)
            nodes_known = self._maps.setdefault(index, NodeMap())
            folios = self._folios(picture, index)
            silent = self._silent(picture, index, folios, nodes_known, fast)
            nodes_known.age(elapsed_s / REFRESH_S)
            tables.append(self._candidates(index, found, folios, silent, nodes_known))
        for index in [index for index in self._maps if index not in facts]:
            del self._maps[index]
            self._turns.pop(index, None)
        costs = Costs(horizon_s=self.configuration.placement.horizon)
        limits = self._limits({one.cgroup for one in facts.values()}, fast, rate_bytes, factor)
        return Situation(joined(tables), facts, nodes, history, limits, costs, now_s)

    def note_moved(self, process: int, vpn: Int64s, node: int) -> None:
        """The kernel has confirmed that these pages are on that node now."""
        if process in self._maps:
            self._maps[process].put(vpn, node)

    def note_doubt(self, process: int, vpn: Int64s) -> None:
        """These pages were not where they were thought to be."""
        if process in self._maps:
            self._maps[process].doubt(vpn)

    @property
    def has_tiers(self) -> bool:
        """Whether there is anywhere to move pages to."""
        rooms = node_rooms(self.topology, {})
        return len({room.tier for room in rooms if not room.is_device}) > 1

    # Whose pages

    def _facts(self, record: ProcessRecord) -> ProcessFacts | None:
        """The process under its group's name; None if it has gone or is left alone."""
        targets, process = self.configuration.targets, record.process
        if process.pid == os.getpid() or process.pid in targets.exclude_pids:
            return None
        facts = self.read_facts(record)
        if facts is None or facts.comm in targets.exclude_comms:
            return None
        if any(_is_below(facts.cgroup, path) for path in targets.exclude_cgroups):
            return None
        groups = [group.path for group in targets.cgroups if _is_below(facts.cgroup, group.path)]
        return replace(facts, cgroup=max(groups, key=len)) if groups else facts

    def _limits(
        self,
        present: set[str],
        fast: frozenset[int],
        rate_bytes: float,
        factor: Callable[[str], float],
    ) -> dict[str, GroupLimits]:
        limits = {}
        for group in self.configuration.targets.cgroups:
            if group.path in present:
                there = self.fast_bytes_of(group.path)
                limits[group.path] = GroupLimits(
                    group.floor,
                    group.ceiling,
                    group.weight,
                    rate_bytes * factor(group.path),
                    None if there is None else float(sum(there.get(node, 0) for node in fast)),
                )
        for cgroup in present - limits.keys():
            if (share := factor(cgroup)) < 1.0:
                limits[cgroup] = GroupLimits(rate_bytes=rate_bytes * share)
        return limits

    # Which pages

    def _folios(self, picture: Picture, index: int) -> Folios:
        folios = picture.folios[index]
        if self.learned is None:
            return folios
        return self.learned.fill(picture.processes[index].process, folios, picture.time_s)

    def _candidates(
        self, index: int, facts: ProcessFacts, folios: Folios, silent: Pages, nodes: NodeMap
    ) -> Candidates:
        place = np.searchsorted(folios.vpn, silent.vpn)
        node = nodes.nodes(np.insert(folios.vpn, place, silent.vpn), lambda some: self.query(facts.pid, some))
        place += np.arange(place.size)  # where they are now
        silent_node = node[place]
        tracked = Candidates(
            np.full(len(folios), index, np.int32),
            folios.vpn,
            folios.pages,
            np.delete(node, place),
            folios.rate_hz,
            folios.rate_short_hz,
            folios.relative_error,
        )
        there = silent_node != ABSENT  # armed ranges have holes
        if not there.any():
            return tracked
        return _merged(tracked, fold(index, facts.pid, silent.take(there), silent_node[there]))

    def _silent(
        self, picture: Picture, index: int, folios: Folios, nodes: NodeMap, fast: frozenset[int]
    ) -> Pages:
        """Pages that were armed and never accessed, where some may be in fast memory: what can go first.

        They have the highest rate that their silence allows. ``nodes``: as the last plan left it.
        """
        armed = picture.armed.get(index)
        if armed is None:
            return NO_PAGES
        spans = [*self._vmas_with_fast_pages(picture, index, fast)]
        memory = SilentMemory(armed, spans, folios.vpn, folios.pages)
        return memory.pages(self._turns.setdefault(index, Turn()).take(memory, nodes, fast), picture.time_s)

    def _vmas_with_fast_pages(
        self, picture: Picture, index: int, fast: frozenset[int]
    ) -> Iterable[tuple[int, int]]:
        for record in picture.vmas.get(index, ()):
            there = record.residency
            if there is None or any(there.bytes_by_node.get(node, 0) for node in fast):
                yield record.vma.start // PAGE_BYTES, record.vma.end // PAGE_BYTES


def _will_be_surer(armed: ArmedRanges | None, time_s: float) -> bool:
    """Whether another pass makes pages surer: most were armed a few times only, and not too long ago.

    Passes that come more rarely than what they show is forgotten never add up.
    """
    if armed is None or not len(armed):
        return False
    waits = (armed.passes < ENOUGH_PASSES) & (time_s - armed.last_s < _REMEMBERED_S)
    return bool(np.average(waits, weights=armed.end_vpn - armed.start_vpn) > 0.5)


def _is_below(cgroup: str, path: str) -> bool:
    return path == "/" or cgroup == path or cgroup.startswith(path + "/")


def _merged(rows: Candidates, more: Candidates) -> Candidates:
    """Both, by address; a column at a time, for there may be millions."""
    place = np.searchsorted(rows.vpn, more.vpn)
    names = [one.name for one in fields(Candidates)]
    return Candidates(*(np.insert(getattr(rows, name), place, getattr(more, name)) for name in names))
