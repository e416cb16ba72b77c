# SPDX-License-Identifier: Apache-2.0
"""``hotpage auto`` as a process: sessions, rounds, signals, and everything put back at the end."""

from __future__ import annotations

import contextlib
import queue
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path

from hotpage.errors import HotpageError, TargetError
from hotpage.machine.capabilities import Capability
from hotpage.machine.cgroups import cgroup_mount
from hotpage.machine.knobs import KnobSession
from hotpage.machine.numa import MovePages
from hotpage.machine.proc import read_living
from hotpage.machine.signals import Orders
from hotpage.machine.tiering import hold_promotion
from hotpage.placement.budget import TokenBucket, room_bytes
from hotpage.placement.history import MOST_PROCESSES
from hotpage.placement.movers import Mover
from hotpage.placement.movers.dry_run import DryRunMover
from hotpage.placement.movers.move_pages import MovePagesMover
from hotpage.placement.plan import Plan, Situation
from hotpage.recording.recorder import Options
from hotpage.recording.selection import Selection
from hotpage.service import learned
from hotpage.service.configuration import Configuration
from hotpage.service.control import Control, Question
from hotpage.service.decisions import explain
from hotpage.service.footprint import Footprint
from hotpage.service.heatfeed import HeatFeed, HeatSession
from hotpage.service.keeper import Keeper, Step
from hotpage.service.notify import Notifier
from hotpage.service.survey import Surveyor

NEEDED = (
    Capability.BPF,
    Capability.PERFMON,
    Capability.SYSLOG,  # /proc/kallsyms
    Capability.SYS_ADMIN,  # kernel.numa_balancing; page frames in /proc/PID/pagemap
    Capability.SYS_PTRACE,  # move_pages, and memory held to be armed
    Capability.DAC_READ_SEARCH,  # /proc/PID of other users
    Capability.NET_ADMIN,  # forks, execs and exits as they happen
)
"""What the service may do as long as it lives; the unit's bounding set is the same."""
SAVE_SHARE = 0.003
"""Of one CPU, for writing down what was learned: 50 ns a page, so after each plan up to 200,000 pages."""
RING_BYTES = 2 << 20
"""52,000 events, about what one arming scan of 256 MiB can cause; a larger ring would only be memory."""
_LONGEST_SESSION_S = 30 * 86400.0
"""A heat table's times end after 48 days: then another session begins, with what was learned."""
_ALL_GONE = "all that was looked after has exited"
_LEADING_COUNT = re.compile(r"^[\d,]+ ")
_POLL_S = 0.1
_TRIM_S = 30.0


class NoTiersError(HotpageError):
    """There is nowhere to move pages to."""

    exit_status = 3


class After(Enum):
    """What follows a session."""

    STOP = "stop"
    RESTART = "restart"


def selection_of(configuration: Configuration) -> Selection:
    """Whom the session watches. Raises TargetError for pids that do not exist."""
    targets = configuration.targets
    if targets.everything:
        return Selection(everything=True)
    pids = Selection.of_pids(targets.pids) if targets.pids else None
    parts = [Selection.of_comm(comm) for comm in targets.comms]
    parts += [Selection(cgroup=_cgroup_path(group.path)) for group in targets.cgroups]
    if pids is not None and not parts:
        return pids
    if len(targets.comms) == 1 == len(parts) and pids is None:
        return parts[0]
    return Selection(several=(*([pids] if pids else []), *parts))


def _cgroup_path(path: str) -> Path:
    """Its directory, whether it is there yet or not."""
    return cgroup_mount() / path.lstrip("/")


def session_options(configuration: Configuration) -> Options:
    """What a session is opened with; another one has to be, where two configurations differ in this."""
    return Options(
        selection=selection_of(configuration),
        sources=tuple(configuration.observe.sources),
        arm=configuration.observe.arm,
        arm_with="set observe.arm = true",
        budget_percent=configuration.budget.cpu_percent,
        interval_s=configuration.interval,
        command_line=tuple(sys.argv),
        ring_bytes=RING_BYTES,
        keep_changes=False,
    )


