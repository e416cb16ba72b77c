# SPDX-License-Identifier: Apache-2.0
"""What the running kernel lets BPF programs do, found out by trying, each thing once."""

from __future__ import annotations

import contextlib
import functools
import platform
from pathlib import Path

from hotpage.capture import bpf, kallsyms, perf
from hotpage.capture.btf import Btf
from hotpage.capture.perf import PerfEvent
from hotpage.errors import UnsupportedError

_FIELDS = (
    ("task_struct", "mm"),
    ("task_struct", "tgid"),
    ("task_struct", "group_leader"),
    ("task_struct", "comm"),
    ("task_struct", "pagefault_disabled"),
    ("mm_struct", "pgd"),
    ("mm_struct", "numa_scan_offset"),
    ("mm_struct", "numa_scan_seq"),
    ("vm_area_struct", "vm_start"),
    ("vm_area_struct", "vm_end"),
    ("perf_sample_data", "sample_flags"),
    ("perf_sample_data", "data_src"),
)
HINT_FUNCTIONS = ("mpol_misplaced", "task_numa_fault", "change_prot_numa")
"""The functions of a hint fault, and the one that arms."""
CPUINFO = Path("/proc/cpuinfo")
_SHORT = {"task_struct": "TASK", "mm_struct": "MM", "vm_area_struct": "VMA", "perf_sample_data": "SAMPLE"}


def cpu_flags(cpuinfo: Path = CPUINFO) -> list[str]:
    """What the first x86-64 CPU can do, under the names of the kernel."""
    lines = cpuinfo.read_text().splitlines()
    return next((line.split() for line in lines if line.startswith("flags")), [])


class Kernel:
    """The running kernel as BPF programs meet it. Every answer is cached: a session asks about the same few
    hooks.
    """

    def __init__(self) -> None:
        self._refusals: dict[tuple[str, str], str | None] = {}
        self.failures: dict[tuple[str, str], str] = {}
        """By source and rung: why a rung that seemed to work did not when it was used."""

    @functools.cached_property
    def _types(self) -> tuple[dict[str, int], dict[str, int]]:
        """Wanted field offsets and function ids. The type information itself, 10 MB of it, is not kept."""
        try:
            btf = Btf()
        except UnsupportedError:
            return {}, {}
        offsets, functions = {}, {}
        for structure, field in _FIELDS:
            with contextlib.suppress(KeyError):
                offsets[f"HOTPAGE_{_SHORT[structure]}_{field.upper()}"] = btf.offset(structure, field)
        for name in HINT_FUNCTIONS:
            with contextlib.suppress(KeyError):
                functions[name] = btf.function_id(name)
        return offsets, functions

    @property
    def field_defines(self) -> dict[str, int]:
        """Offsets of the struct fields that programs may read, as HOTPAGE_<TYPE>_<FIELD>."""
        return self._types[0]

    @functools.cached_property
    def arming_text(self) -> list[int]:
        """[start, end, start, end] of change_prot_numa and task_numa_work; zeros where unknown."""
        ranges = [kallsyms.text_range(name) or (0, 0) for name in ("change_prot_numa", "task_numa_work")]
        return [address for pair in ranges for address in pair]

    @functools.cached_property
    def page_table_levels(self) -> int | None:
        """4 or 5 on x86-64, None elsewhere."""
        if platform.machine() != "x86_64":
            return None
        return 5 if "la57" in cpu_flags() else 4

    def refusal(self, kind: str, hook: str, event: PerfEvent | None = None) -> str | None:
        """Why a program of this kind cannot attach to this hook, or None; kinds as in sources.Attachment. A
        perf event's ``hook`` is its name.
        """
        if (kind, hook) not in self._refusals:
            self._refusals[kind, hook] = self._try(kind, hook, event)
        return self._refusals[kind, hook]

    def _try(self, kind: str, hook: str, event: PerfEvent | None) -> str | None:
        try:
            if event is not None:
                perf.try_event(event)
            elif kind == "raw_tracepoint":
                bpf.try_raw_tracepoint(hook)
            elif kind == "fentry":
                if not self._types[1]:
                    return "the kernel carries no type information (CONFIG_DEBUG_INFO_BTF)"
                bpf.try_fentry(self._types[1][hook])
            else:
                perf.try_kprobe(hook)
        except KeyError:
            return "the kernel has no such function"
        except FileNotFoundError as error:
            return "the kernel has no such tracepoint" if kind == "raw_tracepoint" else error.strerror
        except OSError as error:
            return error.strerror or str(error)
        return None
