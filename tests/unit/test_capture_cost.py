# SPDX-License-Identifier: Apache-2.0
"""What the programs are said to cost, by what the kernel tells of them."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from hotpage.capture import bpf
from hotpage.capture.capture import Capture, Counters

EVENT_NS = 200


class FakeKernel:
    """Counts a program's run time while anybody measures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events, self.run_time_ns = 0, 0
        self.others_measure = False
        self.capture = object.__new__(Capture)
        self.capture._programs = SimpleNamespace(programs={"page_fault": 0})  # type: ignore[assignment]
        self.capture._statistics_fd = None
        monkeypatch.setattr(self.capture, "counters", self.counters)
        monkeypatch.setattr(bpf, "program_statistics", lambda fd: (self.run_time_ns, self.events, 0))
        monkeypatch.setattr(
            bpf, "enable_run_time_statistics", lambda: os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        )

    def counters(self) -> Counters:
        emitted = np.zeros(8, np.uint64)
        emitted[2] = self.events
        return Counters(emitted, np.zeros(8, np.uint64), np.zeros(8, np.uint64))

    def happen(self, events: int) -> None:
        self.events += events
        if self.capture._statistics_fd is not None or self.others_measure:
            self.run_time_ns += events * EVENT_NS


@pytest.mark.parametrize("others_measure", [False, True])
def test_the_cost_grows_with_the_events_measured_or_not(
    monkeypatch: pytest.MonkeyPatch, others_measure: bool
) -> None:
    kernel = FakeKernel(monkeypatch)
    kernel.others_measure = others_measure
    kernel.capture.measure_cost(True)
    told = []
    for _ in range(12):
        kernel.happen(10_000)
        told.append(kernel.capture.cost().run_time_s)
    assert kernel.capture._statistics_fd is None, "enough was seen"
    assert told == pytest.approx([EVENT_NS / 1e9 * 10_000 * (n + 1) for n in range(12)])
