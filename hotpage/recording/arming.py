# SPDX-License-Identifier: Apache-2.0
"""``--arm``: have the kernel arm the target's pages, within the budget, and leave everything as it was."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from hotpage.errors import HotpageError, KnobError
from hotpage.machine.hold import HoldEvent, MmHolder, needs_hold
from hotpage.machine.knobs import NUMA_BALANCING, Knob, KnobSession, pending, read_knob
from hotpage.machine.processes import Process
from hotpage.machine.tiering import (
    ARMING_ONLY,
    TIERING_ONLY,
    ArmingTimes,
    arm_with,
    arms_slow_only,
    balancing_change,
    hold_promotion,
)
from hotpage.machine.topology import Topology
from hotpage.recording.budget import ArmingAccount

SCAN_PERIOD_MAX_MS = Path("/sys/kernel/debug/sched/numa_balancing/scan_period_max_ms")
"""The longest pause between two arming scans; in debugfs, which may be unmounted or closed."""
_WANTED_PERIOD_MAX_MS = 2000
MOST_HOLDS = 256
"""Processes held at once: each takes a thread of the helper."""
_BEYOND = f"at most {MOST_HOLDS} are held at once"
_ASK_AGAIN_S = 30.0
"""After so long a process that could not be held is asked for again: the reason may have passed. A helper
that has died is not started again sooner, either."""


def balancing_mode() -> int | None:
    """kernel.numa_balancing, None where the kernel has no such thing."""
    try:
        return int(read_knob(NUMA_BALANCING))
    except (KnobError, ValueError):
        return None


def how_to_mount_debugfs(file: Path) -> str | None:
    """The command, where that is why the file is not there."""
    debugfs = file.parents[2]
    try:
        is_mounted = any(debugfs.iterdir())
    except OSError:
        is_mounted = True
    return None if is_mounted else f"sudo mount -t debugfs none {debugfs}"


class _Brake:
    """A setting with one value to arm by, and one for when that cannot be afforded."""

    def __init__(self, knob: Knob, on_value: str | int, off_value: str | int) -> None:
        self.knob = knob
        self.is_on = False
        self._on_value, self._off_value = str(on_value), str(off_value)

    def set(self, on: bool) -> bool:
        """Whether this has changed it."""
        if not self.knob.steering:
            # What another session has set lasts when that ends: this one relies on it.
            steers = self.knob.try_steer()
            self.is_on = read_knob(self.knob.path) != self._off_value
            if not steers:
                return False
        if on == self.is_on or not self.knob.set(self._on_value if on else self._off_value):
            return False
        self.is_on = on
        return True


class Arming:
    """Turns NUMA hint faults on for a session; ``notes`` says what could not be had.

    Where balancing is off, its switch is the brake: it is off whenever the next scan would overdraw the
    account. Where the kernel already arms, the switch is left alone, and the pace is the brake: it is the
    kernel's own meanwhile. Between several memory tiers the mode that arms without migrating is taken (mode 3
    with a promotion limit of 0), so that profiling does not move pages; that in place of mode 2, too, which
    arms slow memory only.
    """

    def __init__(self, knobs: KnobSession, topology: Topology, account: ArmingAccount) -> None:
        self._notes: list[str] = []
        # By index, of processes that live: when they were asked for, and why they could not be held.
        self._asked_s: dict[int, float] = {}
        self._refused: dict[int, str] = {}
        self._unanswered: set[int] = set()
        self._not_held: Counter[str] = Counter()
        self._account = account
        found = balancing_mode()
        if found is None:
            raise KnobError("this kernel cannot arm pages", "it lacks CONFIG_NUMA_BALANCING: leave out --arm")
        # Another session may have set a knob: then this one relies on that, and takes over when it ends.
        saved = {knob.path: knob.saved for knob in pending()}
        before = saved.get(str(NUMA_BALANCING))
        self._switch: _Brake | None = None
        self._is_tiered = False
        """Whether the switch is between 0 and mode 3."""
        self._times = ArmingTimes()
        self._pause: str | None = None
        if found == 0 or before == "0":
            # The limit before the switch: what is taken last goes back first.
            self._is_tiered = len(topology.tiers) > 1 and hold_promotion(knobs)
            on_value = ARMING_ONLY if self._is_tiered else 1
            self._switch = _Brake(knobs.knob(NUMA_BALANCING), on_value, 0)
        elif arms_slow_only(found) or (found == ARMING_ONLY and before == str(TIERING_ONLY)):
            self._arm_fast_memory_too(knobs)
        arm_with(self._switch.knob if self._switch else None)
        self._pace: _Brake | None = None
        try:
            own = saved.get(str(SCAN_PERIOD_MAX_MS)) or read_knob(SCAN_PERIOD_MAX_MS)
            if int(own) > _WANTED_PERIOD_MAX_MS:
                self._pace = _Brake(knobs.knob(SCAN_PERIOD_MAX_MS), _WANTED_PERIOD_MAX_MS, own)
                if self._pace.set(True):
                    account.begin_scan()
        except (KnobError, ValueError):
            mount = how_to_mount_debugfs(SCAN_PERIOD_MAX_MS)
            why = f"debugfs is not mounted: {mount}" if mount else "debugfs sched/numa_balancing is closed"
            self._notes.append(
                f"the arming pace cannot be set here ({why}): "
                "the kernel slows its scans down, to a minute apart at most"
                + ("" if self._switch else ", and the budget does not bound what they cost")
            )
        self._holder: MmHolder | None = None
        self._deaths: Counter[str] = Counter()
        self._start_again_s = math.inf
        try:
            self._holder = MmHolder()
            self._start_again_s = 0.0
        except (HotpageError, OSError) as error:
            self._notes.append(f"single-threaded processes will show no hint faults: {error}")

    def _arm_fast_memory_too(self, knobs: KnobSession) -> None:
        try:
            if hold_promotion(knobs) and knobs.write(NUMA_BALANCING, ARMING_ONLY):
                return
            mode = balancing_mode()  # another session may have seen to that
        except KnobError:
            mode = TIERING_ONLY
        if arms_slow_only(mode):
            self._notes.append(
                f"kernel.numa_balancing stays {mode}, and arms slow memory only: fast memory is unknown"
            )

    def start(self) -> None:
        """Begin to arm."""
        self._set(True)

    def steer(self) -> None:
        """Let the next scan happen, or not, as the account says."""
        self._set(self._account.affordable)

    def _set(self, on: bool) -> None:
        has_changed = False
        self._look_whether_to_pause()
        on = on and not self.pauses
        if self._switch is not None:
            with balancing_change() as may:
                has_changed = may and self._switch.set(on)
        elif self._pace is not None:
            has_changed = self._pace.set(on)
            if has_changed and not on:
                self._account.end_scan()
        if on and has_changed:
            self._account.begin_scan()

    def _look_whether_to_pause(self) -> None:
        """Or pages would be migrated while the switch is off."""
        left_s = self._times.misread_for_s(time.monotonic()) if self._is_tiered else 0.0
        if not left_s:
            self._pause = None
        elif self._pause is None:
            self._pause = (
                f"arming pauses for {math.ceil(left_s)} s: the kernel would take its times for CPUs, "
                "and migrate pages"
            )

    def hold(self, processes: Iterable[Process]) -> None:
        """Make single-threaded processes armable: the kernel passes over memory that has one user only.

        To be called again and again with all that live: a process with several threads is left alone as long
        as it has them.
        """
        now_s = time.monotonic()
        try:
            if self._holder is None and now_s >= self._start_again_s:
                self._start_again_s = now_s + _ASK_AGAIN_S
                self._holder = MmHolder()
            if self._holder is not None:
                self._ask(self._holder, {process.pid: process for process in processes}, now_s)
        except (HotpageError, OSError) as error:
            self._lose_holder(str(error))

    def _ask(self, holder: MmHolder, living: Mapping[int, Process], now_s: float) -> None:
        indices = {process.index for process in living.values()}
        self._asked_s = {index: at_s for index, at_s in self._asked_s.items() if index in indices}
        self._refused = {index: why for index, why in self._refused.items() if index in indices}
        self._unanswered &= indices
        for event in holder.poll():
            if event.pid in living:
                self._note(living[event.pid].index, event)
        room = MOST_HOLDS - len(holder.held) - len(self._unanswered)
        for process in living.values():
            if not self._is_due(process.index, now_s):
                continue
            if room <= 0:
                if needs_hold(process):
                    self._asked_s[process.index] = now_s
                    self._note(process.index, HoldEvent("failed", process.pid, _BEYOND))
            elif holder.hold(process):
                self._asked_s[process.index] = now_s
                self._unanswered.add(process.index)
                room -= 1

    def _lose_holder(self, why: str) -> None:
        """All that was held is free: it is asked for anew once a helper is there again."""
        self._deaths[why] += 1
        if self._holder is not None:
            self._holder.close()
            self._holder = None
        self._not_held.subtract(self._refused.values())
        self._asked_s, self._refused, self._unanswered = {}, {}, set()

    def _is_due(self, index: int, now_s: float) -> bool:
        asked_s = self._asked_s.get(index)
        return asked_s is None or (index in self._refused and now_s - asked_s >= _ASK_AGAIN_S)

    def _note(self, index: int, event: HoldEvent) -> None:
        """Each process counts once, however often it is asked for."""
        self._unanswered.discard(index)
        before = self._refused.pop(index, None)
        if before is not None:
            self._not_held[before] -= 1
        if event.kind == "failed":
            self._refused[index] = event.reason
            self._not_held[event.reason] += 1
        elif event.kind == "released":  # by an exec that the process was met in
            self._asked_s.pop(index, None)

    @property
    def notes(self) -> list[str]:
        """What could not be had so far, and why nothing is armed now if that is not the budget."""
        lost = [
            f"{count} times single-threaded processes showed no hint faults for a while: {why}"
            for why, count in self._deaths.items()
        ]
        return (
            self._notes
            + ([self._pause] if self._pause else [])
            + lost
            + [
                f"{count} single-threaded processes could not be held, and show no hint faults: {reason}"
                for reason, count in self._not_held.items()
                if count
            ]
        )

    @property
    def is_arming(self) -> bool:
        """Whether the kernel arms pages now, on this session's behalf or by itself."""
        return self._switch is None or self._switch.is_on

    @property
    def pauses(self) -> bool:
        """Whether nothing is armed for now, whatever the budget."""
        return self._pause is not None

    @property
    def held(self) -> frozenset[int]:
        """Single-threaded processes made armable."""
        return self._holder.held if self._holder else frozenset()

    @property
    def helper_pid(self) -> int | None:
        """The holder's own process."""
        return self._holder.helper_pid if self._holder else None

    def close(self) -> None:
        """Let go of what is held. The knobs go back when their KnobSession ends."""
        arm_with(None)
        if self._holder is not None:
            self._holder.close()
            self._holder = None
