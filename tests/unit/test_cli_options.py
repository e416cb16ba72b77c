# SPDX-License-Identifier: Apache-2.0
"""Options that make no sense, or not together: one line that says so, before anything begins."""

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from hotpage.cli import demo as demo_verb
from hotpage.cli import main
from hotpage.recording.recorder import Options, Recorder
from hotpage.service.configuration import Configuration, Observe
from hotpage.service.loop import session_options


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("auto", "-a", "-d", "5"), "-d belongs to one plan: add --once"),
        (("auto", "-a", "--once", "-d", "inf"), "a look cannot last inf s"),
        (("auto", "--check", "--once"), "--check goes with no other option but --config"),
        (("auto", "--check", "--explain", "5"), "--check goes with no other option but --config"),
        (("auto", "--check", "-d", "5"), "--check goes with no other option but --config"),
        (("auto", "--check", "-p", "1"), "--check goes with no other option but --config"),
        (("auto", "--check", "-a"), "--check goes with no other option but --config"),
        (("auto", "--check", "--dry-run"), "--check goes with no other option but --config"),
        (("auto", "--print-config", "-a"), "--print-config goes with no other option"),
        (("auto", "--print-config", "--check"), "--print-config goes with no other option"),
        (("auto", "--print-config", "--config", "x"), "--print-config goes with no other option"),
        (("record", "-p", "1", "2", "3"), "process ids are separated by commas: write -p 1,2,3"),
        (("record", "-a", "-d", "inf"), "a session cannot last inf s"),
        (("record", "-a", "--interval", "inf"), "intervals of inf s make no sense"),
        (("move", "-a", "-d", "inf"), "a look cannot last inf s"),
        (("top", "-d", "nan"), "a refresh every nan s makes no sense"),
        (("top", "-d", "inf"), "a refresh every inf s makes no sense"),
        (("demo", "-d", "nan"), "the demo cannot run like that"),
        (("demo", "-d", "inf"), "the demo cannot run like that"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert main(words) == 2
    printed, complaint = capsys.readouterr()
    assert printed == "" and complaint.count("\n") == 1
    assert complaint.startswith(f"hotpage: {said}")


def test_the_demo_starts_nothing_without_root(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["/opt/hotpage", "demo", "-d", "3"])
    monkeypatch.setattr(demo_verb.Exerciser, "start", lambda **_: pytest.fail("it starts the workload"))
    assert main(["demo", "-d", "3"]) == 1
    assert capsys.readouterr() == (
        "",
        "hotpage: watching the workload needs root: sudo /opt/hotpage demo -d 3\n",
    )


def advice_of(options: Options) -> list[str]:
    capture: Any = SimpleNamespace(refused={}, rungs={"hint": None})
    return list(Recorder(options, lambda run: pytest.fail("it opens"))._advice(capture, 0))


def test_what_would_arm_is_said_in_the_words_of_who_runs() -> None:
    assert "no page is armed; record with --arm, which" in advice_of(Options(None))[0]
    configuration = Configuration(observe=Observe(arm=False))
    assert "no page is armed; set observe.arm = true, which" in advice_of(session_options(configuration))[0]
