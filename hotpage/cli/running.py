# SPDX-License-Identifier: Apache-2.0
"""What verbs share that run for a while: ending on signals, and one line of progress."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hotpage.machine.signals import STOP_SIGNALS, Orders, heeding_signals
from hotpage.profile.inmemory import InMemoryProfile
from hotpage.profile.snapshot import RunEnd, RunInfo
from hotpage.recording.recorder import Options, Recorder
from hotpage.recording.session import ProfileSink, Progress


@contextmanager
def stop_on_signals() -> Iterator[Orders]:
    """The first signal ends the session in good order; a second one of the same kind does what it always
    does. A hang-up that is ignored (nohup) stays so.
    """
    orders = Orders()

    def note(number: signal.Signals) -> bool:
        orders.stop = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        return False

    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heeded = [number for number in STOP_SIGNALS if number != signal.SIGHUP or not is_ignored]
    with heeding_signals(heeded, note):
        yield orders


def look(options: Options, stop_reason: Orders) -> tuple[InMemoryProfile, RunEnd, Progress]:
    """Profile live processes for a while, with a line of progress; ``stop_reason`` may end it early."""
    profiles: list[InMemoryProfile] = []

    def open_sink(run: RunInfo) -> InMemoryProfile:
        profiles.append(InMemoryProfile(run))
        return profiles[0]

    end, progress = run_session(options, open_sink, stop_reason)
    return profiles[0], end, progress


def run_session(
    options: Options, open_sink: Callable[[RunInfo], ProfileSink], stop_reason: Orders
) -> tuple[RunEnd, Progress]:
    """Record with a line of progress; ``stop_reason`` may end it early, in good order."""
    line = ProgressLine()
    recorder = Recorder(options, open_sink, line.show)
    try:
        end = recorder.run(stop_reason)
    finally:
        line.clear()
    return end, recorder.progress


class ProgressLine:
    """One line on a terminal, rewritten; nothing where standard error is no terminal."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()

    def show(self, progress: Progress) -> None:
        """Rewrite the line."""
        if self._is_terminal:
            received = "  ".join(f"{name} {count:,}" for name, count in progress.received.items())
            lost = sum(progress.lost.values())
            share = 100 * (progress.own_cpu_s + progress.bpf_s) / max(progress.elapsed_s, 1.0)
            text = f"{progress.elapsed_s:6.1f} s  {received}  lost {lost:,}  own CPU {share:.1f} %"
            self.say(text)

    def say(self, text: str) -> None:
        """Rewrite the line with this text."""
        if self._is_terminal:
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Make room for other output."""
        if self._is_terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
