# SPDX-License-Identifier: Apache-2.0
"""Sampled loads and stores: what misses the core's caches, seen by the processor. No page is armed for it.

The hardware rungs are written from the kernel's source and have not run on hardware yet
(docs/kernel-interfaces.md). Events and their bits are read from the PMU's own description in sysfs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hotpage.capture.events import EventSource
from hotpage.capture.kernel import CPUINFO, Kernel, cpu_flags
from hotpage.capture.perf import PAGE_FAULTS, PerfEvent, breakpoint_at
from hotpage.capture.sources import Attachment, Rung, refusal_of_attachments
from hotpage.errors import UsageError
from hotpage.machine.topology import parse_cpulist

DEVICES = Path("/sys/bus/event_source/devices")
SAMPLES_HZ = 997
"""Of each event on each CPU. The kernel steers the period to it, so the cost is bounded on any machine, and
every sample tells its period. A prime, so as not to keep step with what is sampled."""
LOAD_LATENCY_CYCLES = 30
"""Intel: loads that took less came from the core's own caches."""
MOST_BREAKPOINTS = 3
"""x86-64 has four debug registers; the self-test needs one."""
_FUNCTION = "memory_sample"
_FILES = ("memsample.bpf.c",)
_INTEL_PMUS = ("cpu", "cpu_core", "cpu_atom")  # the last two on processors with two kinds of core
_PMUS = (*_INTEL_PMUS, "ibs_op", "armv*", "arm_spe*")


@dataclass(frozen=True)
class Pmu:
    """A PMU as sysfs describes it."""

    directory: Path

    @property
    def name(self) -> str:
        """As in ``perf stat -e NAME/.../``."""
        return self.directory.name

    def has(self, event: str) -> bool:
        """Whether it names the event."""
        return (self.directory / "events" / event).is_file()

    def has_format(self, term: str) -> bool:
        """Whether events may be described with this term."""
        return (self.directory / "format" / term).is_file()

    def describe(self, event: str) -> dict[str, int]:
        """The terms of a named event: ``event=0xcd,umask=0x1,ldlat=3``; a term without a value counts 1."""
        text = (self.directory / "events" / event).read_text().strip()
        pairs = [term.partition("=") for term in text.split(",")]
        return {name: int(value or "1", 0) for name, _, value in pairs}

    def event(self, terms: dict[str, int], **words: object) -> PerfEvent:
        """The event of these terms, their bits placed as ``format/`` says; ValueError for odd files."""
        words_of = {"config": 0, "config1": 0, "config2": 0}
        for term, value in terms.items():
            word, _, ranges = (self.directory / "format" / term).read_text().strip().partition(":")
            for part in ranges.split(","):
                first, _, last = part.partition("-")
                low, high = int(first), int(last or first)
                mask = (1 << high - low + 1) - 1
                words_of[word] |= (value & mask) << low
                value >>= high - low + 1
            if value:
                raise ValueError(f"{self.name}: {term} is too large for {ranges}")
        type_number = int((self.directory / "type").read_text())
        return PerfEvent(type_number, cpus=self._cpus(), **words_of, **words)  # type: ignore[arg-type]

    def _cpus(self) -> frozenset[int] | None:
        """The CPUs that have it, where the machine has others, too."""
        file = self.directory / "cpus"
        return frozenset(parse_cpulist(file.read_text())) if file.is_file() else None


def intel_attachments(pmu: Pmu) -> list[Attachment]:
    """Slow loads and, where they can be had too, stores of one PMU."""
    precise = {"frequency_hz": SAMPLES_HZ, "precise_ip": 2, "data_source": True, "exclude_kernel": True}
    leader = None
    if pmu.has("mem-loads-aux"):
        # Sapphire Rapids, Alder Lake and later refuse mem-loads with a data source outside such a group.
        leader = pmu.event(pmu.describe("mem-loads-aux"), exclude_kernel=True)
    loads = pmu.event(pmu.describe("mem-loads") | {"ldlat": LOAD_LATENCY_CYCLES}, leader=leader, **precise)
    found = [Attachment("perf_event", f"{pmu.name}/mem-loads", _FUNCTION, event=loads)]
    if pmu.has("mem-stores"):
        stores = pmu.event(pmu.describe("mem-stores"), **precise)
        hook = f"{pmu.name}/mem-stores"
        found.append(Attachment("perf_event", hook, _FUNCTION, optional=True, event=stores))
    return found


