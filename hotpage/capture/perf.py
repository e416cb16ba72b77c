# SPDX-License-Identifier: Apache-2.0
"""Perf events: their attributes, and programs attached to them; also how a kprobe is attached.

Own perf_event_open(2) and PERF_EVENT_IOC_SET_BPF, because bcc's wrapper keeps one event per (type, config)
and knows no group. Functions raise OSError with the kernel's errno; descriptors are the caller's.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hotpage.capture import bpf

PERF_TYPE_SOFTWARE, PERF_TYPE_BREAKPOINT = 1, 5
SW_PAGE_FAULTS = 2
BREAKPOINT_WRITE, BREAKPOINT_READ_WRITE = 2, 3

SAMPLE_ADDR, SAMPLE_DATA_SRC = 1 << 3, 1 << 15
_DISABLED, _EXCLUDE_KERNEL, _EXCLUDE_HV, _FREQUENCY = 1 << 0, 1 << 5, 1 << 6, 1 << 10
_PRECISE_SHIFT = 15
_READ_TIMES = 1 << 0 | 1 << 1  # PERF_FORMAT_TOTAL_TIME_ENABLED, _RUNNING
_FLAG_FD_CLOEXEC = 8
_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408
# struct perf_event_attr up to PERF_ATTR_SIZE_VER5: type, size, config, period or frequency, sample_type,
# read_format, flags, wakeup_events, bp_type, config1 (bp_addr), config2 (bp_len).
_ATTRIBUTES = struct.Struct("<IIQQQQQIIQQ")
_ATTRIBUTE_BYTES = 112


@dataclass(frozen=True)
class PerfEvent:
    """What to count on a CPU, and how often to sample it. ``frequency_hz`` or a fixed ``period``."""

    type: int
    config: int = 0
    config1: int = 0
    config2: int = 0
    period: int = 1
    frequency_hz: int = 0
    precise_ip: int = 0
    data_source: bool = False
    exclude_kernel: bool = False
    breakpoint_type: int = 0
    cpus: frozenset[int] | None = None
    """CPUs that have this event; None: all of them."""
    leader: PerfEvent | None = None
    """An event that has to head the group of this one; only counted."""

    def online_cpus(self) -> list[int]:
        """The CPUs that are online now and have this event."""
        return [cpu for cpu in bpf.online_cpus() if self.cpus is None or cpu in self.cpus]

    def attributes(self) -> bytes:
        """struct perf_event_attr, disabled until a program is attached.

        ``wakeup_events`` is 1: with a fixed period and 0, Intel's driver collects precise samples in its
        buffer and delivers most of them past the overflow handler, and so past BPF ("large PEBS").
        """
        flags = _DISABLED | self.precise_ip << _PRECISE_SHIFT
        if self.exclude_kernel:
            flags |= _EXCLUDE_KERNEL | _EXCLUDE_HV
        if self.frequency_hz:
            flags |= _FREQUENCY
        return _ATTRIBUTES.pack(
            self.type,
            _ATTRIBUTE_BYTES,
            self.config,
            self.frequency_hz or self.period,
            SAMPLE_ADDR | (SAMPLE_DATA_SRC if self.data_source else 0),
            _READ_TIMES,
            flags,
            1,
            self.breakpoint_type,
            self.config1,
            self.config2,
        ).ljust(_ATTRIBUTE_BYTES, b"\0")

    def leader_attributes(self) -> bytes:
        """The same for the head of a group, which is not sampled and counts from the start."""
        flags = (_EXCLUDE_KERNEL | _EXCLUDE_HV) if self.exclude_kernel else 0
        return _ATTRIBUTES.pack(
            self.type, _ATTRIBUTE_BYTES, self.config, 0, 0, 0, flags, 0, 0, self.config1, self.config2
        ).ljust(_ATTRIBUTE_BYTES, b"\0")


def breakpoint_at(address: int, read: bool = True, length: int = 8) -> PerfEvent:
    """Every access to ``length`` (1, 2, 4 or 8, aligned) bytes, or every write: a debug register."""
    kind = BREAKPOINT_READ_WRITE if read else BREAKPOINT_WRITE
    # With a data source, although it is never known: the program is to read it as it does for a PMU.
    return PerfEvent(
        PERF_TYPE_BREAKPOINT, breakpoint_type=kind, config1=address, config2=length, data_source=True
    )


PAGE_FAULTS = PerfEvent(PERF_TYPE_SOFTWARE, SW_PAGE_FAULTS)


def _open(attributes: bytes, pid: int, cpu: int, group: int) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return bpf.syscall(bpf.PERF_EVENT_OPEN, buffer, pid, cpu, group, _FLAG_FD_CLOEXEC)


def attach(event: PerfEvent, cpu: int, program: int, pid: int = -1) -> list[int]:
    """Run the program for every sample of a CPU, or with cpu -1 of a thread; the descriptors to keep open,
    that of the sampling event last.
    """
    opened: list[int] = []
    try:
        group = -1
        if event.leader is not None:
            group = _open(event.leader.leader_attributes(), pid, cpu, -1)
            opened.append(group)
        sampling = _open(event.attributes(), pid, cpu, group)
        opened.append(sampling)
        fcntl.ioctl(sampling, _IOC_SET_BPF, program)
        fcntl.ioctl(sampling, _IOC_ENABLE, 0)
    except OSError:
        for fd in reversed(opened):
            os.close(fd)
        raise
    return opened


def attach_kprobe(function: str, program: int) -> list[int]:
    """Run the program at the entry of a kernel function, through the kprobe PMU (no tracefs)."""
    try:
        pmu = int(Path("/sys/bus/event_source/devices/kprobe/type").read_text())
    except OSError as error:
        raise OSError(error.errno, "this kernel has no kprobes") from error
    name = ctypes.create_string_buffer(function.encode())
    # config1 and config2 double as kprobe_func and probe_offset.
    return attach(PerfEvent(pmu, config1=ctypes.addressof(name)), 0, program)


def try_event(event: PerfEvent) -> None:
    """Attach a program that does nothing to the event on one CPU, and detach it; OSError says why not."""
    cpus = event.online_cpus()
    if not cpus:
        return
    _try(bpf.load_perf_trial(), lambda program: attach(event, cpus[0], program))


def try_kprobe(function: str) -> None:
    """The same for a kprobe."""
    _try(bpf.load_kprobe_trial(), lambda program: attach_kprobe(function, program))


def _try(program: int, attach_to: Callable[[int], list[int]]) -> None:
    try:
        for fd in reversed(attach_to(program)):
            os.close(fd)
    finally:
        os.close(program)
