# SPDX-License-Identifier: Apache-2.0
"""A rung whose hooks can be had may fail all the same: then the next one is taken, and the reason kept."""

import pytest

from hotpage.capture import calibration, selftest
from hotpage.capture.capture import Capture
from hotpage.capture.kernel import Kernel
from hotpage.capture.links import Links
from hotpage.capture.sources import Attachment, RungFailed
from hotpage.errors import AttachError, UnsupportedError

pytestmark = pytest.mark.needs("bcc")


def test_the_next_rung_is_taken_when_attaching_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    attach = Links.attach

    def refuse_fault_tracepoints(self: Links, attachment: Attachment, program: int) -> None:
        if attachment.hook == "page_fault_user":
            raise AttachError("cannot attach to page_fault_user (forbidden here)")
        attach(self, attachment, program)

    monkeypatch.setattr(Links, "attach", refuse_fault_tracepoints)
    with Capture(("fault",)) as capture:
        assert capture.rungs["fault"].name == "software event"
        assert "forbidden here" in capture.kernel.failures["fault", "tracepoint"]


def test_a_source_without_rungs_left_is_refused_beside_one_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_nothing(program: int, config: int) -> int:
        raise UnsupportedError("they are encrypted")

    monkeypatch.setattr(calibration, "find_direct_map", find_nothing)
    kernel = Kernel()
    kernel.failures |= {("hint", rung): "not here" for rung in ("fentry", "kprobe")}
    with Capture(("hint", "fault"), kernel=kernel) as capture:
        assert list(capture.rungs) == ["fault"]
        assert "they are encrypted" in capture.refused["hint"]
    with pytest.raises(UnsupportedError, match=r"'hint' does not work as named .*they are encrypted"):
        Capture(("hint", "fault"), forced_rungs={"hint": "tracepoint"})


def test_a_source_that_sees_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def see_nothing(capture: Capture) -> None:
        raise RungFailed(list(capture.rungs), "attached, but saw 0 of 23 test accesses")

    monkeypatch.setattr(selftest, "run", see_nothing)
    with pytest.raises(UnsupportedError, match=r"tracepoint: .*saw 0 of 23.*software event: .*saw 0 of 23"):
        Capture(("fault",))


def test_counts_are_those_of_the_rung_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    run, failed = selftest.run, []

    def fail_once(capture: Capture) -> None:
        run(capture)
        if not failed:
            failed.append(capture.rungs["fault"].name)
            raise RungFailed(["fault"], "not this one")

    monkeypatch.setattr(selftest, "run", fail_once)
    with Capture(("fault",)) as capture:
        assert failed and failed != [capture.rungs["fault"].name]
        counters = capture.counters()
        assert counters.emitted.sum() == capture.received + counters.lost.sum() > 0
