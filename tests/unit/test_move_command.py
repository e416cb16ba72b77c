# SPDX-License-Identifier: Apache-2.0
"""``hotpage move`` up to where it would move pages: a look that a signal ends."""

import signal
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from profiles import run_info

from hotpage.cli import main, running
from hotpage.cli import move as verb
from hotpage.machine.topology import Topology
from hotpage.profile.snapshot import RunEnd, RunInfo
from hotpage.recording.recorder import Options
from hotpage.recording.session import ProfileSink, Progress


class Interrupted:
    """A Recorder that meets a signal in the middle of its session."""

    number = signal.SIGINT

    def __init__(self, options: Options, open_sink: Callable[[RunInfo], ProfileSink], _: object) -> None:
        self.progress = Progress()
        self._open_sink = open_sink

    def run(self, should_stop: Callable[[], str | None]) -> RunEnd:
        self._open_sink(run_info())
        signal.raise_signal(self.number)
        return RunEnd(1.0, should_stop() or "complete")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_moves_after_a_look_that_a_signal_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    nodes = [SimpleNamespace(id=0, tier=0), SimpleNamespace(id=1, tier=1)]
    monkeypatch.setattr(Topology, "read", lambda: SimpleNamespace(nodes=nodes))
    monkeypatch.setattr(Interrupted, "number", number)
    monkeypatch.setattr(running, "Recorder", Interrupted)
    monkeypatch.setattr(verb, "require_root", lambda doing: None)
    monkeypatch.setattr(verb, "gather", lambda *_: pytest.fail("it goes on"))
    before = signal.getsignal(number)
    assert main(["move", "-a"]) == 130
    assert capsys.readouterr() == ("", "hotpage: stopped while looking: nothing was moved\n")
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--policy", "cold", "--promote"), "the policy cold only demotes"),
        (("--policy", "cold", "--promote", "--demote"), "the policy cold only demotes"),
        (("--policy", "fit", "--demote"), "the policy fit demotes only what makes room for promotions"),
        (("--policy", "random", "--demote"), "the policy random demotes only what makes room for promotions"),
    ],
)
def test_a_policy_is_not_asked_for_what_it_does_not_do(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert main(["move", *options]) == 2
    printed, complaint = capsys.readouterr()
    assert printed == "" and complaint.startswith(f"hotpage: {said}") and complaint.count("\n") == 1
