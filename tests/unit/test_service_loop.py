# SPDX-License-Identifier: Apache-2.0
"""Sessions and rounds of the service: what a reload and another session change, and what they do not."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from serviceworld import BASE, FAST, PAGE, SLOW, World

from hotpage.errors import HotpageError
from hotpage.machine.signals import Orders
from hotpage.placement.history import MOST_PROCESSES
from hotpage.placement.outcome import Result
from hotpage.service.bounces import JUDGE_S
from hotpage.service.configuration import Configuration, parse
from hotpage.service.control import Control, Question
from hotpage.service.decisions import explain
from hotpage.service.keeper import Pace
from hotpage.service.loop import After, Service, session_options


def service(
    world: World,
    directory: Path,
    reread: Callable[[Configuration], Configuration] = lambda now: now,
    **more: Any,
) -> Service:
    """Of a world; it begins no session by itself."""
    configuration = replace(world.configuration, dry_run=True, state_dir=str(directory))
    one = Service(configuration, Orders(), lambda: reread(one.configuration), lambda text: None, **more)
    one.keeper = world.keeper
    return one


def rounds(
    one: Service,
    control: Control,
    picture: Callable[[Callable[[], object], Any], Any],
    once_after_s: float | None = None,
) -> After:
    """A session in which ``picture`` (should_stop, session) is what each wait for a picture comes to."""
    progress = SimpleNamespace(elapsed_s=1.0, notes=[])
    session: Any = SimpleNamespace(is_over=threading.Event(), progress=progress, error=None)
    feed: Any = SimpleNamespace(events=0, picture=lambda should_stop: picture(should_stop, session))
    return one._rounds(session, feed, control, once_after_s)


def test_a_question_is_answered_by_the_session_after_a_reload(tmp_path: Path) -> None:
    world = World()
    one = service(world, tmp_path, lambda now: replace(now, interval=now.interval + 1))
    control = Control(tmp_path)
    question = Question(world.pid, BASE * PAGE)
    control.questions.put(question)

    def interrupted(should_stop: Callable[[], object], session: Any) -> None:
        one.orders.reload = True
        assert should_stop()

    def last(should_stop: Callable[[], object], session: Any) -> Any:
        session.is_over.set()
        return world.picture()

    assert rounds(one, control, interrupted) is After.RESTART and question.answer is None
    assert rounds(one, control, last) is After.STOP
    assert question.answer is not None and question.answer["pid"] == world.pid


def test_a_question_moves_nothing_and_no_plan_comes_earlier_for_it(tmp_path: Path) -> None:
    world = World()
    one = service(world, tmp_path)
    one.keeper.pace.planned(time.monotonic(), 1e6, 0)
    control = Control(tmp_path)
    question = Question(world.pid, BASE * PAGE)
    control.questions.put(question)

    def last(should_stop: Callable[[], object], session: Any) -> Any:
        session.is_over.set()
        return world.picture()

    assert rounds(one, control, last) is After.STOP
    assert question.answer is not None and question.answer["pid"] == world.pid
    assert (one.keeper.totals.plans, one.keeper.totals.calls) == (0, 0)


def test_a_question_does_not_end_the_look_before_the_one_plan(tmp_path: Path) -> None:
    world = World()
    control = Control(tmp_path)
    question = Question(world.pid, BASE * PAGE)
    control.questions.put(question)
    begun_s = time.monotonic()
    looks_s = []

    def picture(*_: object) -> Any:
        looks_s.append(time.monotonic() - begun_s)
        return world.picture()

    assert rounds(service(world, tmp_path), control, picture, once_after_s=0.3) is After.STOP
    assert len(looks_s) == 1 and looks_s[0] >= 0.3
    assert question.answer is not None, "it is answered all the same"


def test_rates_that_cannot_be_read_are_said_and_keep_nobody_from_starting(tmp_path: Path) -> None:
    (tmp_path / "rates.npz").write_bytes(b"PK\x03\x04 and no more")
    said: list[str] = []
    one = service(World(), tmp_path)
    one._say = said.append
    one._one_session = lambda *_: After.STOP  # type: ignore[method-assign]
    one.run()
    assert one.keeper.surveyor.learned is None
    assert len(said) == 1 and said[0].startswith("begins without the rates of a service before: ")


def test_another_session_knows_nothing_of_processes_by_their_old_numbers(tmp_path: Path) -> None:
    world = World()
    world.rate[:] = 0.01
    world.rate[100:300] = 1000.0
    one = service(world, tmp_path)
    steps = []

    def session(*_: object) -> After:
        steps.append(world.step())
        if len(steps) == 2:
            return After.STOP
        world.pid += 1  # number 0 is another process, at the same addresses
        world.node[:] = SLOW
        world.free_pages[FAST] += 200
        world.asked.clear()
        return After.RESTART

    one._one_session = session  # type: ignore[method-assign]
    one.run()
    assert world.asked == world.vpn.tolist()
    assert [step.outcome.moved_bytes for step in steps] == [200 * PAGE] * 2
    why = explain(steps[1].situation, steps[1].plan, one.keeper.log, world.pid, (BASE + 150) * PAGE)
    assert len(why["moves"]) == 1
    assert one.keeper.totals.moved["promotion"] == {Result.MOVED: 400 * PAGE}


def test_another_session_forgets_the_horizons_of_processes_and_not_of_cgroups() -> None:
    world = World(pages=1 << 15)
    for number in range(14):  # the hot set changes its place each time
        world.rate[:] = 0.01
        world.rate[(number % 2) << 14 :][: 1 << 13] = 1000.0
        world.step(after_s=JUDGE_S / 5)
    bounces = world.keeper.bounces
    total = bounces.total
    assert bounces.horizon_s(0) < 60.0
    world.keeper.begin_session()
    assert bounces.horizon_s(0) == 60.0
    assert bounces.total == total and bounces.control.factor("/db", world.now_s) == 0.0


def test_tiers_that_come_later_begin_a_session_that_keeps_the_kernel_from_promoting(tmp_path: Path) -> None:
    world = World(tiers=1)
    one = service(world, tmp_path)

    def picture(should_stop: Callable[[], object], session: Any) -> Any:
        world.tiers = 2
        session.is_over.set()
        return world.picture()

    assert rounds(one, Control(tmp_path), picture) is After.RESTART
    one.keeper.pace = Pace(1.0, 1.0)
    assert rounds(one, Control(tmp_path), picture) is After.STOP


def test_metrics_move_only_with_a_configuration_that_is_taken_over(tmp_path: Path) -> None:
    new = parse("[targets]\npids = [4194303]\n[metrics]\naddress = '127.0.0.1:1'", "test.toml")  # no process
    seen: list[Configuration] = []
    one = service(World(), tmp_path, lambda now: new, on_reload=seen.append)
    before = one.configuration
    assert not one._reload() and seen == [] and one.configuration is before
    new = replace(new, targets=before.targets)
    one._reload()
    assert seen == [new] == [replace(one.configuration, state_dir=new.state_dir)]


def test_a_configuration_whose_metrics_cannot_be_served_is_refused(tmp_path: Path) -> None:
    def refuse(configuration: Configuration) -> None:
        raise HotpageError("metrics cannot be served")

    one = service(World(), tmp_path, lambda now: replace(now, interval=2.0), on_reload=refuse)
    before = one.configuration
    assert not one._reload() and one.configuration is before


def test_a_session_ends_before_its_numbers_for_processes_do(tmp_path: Path) -> None:
    world = World()
    one = service(world, tmp_path)

    def picture(should_stop: Callable[[], object], session: Any) -> Any:
        found = world.picture()
        return replace(found, processes={MOST_PROCESSES: found.processes[0]})

    assert rounds(one, Control(tmp_path), picture) is After.RESTART
    assert one.keeper.totals.plans == 0


def test_another_session_does_without_the_pids_that_have_gone(tmp_path: Path) -> None:
    one = service(World(), tmp_path)
    targets = one.configuration.targets
    watched: list[list[int]] = []

    def session(*_: object) -> After:
        watched.append(one.configuration.targets.pids)
        if len(watched) == 3:
            one.orders.stop = "enough"
        return After.RESTART

    one._one_session = session  # type: ignore[method-assign]
    one.configuration = replace(one.configuration, targets=replace(targets, pids=[4194303]))
    one.run()
    assert watched == [[4194303]], "nobody is left, and that does not mean everybody"
    one.configuration = replace(one.configuration, targets=replace(targets, pids=[os.getpid(), 4194303]))
    one.run()
    assert watched[1:] == [[os.getpid(), 4194303], [os.getpid()]]


def test_a_zombie_has_gone(tmp_path: Path) -> None:
    one = service(World(), tmp_path)
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        targets = replace(one.configuration.targets, pids=[os.getpid(), child.pid])
        one.configuration = replace(one.configuration, targets=targets)
        assert one._drop_gone_pids() and one.configuration.targets.pids == [os.getpid()]
        session_options(one.configuration)  # which refuses zombies


def test_what_a_session_cannot_have_is_said_when_that_shows(tmp_path: Path) -> None:
    said: list[str] = []
    one = service(World(), tmp_path)
    one._say = said.append
    notes = ["the pace cannot be set"]

    def picture(should_stop: Callable[[], object], session: Any) -> None:
        session.progress.notes = list(notes)
        should_stop()
        if len(notes) == 4:
            session.is_over.set()
        notes[1:] = [f"{len(notes)} could not be held", "another"][: len(notes)]
        if len(said) > 1:
            notes.append("the last")

    assert rounds(one, Control(tmp_path), picture) is After.STOP
    assert said[:4] == ["the pace cannot be set", "1 could not be held", "another", "the last"]
    one._say_notes(["the pace cannot be set", "7 could not be held", "another"], finally_=True)
    assert said[5:] == ["7 could not be held"], "after that all has exited"
