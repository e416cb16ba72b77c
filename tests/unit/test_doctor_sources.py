# SPDX-License-Identifier: Apache-2.0
"""What doctor says of sources, their rungs and bcc, with kernels and captures of our own making."""

import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hotpage.capture import findbcc
from hotpage.capture.perf import PerfEvent
from hotpage.capture.sources import ladders
from hotpage.errors import (
    CompileError,
    HotpageError,
    MissingDependencyError,
    PrivilegeError,
    UnsupportedError,
)
from hotpage.recording import diagnosis
from hotpage.recording.checks import Check
from hotpage.recording.diagnosis import Diagnosis, SelfTest

OFFSETS = (
    "HOTPAGE_TASK_MM",
    "HOTPAGE_TASK_TGID",
    "HOTPAGE_MM_PGD",
    "HOTPAGE_MM_NUMA_SCAN_OFFSET",
    "HOTPAGE_MM_NUMA_SCAN_SEQ",
)


NO_PMU = UnsupportedError("this virtual machine has no PMU")


class FakeKernel:
    """``closed``: kinds of attachments, or hooks, that are refused."""

    page_table_levels = 4

    def __init__(self, *closed: str, has_types: bool = True, shows_symbols: bool = True) -> None:
        self.closed = closed
        self.field_defines = dict.fromkeys(OFFSETS, 8) if has_types else {}
        self.arming_text = [1, 2, 3, 4] if shows_symbols else [0, 0, 0, 0]

    def refusal(self, kind: str, hook: str, event: PerfEvent | None = None) -> str | None:
        if "machine" in self.closed:
            raise UnsupportedError("hotpage knows x86-64 and arm64, and this machine is vax")
        return "Operation not permitted" if kind in self.closed or hook in self.closed else None


class FakeCapture:
    def __init__(self, rungs: dict[str, str], refused: dict[str, str]) -> None:
        self.rungs = {name: SimpleNamespace(name=rung) for name, rung in rungs.items()}
        self.refused = refused

    def __enter__(self) -> "FakeCapture":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def opening(behaviour: Callable[[tuple[str, ...]], FakeCapture]) -> Any:
    def open_capture(names: Iterable[str], kernel: object) -> FakeCapture:
        return behaviour(tuple(sorted(names)))

    return open_capture


def sources(kernel: FakeKernel, tested: SelfTest) -> dict[str, Check]:
    if "sample" not in tested.rungs:
        tested = replace(tested, problems={"sample": NO_PMU} | tested.problems)
    found = diagnosis.check_sources(kernel, tested, "hotpage")  # type: ignore[arg-type]
    return {check.name: check for check in found}


def test_sources_that_work_are_loaded_once() -> None:
    asked = []

    def behaviour(names: tuple[str, ...]) -> FakeCapture:
        asked.append(names)
        return FakeCapture({"hint": "tracepoint", "fault": "tracepoint"}, {})

    tested = diagnosis.try_sources(FakeKernel(), opening(behaviour))  # type: ignore[arg-type]
    assert asked == [("fault", "hint", "sample")]
    assert tested.rungs == {"hint": "tracepoint", "fault": "tracepoint"}
    assert tested.problems == {}


def test_a_source_that_fails_does_not_hide_one_that_works() -> None:
    def behaviour(names: tuple[str, ...]) -> FakeCapture:
        if "hint" in names:
            raise UnsupportedError("source 'hint' saw 0 of 23 test accesses", "leave it out with --source")
        return FakeCapture({"fault": "tracepoint"}, {})

    tested = diagnosis.try_sources(FakeKernel(), opening(behaviour))  # type: ignore[arg-type]
    assert tested.rungs == {"fault": "tracepoint"}
    found = sources(FakeKernel(), tested)
    assert found["source fault"].state == "ok"
    assert found["source hint"].state == "no"
    assert found["source hint"].finding == "source 'hint' saw 0 of 23 test accesses"
    assert found["source hint"].next_step == "leave it out with --source"
    assert found["source hint"].essential
    assert not found["source fault"].essential


@pytest.mark.parametrize(
    "error",
    [
        PrivilegeError("capturing page accesses needs root", "run it with sudo"),
        MissingDependencyError(
            "bcc is not installed (No module named 'bcc')", "sudo dnf install python3-bcc"
        ),
    ],
)
def test_what_fails_every_source_is_not_tried_again(error: HotpageError) -> None:
    asked = []

    def behaviour(names: tuple[str, ...]) -> FakeCapture:
        asked.append(names)
        raise error

    tested = diagnosis.try_sources(FakeKernel(), opening(behaviour))  # type: ignore[arg-type]
    assert len(asked) == 1
    next_steps = {
        check.next_step
        for name, check in sources(FakeKernel(), tested).items()
        if name in ("source hint", "source fault")
    }
    expected = "sudo hotpage doctor" if isinstance(error, PrivilegeError) else error.remedy
    assert next_steps == {expected}


