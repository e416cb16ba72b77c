# SPDX-License-Identifier: Apache-2.0
"""Sessions and rounds of the service: what a reload and another session change, and what they do not."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from serviceworld import BASE, PAGE, World

from hotpage.service.configuration import Configuration
from hotpage.service.control import Control, Question
from hotpage.service.loop import After, Orders, Service


def service(
    world: World,
    directory: Path,
    reread: Callable[[Configuration], Configuration] = lambda now: now,
    say: Callable[[str], None] = lambda text: None,
) -> Service:
    """Of a world; it begins no session by itself."""
    configuration = replace(world.configuration, dry_run=True, state_dir=str(directory))
    one = Service(configuration, Orders(), lambda: reread(one.configuration), say)
    one.keeper = world.keeper
    return one


def rounds(one: Service, control: Control, picture: Callable[[Callable[[], object], Any], Any]) -> After:
    """A session in which ``picture`` (should_stop, session) is what each wait for a picture comes to."""
    progress = SimpleNamespace(elapsed_s=1.0)
    session: Any = SimpleNamespace(is_over=threading.Event(), progress=progress, error=None)
    feed: Any = SimpleNamespace(events=0, picture=lambda should_stop: picture(should_stop, session))
    return one._rounds(session, feed, control, None)


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
