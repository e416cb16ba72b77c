# SPDX-License-Identifier: Apache-2.0
"""The processes of a session: met, replaced by an exec, gone; each with its record and its mappings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import replace

from hotpage.capture.capture import Capture
from hotpage.capture.target import Target
from hotpage.errors import HotpageError
from hotpage.machine.processes import Process, ProcessTable, list_pids
from hotpage.machine.procevents import Exec, Exit, Fork, Lost, PollingProcessEvents, ProcessEvents
from hotpage.profile.snapshot import ProcessRecord
from hotpage.recording.busy import BusyProcesses
from hotpage.recording.mappings import MappingWatch
from hotpage.recording.selection import Selection

_LONGEST_MAPPING_PERIOD_S = 10.0
_MEMBERS_PERIOD_S = 3.0
"""Processes that joined a cgroup, or took a name, in other ways than by fork are found this often."""


class FollowedProcesses:
    """Keeps up with the selected processes, and the kernel's filter with them.

    ``now_s``: the session's clock.
    """

    def __init__(
        self,
        selection: Selection,
        capture: Capture,
        process_events: ProcessEvents,
        now_s: Callable[[], float],
    ) -> None:
        self.table = ProcessTable(comm=selection.comm)
        self.records: dict[int, ProcessRecord] = {}
        """By index, as the next; a process that has gone is there until ``take_gone``."""
        self.watches: dict[int, MappingWatch] = {}
        self._selection = selection
        self._capture = capture
        self._process_events = process_events
        self._now_s = now_s
        self._target = Target.nothing()
        self._is_lost = False
        self._changed: set[int] = set()
        self._gone: list[int] = []
        self._fresh: set[int] = set()
        self._members_s = 0.0
        self._busy = BusyProcesses()

    def aim(self) -> None:
        """Have the kernel capture the selected processes from now on."""
        self._target = self._selection.kernel_target()
        self._capture.set_target(self._target)

    def begin(self, command_pid: int | None) -> None:
        """Follow the selected processes that live now; with -a they are found by their events.

        ``command_pid``: a process that has just replaced its memory by the command that was asked for.
        """
        if command_pid is not None:
            self._fresh.add(command_pid)
        self._find_members()

    def follow(self) -> tuple[list[Process], dict[int, int]]:
        """Take what was told since the last time: who ended, still known for the last of their events,
        and when others replaced their memory (ns of the monotonic clock), by pid.
        """
        ended: list[Process] = []
        replaced_ns: dict[int, int] = {}
        # Read from /proc just now, after all that the events tell: an exec among them is in it already.
        fresh, self._fresh = self._fresh, set()
        for event in self._process_events.drain():
            known = None if isinstance(event, Lost) else self.table.by_pid(event.pid)
            if isinstance(event, Fork):
                if self._selection.is_followed and self.table.by_pid(event.parent) is not None:
                    # The kernel has seen to that by itself where it can, but an exit of the pid's former
                    # process that was told only now has undone it.
                    self._capture.add_pid(event.pid)
                    self.enter(self.table.add(event.pid))
                    fresh.add(event.pid)
            elif isinstance(event, Exec):
                replaced_ns[event.pid] = event.time_ns
                if known is not None:
                    if event.pid in fresh:
                        self._describe_again(known)
                    else:
                        self._replace(known)
                        fresh.add(event.pid)
            elif isinstance(event, Exit):
                if self._selection.is_followed:
                    # Also those too short-lived to be known: their pids will be others'.
                    self._capture.remove_pid(event.pid)
                if known is not None:
                    ended.append(known)
            else:
                ended += self._look_again()
        return ended, replaced_ns

    def end(self, ended: Iterable[Process]) -> None:
        """These have exited, and their events are all there."""
        for process in ended:
            if self.table.by_pid(process.pid) is process:
                self.table.exit(process.pid)
            self._leave(process)

    def enter(self, process: Process | None, previous: Process | None = None) -> None:
        """Begin to follow a process that the table has given an index."""
        if process is None or process.index in self.records:
            return
        self.records[process.index] = ProcessRecord(
            process, self._now_s(), previous_index=previous.index if previous else None
        )
        self._changed.add(process.index)
        self.watches[process.index] = MappingWatch(process, _LONGEST_MAPPING_PERIOD_S)

    def find_new_members(self) -> None:
        """Find those that joined otherwise than by fork, or have gone unnoticed, if that is due."""
        if self._now_s() - self._members_s < _MEMBERS_PERIOD_S:
            return
        self._members_s = self._now_s()
        if self._process_events.rung == PollingProcessEvents.rung:
            self._drop_dead_targets()
        if self._selection.cgroup is not None:
            self._aim_again()
        if not self._selection.several:
            return
        for pid in self._selection.members():
            if self.table.by_pid(pid) is None and (found := self.table.add(pid)) is not None:
                self._capture.add_pid(pid)
                self.enter(found)

    def find_busy(self, helper_pid: int | None) -> None:
        """With -a, of which events alone tell otherwise: also those that run and have no event yet.

        ``helper_pid``: a process of hotpage's own.
        """
        if not self._selection.everything:
            return
        own = (os.getpid(), helper_pid)
        for pid in self._busy.look(
            self._now_s(), lambda pid: pid in own or self.table.by_pid(pid) is not None
        ):
            self.enter(self.table.add(pid))

    @property
    def notes(self) -> list[str]:
        """What keeps this from seeing anything now."""
        if not self._is_lost:
            return []
        return [f"{self._selection} is not there: nothing can be seen until it is made again"]

    def take_changed(self) -> list[ProcessRecord]:
        """The records that are new or changed since the last time, in order of index."""
        changed = [self.records[index] for index in sorted(self._changed)]
        self._changed = set()
        return changed

    def take_gone(self) -> list[int]:
        """The indices of those that have gone since the last time; nothing here knows them any more."""
        gone, self._gone = self._gone, []
        for index in gone:
            self.table.forget(index)
            self.records.pop(index, None)
        return gone

    def _aim_again(self) -> None:
        """A cgroup that was removed and made anew, as services are by a restart, is another to the kernel."""
        before, self._target = self._target, Target.nothing()
        with contextlib.suppress(HotpageError, OSError):
            self._target = self._selection.kernel_target()
        is_there = self._target != Target.nothing()
        self._is_lost = not is_there
        if is_there and self._target != before:
            self._capture.set_target(self._target)
            self._find_members()

    def _find_members(self) -> None:
        if not self._selection.everything:
            for pid in self._selection.members():
                self.enter(self.table.add(pid))

    def _look_again(self) -> list[Process]:
        """Process events were lost: find out what they would have told; the processes that ended."""
        ended = [process for process in self.table.live() if not self.table.is_alive(process)]
        if self._selection.is_followed:
            self._drop_dead_targets()
            for pid in self._capture.target_pids():
                self.enter(self.table.add(pid))
        self._find_members()
        return ended

    def _drop_dead_targets(self) -> None:
        """Those whose exit nobody told: children are targets from their fork on, and pids are used again."""
        if self._selection.is_followed:
            for pid in self._capture.target_pids() - set(list_pids()):
                self._capture.remove_pid(pid)

    def _describe_again(self, known: Process) -> None:
        """A process may have been met in the middle of its exec, still under its former name."""
        record = self.records.get(known.index)
        if record is not None and self.table.is_alive(known):
            current = self.table.refresh(known.pid)
            if current is not None:
                self.records[known.index] = replace(record, process=current)
                self._changed.add(known.index)

    def _replace(self, known: Process) -> None:
        """A process has replaced its memory (exec), and maybe its name."""
        old, new = self.table.exec(known.pid)
        self._leave(old)
        self.enter(new, previous=old if old is not None and old.index in self.records else None)

    def _leave(self, process: Process | None) -> None:
        """A process has gone; its heat is written with this interval and dropped afterwards."""
        if process is None or process.index not in self.records:
            return
        self.records[process.index] = replace(self.records[process.index], exited_s=self._now_s())
        self._changed.add(process.index)
        self.watches.pop(process.index, None)
        self._gone.append(process.index)
