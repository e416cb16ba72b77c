# SPDX-License-Identifier: Apache-2.0
"""Page faults: the birth of pages, and growth. They say nothing about the rate of accesses."""

from __future__ import annotations

from hotpage.capture.events import EventSource
from hotpage.capture.kernel import Kernel
from hotpage.capture.perf import PAGE_FAULTS
from hotpage.capture.sources import Attachment, Rung, refusal_of_attachments

TRACEPOINTS = (
    Attachment("raw_tracepoint", "page_fault_user", "page_fault_user"),
    Attachment("raw_tracepoint", "page_fault_kernel", "page_fault_kernel"),
)
SOFTWARE_EVENT = (Attachment("perf_event", "page-faults", "software_page_fault", event=PAGE_FAULTS),)


class PageFaults:
    """exceptions:page_fault_{user,kernel} where the architecture has them, else the software perf event."""

    name = "fault"
    events = EventSource.PAGE_FAULT

    def rungs(self, kernel: Kernel) -> list[Rung]:
        """The tracepoints cost less than the perf event (docs/kernel-interfaces.md)."""
        return [
            Rung("tracepoint", ("pagefault.bpf.c",), TRACEPOINTS),
            Rung("software event", ("pagefault.bpf.c",), SOFTWARE_EVENT),
        ]

    def refusal(self, rung: Rung, kernel: Kernel) -> str | None:
        """Only whether the hooks can be had."""
        return refusal_of_attachments(rung.attachments, kernel)


LADDER = PageFaults()
