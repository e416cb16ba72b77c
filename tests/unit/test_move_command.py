# SPDX-License-Identifier: Apache-2.0
"""``hotpage move`` up to where it would move pages: a look that a signal ends, a dry run."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from profiles import run_info
from situations import candidates, facts, room

from hotpage.cli import main, running
from hotpage.cli import move as verb
from hotpage.machine.topology import Topology
from hotpage.placement.outcome import Outcome
from hotpage.placement.plan import Situation
from hotpage.profile.snapshot import RunEnd, RunInfo
from hotpage.recording.recorder import Options
from hotpage.recording.session import ProfileSink, Progress

TWO_NODES = SimpleNamespace(
    nodes=[SimpleNamespace(id=0, tier=0), SimpleNamespace(id=1, tier=1)],
    kernel_tiers={"memory_tier4": (0, 1)},
)
"""Two tiers, of which the kernel sees one."""


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
    monkeypatch.setattr(Topology, "read", lambda: TWO_NODES)
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


@pytest.mark.parametrize(
    ("direction", "verb_of_kernel"), [("--promote", "promotes"), ("--demote", "demotes")], ids=lambda one: one
)
def test_a_dry_run_refuses_what_the_kernel_cannot_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    direction: str,
    verb_of_kernel: str,
) -> None:
    rows = candidates([(0, 1000, 1, 1, 900.0), (0, 1001, 1, 0, 0.01)])
    situation = Situation(rows, {0: facts()}, [room(0, 100), room(1, 100)])
    monkeypatch.setenv("HOTPAGE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(Topology, "read", lambda: TWO_NODES)
    monkeypatch.setattr(verb, "require_root", lambda doing: None)
    monkeypatch.setattr(verb, "ProfileReader", lambda path: SimpleNamespace(snapshot=lambda: None))
    monkeypatch.setattr(verb, "gather", lambda *_: SimpleNamespace(gone=(), situation=situation))
    words = ["move", "-i", str(tmp_path), direction, "--hot", "100/s", "--dry-run"]
    movers: list[str] = []

    @contextlib.contextmanager
    def open_mover(name: str, *_: object) -> Iterator[object]:
        movers.append(name)
        yield SimpleNamespace(run=lambda *_: Outcome([]))

    monkeypatch.setattr(verb, "_open_mover", open_mover)
    assert main(words) == 0 and movers == ["dry-run"]
    capsys.readouterr()
    assert main([*words, "--mover", "kernel"]) == 1 and movers == ["dry-run"]
    assert (
        f"the kernel sees one memory tier, so it {verb_of_kernel} nothing itself" in capsys.readouterr().err
    )
    assert not (tmp_path / "state").exists()
