# SPDX-License-Identifier: Apache-2.0
"""Signals that end what runs for a while, heeded in good order."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Orders:
    """What signals ask for. ``stop``: the reason to end; ``reload``: read the configuration again."""

    stop: str | None = None
    reload: bool = False

    def __call__(self) -> str | None:
        return self.stop


@contextmanager
def heeding_signals(
    numbers: Iterable[signal.Signals], note: Callable[[signal.Signals], bool]
) -> Iterator[None]:
    """Call ``note`` on each of these signals; once it returns False, the next of that kind does what it
    always does.
    """
    before = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, _frame: FrameType | None) -> None:
        known = signal.Signals(number)
        if not note(known):
            signal.signal(number, before[known])

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
