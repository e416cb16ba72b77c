# SPDX-License-Identifier: Apache-2.0
"""The self-test of a PMU, with captures of our own making: no PMU is needed to see that it can fail."""

from dataclasses import replace

import numpy as np
import pytest
from recorded import batch, fault, sample

from hotpage.capture import perf, selftest
from hotpage.capture.capture import Counters
from hotpage.capture.events import EVENT_DTYPE, Events
from hotpage.capture.sources import Attachment, Rung, RungFailed

PEBS = Rung("pebs", ("memsample.bpf.c",), (Attachment("perf_event", "cpu/mem-loads", "memory_sample"),))
START_VPN = 0x7F0000000
NOTHING = np.empty(0, EVENT_DTYPE)


class FakeCapture:
    """Hands out batches; afterwards nothing."""

    def __init__(self, *batches: Events) -> None:
        self.rungs = {"sample": PEBS}
        self.batches = list(batches)

    def read(self) -> Events:
        return self.batches.pop(0) if self.batches else NOTHING

    def counters(self) -> Counters:
        return Counters(*(np.zeros(8, np.uint64) for _ in range(3)))

    def program(self, attachment: Attachment) -> int:
        assert attachment is PEBS.attachments[0]
        return 42

    def set_self_test(self, on: bool) -> None:
        self.is_on = on


@pytest.fixture(autouse=True)
def small_and_without_breakpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **more: object) -> list[int]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(perf, "attach", refuse)
    monkeypatch.setattr(selftest, "_address", lambda memory: START_VPN << 12)
    monkeypatch.setattr(selftest, "_READ_AT_RANDOM_BYTES", 1 << 16)
    monkeypatch.setattr(selftest, "_READS", 100)
    monkeypatch.setattr(selftest, "_LONGEST_READING_S", 0.05)


def run(capture: FakeCapture) -> None:
    selftest.run(capture)  # type: ignore[arg-type]
    assert not capture.is_on


def test_a_pmu_that_samples_the_reads_passes() -> None:
    run(FakeCapture(NOTHING, NOTHING, batch(sample(START_VPN + 200, 1), sample(START_VPN + 3, 1))))


@pytest.mark.parametrize(
    "events",
    [NOTHING, batch(sample(START_VPN + 16, 1)), batch(sample(7, 1), fault(START_VPN + 3, 1))],
    ids=["nothing", "just beyond", "elsewhere, or no sample"],
)
def test_a_pmu_that_does_not_fails(events: Events) -> None:
    with pytest.raises(RungFailed, match="sampled none of many reads") as raised:
        run(FakeCapture(NOTHING, events))
    assert raised.value.sources == ("sample",)


def test_without_a_free_debug_register_breakpoints_are_refused_and_page_faults_are_not() -> None:
    capture = FakeCapture()
    capture.rungs = {"sample": replace(PEBS, name="breakpoint", only_by_name=True)}
    with pytest.raises(RungFailed, match="no debug register is free for the self-test"):
        run(capture)
    faults = batch(*(sample(START_VPN + page, 1) for page in range(selftest.TOUCHED_PAGES)))
    for seen, passes in ((faults, True), (faults[:-1], False)):
        capture = FakeCapture(seen)
        capture.rungs = {"sample": replace(PEBS, only_by_name=True, samples_page_faults=True)}
        if passes:
            run(capture)
        else:
            with pytest.raises(RungFailed, match="saw 22 of 23"):
                run(capture)


def test_the_program_has_to_see_every_access(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "attach", lambda *words, **more: [])
    almost = batch(*(sample(START_VPN, 1) for _ in range(selftest.TOUCHED_PAGES)))
    almost["address"] += np.uint64(8)
    almost["address"][-1] += np.uint64(8)
    with pytest.raises(RungFailed, match="saw 22 of 23 test accesses"):
        run(FakeCapture(NOTHING, almost))