class Service:
    """Runs until it is told to stop, or all that it looks after has gone.

    ``reread`` gives the configuration anew (SIGHUP), ``on_step`` sees every round, ``on_reload`` each new
    configuration that makes sense, which it may still refuse. Raises NoTiersError on a machine with one tier,
    unless this is a dry run.
    """

    def __init__(
        self,
        configuration: Configuration,
        orders: Orders,
        reread: Callable[[], Configuration],
        say: Callable[[str], None],
        on_step: Callable[[Step], None] = lambda step: None,
        on_reload: Callable[[Configuration], None] = lambda configuration: None,
        notifier: Notifier | None = None,
    ) -> None:
        self.configuration = configuration
        self.orders = orders
        self.session: HeatSession | None = None
        self._reread = reread
        self._say = say
        self._on_step, self._on_reload = on_step, on_reload
        self._notifier = notifier or Notifier()
        self._state = Path(configuration.state_dir)
        surveyor = Surveyor(configuration, MovePages().query)
        if not surveyor.has_tiers and not configuration.dry_run:
            raise NoTiersError(
                "this machine has one tier of memory, so there is nothing to place",
                "--dry-run shows heat and plans",
            )
        self.keeper = Keeper(configuration, surveyor, self._make_mover)
        self._save_due_s = 0.0
        self._trimmed_s = 0.0
        self._footprint = Footprint()
        self._footprint.tighten()
        self._said_notes: dict[str, str] = {}
        self._beat: tuple[float, float] = (0.0, 0.0)
        self._question: Question | None = None
        """To be answered; it may outlive a session."""

    def _make_mover(self, rates: Mapping[int | str, TokenBucket]) -> Mover:
        if self.configuration.dry_run:
            return DryRunMover()
        return MovePagesMover(room_bytes=room_bytes, rates=rates)

    def run(self, once_after_s: float | None = None) -> None:
        """The whole life. ``once_after_s``: one round after so long a look, and no more.

        Raises what ends a session before its time.
        """
        with Control(self._state) as control:
            after = After.RESTART
            while after is After.RESTART and self.orders.stop is None:
                self.keeper.begin_session()
                self.keeper.surveyor.learned = self._learned()
                after = self._one_session(control, once_after_s)
                if after is After.RESTART and not self._drop_gone_pids():
                    self._say(_ALL_GONE)
                    break
            self._notifier.stopping()

    def _learned(self) -> learned.Learned | None:
        try:
            return learned.load(self._state)
        except learned.DamagedError as error:
            self._say(f"begins without the rates of a service before: {error}")
            return None

    def _drop_gone_pids(self) -> bool:
        """Pids that have gone begin no session; whether anything is left to look after."""
        targets = self.configuration.targets
        left = [pid for pid in targets.pids if read_living(pid) is not None]
        if targets.pids and not (left or targets.comms or targets.cgroups or targets.all):
            return False
        self.configuration = replace(self.configuration, targets=replace(targets, pids=left))
        return True

    def _one_session(self, control: Control, once_after_s: float | None) -> After:
        with self._kernel_held():
            session = HeatSession(session_options(self.configuration), self.orders)
            with session.running():
                self.session = session
                feed = session.wait_until_open()
                if feed is None:  # why is raised on leaving
                    return After.STOP
                self._announce(feed)
                self._said_notes = {}
                after = self._rounds(session, feed, control, once_after_s)
            self._say_notes(session.progress.notes, finally_=True)
            return after

    @contextlib.contextmanager
    def _kernel_held(self) -> Iterator[None]:
        """Keep the kernel from promoting by its own lights meanwhile, where pages are moved."""
        with KnobSession() as knobs:
            for outcome in knobs.recovered:
                self._say(str(outcome))
            has_to = self.keeper.surveyor.has_tiers and not self.configuration.dry_run
            if has_to and not hold_promotion(knobs):
                self._say("this kernel's own promotion cannot be held still: it may move pages, too")
            yield

    def _announce(self, feed: HeatFeed) -> None:
        rungs = ", ".join(f"{name} by {rung}" for name, rung in feed.run.rungs.items())
        doing = "plans, and moves nothing," if self.configuration.dry_run else "moves pages"
        text = f"{doing} of {feed.run.target} every {self.configuration.interval:g} s; {rungs}"
        self._say(text)
        for advice in feed.run.advice:
            self._say(advice)
        before = self.keeper.surveyor.learned
        if before is not None and before.folios:
            count, ago = len(before.folios), f"{before.age_s:.0f} s ago"
            self._say(f"goes on with the rates of {count} processes that were learned {ago}")
        self._notifier.ready(text)

    def _rounds(
        self, session: HeatSession, feed: HeatFeed, control: Control, once_after_s: float | None
    ) -> After:
        keeper = self.keeper
        had_tiers = keeper.surveyor.has_tiers
        begun_s = time.monotonic()

        def interrupted() -> bool:
            self._heartbeat(session)
            return bool(self.orders.stop) or self.orders.reload or session.is_over.is_set()

        def should_stop() -> str | None:
            self._heartbeat(session)
            return self.orders.stop

        while True:
            if session.is_over.is_set() or self.orders.stop:
                break
            if self.orders.reload and self._reload():
                return After.RESTART
            now_s = time.monotonic()
            if now_s - begun_s > _LONGEST_SESSION_S:
                return After.RESTART
            if once_after_s is None:
                is_time = keeper.pace.is_due(now_s, feed.events)
            else:
                is_time = now_s - begun_s >= once_after_s
            if once_after_s is None or is_time:  # the one plan does not come earlier for a question
                with contextlib.suppress(queue.Empty):
                    self._question = self._question or control.questions.get_nowait()
            if not is_time and self._question is None:
                interrupted()
                session.is_over.wait(_POLL_S)
                continue
            picture = feed.picture(interrupted)
            if picture is None:
                continue
            if max(picture.processes, default=0) >= MOST_PROCESSES:
                return After.RESTART
            if not is_time:  # a question moves nothing
                self._answer(*keeper.consider(picture))
                continue
            step = keeper.step(picture, should_stop, others_follow=once_after_s is None)
            self._answer(step.situation, step.plan)
            self._on_step(step)
            self._save(step)
            del picture, step
            self._trim()
            if once_after_s is not None:
                return After.STOP
            if keeper.surveyor.has_tiers and not had_tiers:  # now the kernel's own promotion is to be held
                return After.RESTART
        if session.error is None and self.orders.stop is None:
            self._say(_ALL_GONE)
        return After.STOP

    def _answer(self, situation: Situation, plan: Plan) -> None:
        if self._question is not None:
            pid, address = self._question.pid, self._question.address
            self._question.reply(explain(situation, plan, self.keeper.log, pid, address))
            self._question = None

    def _heartbeat(self, session: HeatSession) -> None:
        """A sign of life for systemd, as long as the session's thread gives one, too."""
        self._say_notes(session.progress.notes)
        elapsed_s, now_s = session.progress.elapsed_s, time.monotonic()
        if elapsed_s != self._beat[0]:
            self._beat = elapsed_s, now_s
        if now_s - self._beat[1] < max(10.0, 3 * self.configuration.interval):
            self._notifier.alive()

    def _say_notes(self, notes: Sequence[str], finally_: bool = False) -> None:
        """Each as it arises, and once, however its count grows; ``finally_`` how it has turned out."""
        for note in notes:
            said = self._said_notes.get(kind := _LEADING_COUNT.sub("", note))
            if said is None or (finally_ and said != note):
                self._said_notes[kind] = note
                self._say(note)

    def _save(self, step: Step) -> None:
        """Write down what was learned, as often as that is cheap: after each plan, mostly."""
        if time.monotonic() < self._save_due_s:
            return
        begun_s = time.thread_time()
        try:
            learned.save(self._state, step.picture)
        except OSError as error:
            self._say(f"what was learned cannot be saved in {self._state} ({error.strerror})")
        self._save_due_s = time.monotonic() + (time.thread_time() - begun_s) / SAVE_SHARE

    def _trim(self) -> None:
        """Give back what plans have freed, now and then."""
        if time.monotonic() - self._trimmed_s >= _TRIM_S:
            self._trimmed_s = time.monotonic()
            self._footprint.trim()

    def _reload(self) -> bool:
        """Take another configuration over; whether that takes another session."""
        self.orders.reload = False
        self._notifier.reloading()
        try:
            new = self._reread()
            options = session_options(new)
            self._on_reload(new)
        except HotpageError as error:
            self._say(f"the configuration stays as it was: {error}")
            self._notifier.ready("runs with its old configuration: the new one is invalid")
            return False
        old, self.configuration = self.configuration, new
        if new.state_dir != old.state_dir:
            self._say(f"state_dir stays {old.state_dir} until the next start")
            self.configuration = replace(new, state_dir=old.state_dir)
        self.keeper.reconfigure(self.configuration)
        self._say("the configuration was read again")
        self._notifier.ready("runs with its new configuration")
        try:
            before = session_options(old)
        except TargetError:  # a pid of the old one has gone
            return True
        return options != before or new.dry_run != old.dry_run