def test_a_source_left_out_by_capture_is_a_problem() -> None:
    def behaviour(names: tuple[str, ...]) -> FakeCapture:
        return FakeCapture({"fault": "tracepoint"}, {"hint": "fentry: no; kprobe: no"})

    tested = diagnosis.try_sources(FakeKernel(), opening(behaviour))  # type: ignore[arg-type]
    closed = FakeKernel("fentry", "kprobe", has_types=False)
    hint = sources(closed, tested)["source hint"]
    assert hint.state == "no"
    assert hint.finding == "none of the ways below works here"


def test_every_rung_of_every_source_has_its_row_below_the_source() -> None:
    kernel = FakeKernel("fentry", "kprobe")
    tested = SelfTest({"hint": "tracepoint", "fault": "tracepoint"}, {}, 0.5)
    found = sources(kernel, tested)
    expected = []
    for name in ("hint", "fault", "sample"):
        expected.append(f"source {name}")
        expected += [f"{name}/{rung.name}" for rung in ladders()[name].rungs(kernel)]  # type: ignore[arg-type]
    assert list(found) == expected
    assert found["hint/fentry"].state == found["hint/kprobe"].state == "no"
    assert found["hint/fentry"].finding == "fentry mpol_misplaced: Operation not permitted"
    assert found["hint/tracepoint"].finding == "taken"
    assert found["hint/software event"].finding == "can be attached"


def test_an_unknown_machine_is_said_row_by_row() -> None:
    problem = CompileError("hotpage's BPF programs know x86-64 and arm64, not vax")
    found = sources(FakeKernel("machine"), SelfTest({}, {"hint": problem, "fault": problem}, 0.1))
    assert {check.state for check in found.values()} == {"no"}
    assert "vax" in found["fault/tracepoint"].finding
    assert diagnosis.check_perf_event(FakeKernel("machine")).state == "limited"  # type: ignore[arg-type]


def test_kernel_rows() -> None:
    whole = FakeKernel()
    bare = FakeKernel("perf_event", "raw_tracepoint", has_types=False, shows_symbols=False)
    for check in (diagnosis.check_types, diagnosis.check_symbols, diagnosis.check_perf_event):
        assert check(whole).state == "ok"  # type: ignore[arg-type]
        assert check(bare).state == "limited"  # type: ignore[arg-type]
    assert diagnosis.check_tracepoints(whole).state == "ok"  # type: ignore[arg-type]
    assert diagnosis.check_tracepoints(bare).state == "no"  # type: ignore[arg-type]


def test_a_single_missing_tracepoint_is_named_with_its_use() -> None:
    check = diagnosis.check_tracepoints(FakeKernel("tlb_flush"))  # type: ignore[arg-type]
    assert check.state == "limited"
    assert check.finding == "no tlb_flush (the time of arming): Operation not permitted"


def row(name: str, state: Any, essential: bool) -> Check:
    return Check(name, state, "", "", essential=essential)


@pytest.mark.parametrize(
    ("checks", "blocker"),
    [
        ([row("a", "ok", True), row("b", "no", False), row("c", "limited", True)], None),
        ([row("a", "ok", True), row("b", "no", True), row("c", "no", True)], "b"),
    ],
)
def test_only_what_is_essential_blocks(checks: list[Check], blocker: str | None) -> None:
    found = Diagnosis(checks).blocker
    assert (found and found.name) == blocker


def test_bcc_is_told_with_interpreter_and_version_or_how_to_install_it() -> None:
    assert diagnosis.check_bcc(lambda: ("/usr/bin/python3", "0.31.0")).finding == "0.31.0 in /usr/bin/python3"

    def missing() -> tuple[str, str]:
        raise MissingDependencyError("bcc is not installed (no)", "sudo apt-get install python3-bpfcc")

    check = diagnosis.check_bcc(missing)
    assert (check.state, check.next_step) == ("no", "sudo apt-get install python3-bpfcc")
    assert check.essential


@pytest.fixture
def interpreter(tmp_path: Path) -> Callable[[str], str]:
    def make(body: str) -> str:
        """An executable that runs the probe with this text as module bcc; -I keeps PYTHONPATH out."""
        number = len(list(tmp_path.iterdir()))
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/bcc.py").write_text(body)
        script = tmp_path / f"{number}/python3"
        script.write_text(
            f'#!/bin/sh\nshift\ncd {tmp_path}/{number}\nexec {shlex.quote(sys.executable)} "$@"\n'
        )
        script.chmod(0o755)
        return str(script)

    return make


def test_the_lattice_library_of_the_index_is_not_bcc(
    interpreter: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lattices = interpreter("__version__ = '1.0'\n")
    real = interpreter("class BPF: pass\n__version__ = '0.31.0'\n")
    monkeypatch.setattr(findbcc, "interpreters_with_bcc", lambda: ["/nonexistent", lattices, real])
    assert findbcc.find_bcc() == (real, "0.31.0")


def test_without_bcc_the_last_interpreter_s_reason_is_told(
    interpreter: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = interpreter("raise OSError('libbcc.so.0: cannot open shared object file')\n")
    monkeypatch.setattr(findbcc, "interpreters_with_bcc", lambda: [broken])
    with pytest.raises(MissingDependencyError, match=r"libbcc\.so\.0: cannot open") as caught:
        findbcc.find_bcc()
    assert "\n" not in str(caught.value)