def amd_attachment(pmu: Pmu) -> Attachment:
    """Micro-operations; where the processor can filter, only those that missed its last cache."""
    terms = {"cnt_ctl": 1} if pmu.has_format("cnt_ctl") else {}
    if pmu.has_format("l3missonly"):
        terms["l3missonly"] = 1
    # No exclude_kernel: refused before 7.x. The program leaves kernel addresses out.
    event = pmu.event(terms, frequency_hz=SAMPLES_HZ, data_source=True)
    return Attachment("perf_event", pmu.name, _FUNCTION, event=event)


class MemorySamples:
    """Intel PEBS, else AMD IBS; only when named, events that any machine has, to test the rest."""

    name = "sample"
    events = EventSource.MEMORY_SAMPLE

    def __init__(self, devices: Path = DEVICES, cpuinfo: Path = CPUINFO) -> None:
        self._devices = devices
        self._cpuinfo = cpuinfo
        self._unreadable: dict[str, str] = {}

    def rungs(self, kernel: Kernel) -> list[Rung]:
        """A rung without attachments is one that this machine has no PMU for."""
        faults = Attachment("perf_event", "page-faults with address", _FUNCTION, event=PAGE_FAULTS)
        at = partial(_at_addresses, "breakpoint")
        return [
            self._hardware_rung("pebs", self._intel),
            self._hardware_rung("ibs", self._amd),
            Rung("breakpoint", _FILES, (), only_by_name=True, at_addresses=at),
            Rung("software event", _FILES, (faults,), only_by_name=True, samples_page_faults=True),
        ]

    def _intel(self) -> list[Attachment]:
        pmus = [pmu for name in _INTEL_PMUS if (pmu := Pmu(self._devices / name)).has("mem-loads")]
        return [attachment for pmu in pmus for attachment in intel_attachments(pmu)]

    def _amd(self) -> list[Attachment]:
        pmu = Pmu(self._devices / "ibs_op")
        return [amd_attachment(pmu)] if pmu.directory.is_dir() else []

    def _hardware_rung(self, name: str, describe: Callable[[], list[Attachment]]) -> Rung:
        self._unreadable.pop(name, None)
        try:
            return Rung(name, _FILES, tuple(describe()))
        except (OSError, ValueError, KeyError) as error:
            self._unreadable[name] = f"sysfs describes the PMU in a way that hotpage cannot read ({error})"
            return Rung(name, _FILES, ())

    def refusal(self, rung: Rung, kernel: Kernel) -> str | None:
        """Attach to each event that the rung cannot do without."""
        attachments = rung.attachments
        if rung.name == "breakpoint" and not attachments:
            attachments = (_breakpoint(0x1000),)
        if not attachments:
            return self._unreadable.get(rung.name) or self._no_pmu()
        return refusal_of_attachments(attachments, kernel)

    def _no_pmu(self) -> str:
        machine = "virtual machine" if "hypervisor" in cpu_flags(self._cpuinfo) else "machine"
        if any(any(self._devices.glob(pattern)) for pattern in _PMUS):
            return f"this {machine}'s PMU samples no data addresses this way"
        return f"this {machine} has no PMU"


def _breakpoint(address: int) -> Attachment:
    return Attachment("perf_event", f"breakpoint {address:#x}", _FUNCTION, event=breakpoint_at(address))


def _at_addresses(name: str, addresses: tuple[int, ...]) -> Rung:
    if not 1 <= len(addresses) <= MOST_BREAKPOINTS:
        raise UsageError(
            f"breakpoints watch 1 to {MOST_BREAKPOINTS} addresses, not {len(addresses)}",
            "name them: --source sample=breakpoint:0x7f00deadb000",
        )
    if any(address % 8 for address in addresses):
        raise UsageError("a breakpoint watches 8 aligned bytes", "give addresses that are multiples of 8")
    return Rung(name, _FILES, tuple(map(_breakpoint, addresses)), only_by_name=True)


LADDER = MemorySamples()
