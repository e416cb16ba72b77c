# SPDX-License-Identifier: Apache-2.0
"""NUMA hint faults: a page armed by the kernel's NUMA balancing was accessed. They carry the rate of
accesses.
"""

from __future__ import annotations

from hotpage.capture.events import EventSource
from hotpage.capture.kernel import HINT_FUNCTIONS, Kernel
from hotpage.capture.sources import Attachment, Rung, refusal_of_attachments
from hotpage.capture.sources.pagefault import SOFTWARE_EVENT, TRACEPOINTS

_NEEDED_FIELDS = (
    "HOTPAGE_TASK_MM",
    "HOTPAGE_MM_PGD",
    "HOTPAGE_MM_NUMA_SCAN_OFFSET",
    "HOTPAGE_MM_NUMA_SCAN_SEQ",
)


class HintFaults:
    """fentry, else kprobes, on the functions of a hint fault; else page faults told apart by their page table
    entry.
    """

    name = "hint"
    events = EventSource.HINT_FAULT

    def rungs(self, kernel: Kernel) -> list[Rung]:
        """Function hooks see the node and migrations, too, so they come first."""
        walk = {"HOTPAGE_WALK": kernel.page_table_levels or 4}
        arming: tuple[Attachment, ...] = (Attachment("raw_tracepoint", "tlb_flush", "tlb_flush"),)
        if "HOTPAGE_VMA_VM_START" in kernel.field_defines:
            arming += (Attachment("raw_tracepoint", "sched_skip_vma_numa", "scan_skip", optional=True),)
        return [
            Rung(
                "fentry",
                ("hintfault.bpf.c",),
                tuple(Attachment("fentry", name, name) for name in HINT_FUNCTIONS),
                {"HOTPAGE_FENTRY": 1},
            ),
            Rung(
                "kprobe",
                ("hintfault.bpf.c",),
                tuple(Attachment("kprobe", name, f"kprobe_{name}") for name in HINT_FUNCTIONS),
            ),
            Rung("tracepoint", ("pagefault.bpf.c",), TRACEPOINTS + arming, walk, walks_page_tables=True),
            Rung(
                "software event", ("pagefault.bpf.c",), SOFTWARE_EVENT + arming, walk, walks_page_tables=True
            ),
        ]

    def refusal(self, rung: Rung, kernel: Kernel) -> str | None:
        """The hooks; for the last two rungs also what reading page tables takes."""
        if rung.walks_page_tables:
            if kernel.page_table_levels is None:
                return "page tables are read on x86-64 only"
            missing = [name for name in _NEEDED_FIELDS if name not in kernel.field_defines]
            if missing:
                return f"the kernel's type information lacks {', '.join(missing)}"
            if not any(kernel.arming_text):
                return "/proc/kallsyms hides or lacks change_prot_numa (kernel.kptr_restrict?)"
        return refusal_of_attachments(rung.attachments, kernel)


LADDER = HintFaults()
