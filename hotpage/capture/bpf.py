# SPDX-License-Identifier: Apache-2.0
"""bpf(2) and perf_event_open(2), as far as hotpage needs them: maps, attaching, statistics, trial programs.

Functions raise OSError with the kernel's errno; file descriptors are plain ints owned by the caller.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path

from hotpage.errors import UnsupportedError

_SYSCALLS = {"x86_64": (321, 298), "aarch64": (280, 241)}  # bpf, perf_event_open

_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY = 1, 2, 3, 4
_PROG_LOAD, _PROG_TEST_RUN, _OBJ_INFO, _RAW_TRACEPOINT_OPEN, _ENABLE_STATS = 5, 10, 15, 17, 32

_PROG_TYPE_KPROBE, _PROG_TYPE_PERF_EVENT, _PROG_TYPE_RAW_TRACEPOINT, _PROG_TYPE_TRACING = 2, 7, 17, 26
_ATTACH_FENTRY = 24

_PERF_TYPE_SOFTWARE = 1
_SW_PAGE_FAULTS = 2
_PERF_SAMPLE_ADDR = 1 << 3
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_IOC_ENABLE, _PERF_IOC_SET_BPF = 0x2400, 0x40042408

# r0 = 0; exit: what a trial program does.
_RETURN_ZERO = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)

_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(which: int, *arguments: object) -> int:
    numbers = _SYSCALLS.get(platform.machine())
    if numbers is None:
        raise UnsupportedError(f"hotpage knows x86-64 and arm64, and this machine is {platform.machine()}")
    result: int = _libc.syscall(numbers[which], *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _bpf(command: int, attributes: bytes) -> int:
    """One bpf(2) call; the attributes are padded to the union bpf_attr that every 5.8+ kernel takes."""
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 120))
    return _syscall(0, command, buffer, len(buffer))


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def map_lookup(fd: int, key: bytes, value_bytes: int) -> bytes:
    """The value under a key; for a per-CPU map ``value_bytes`` covers all possible CPUs, each rounded up to
    8.
    """
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value_bytes)
    _bpf(_MAP_LOOKUP, struct.pack("<IxxxxQQQ", fd, _address(key_buffer), _address(value), 0))
    return value.raw


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Insert or replace."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    _bpf(_MAP_UPDATE, struct.pack("<IxxxxQQQ", fd, _address(key_buffer), _address(value_buffer), 0))


def map_delete(fd: int, key: bytes) -> None:
    """Remove a key; one that is not there is fine."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(_MAP_DELETE, struct.pack("<IxxxxQQQ", fd, _address(key_buffer), 0, 0))
    except FileNotFoundError:
        return


def map_keys(fd: int, key_bytes: int) -> Iterator[bytes]:
    """All keys of a hash map, as they are found; keys that change meanwhile may be missed or repeated."""
    key: ctypes.Array[ctypes.c_char] | None = None
    while True:
        following = ctypes.create_string_buffer(key_bytes)
        try:
            _bpf(
                _MAP_NEXT_KEY,
                struct.pack("<IxxxxQQQ", fd, _address(key) if key else 0, _address(following), 0),
            )
        except FileNotFoundError:
            return
        yield following.raw
        key = following


@functools.cache
def possible_cpus() -> int:
    """Number of CPUs a per-CPU map has values for."""
    return int(Path("/sys/devices/system/cpu/possible").read_text().strip().rsplit("-", 1)[-1]) + 1


def online_cpus() -> list[int]:
    """The CPUs that are online now."""
    cpus: list[int] = []
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def _load_trial(program_type: int, attach_type: int = 0, attach_btf_id: int = 0) -> int:
    """Load a program that does nothing; its fd."""
    code = ctypes.create_string_buffer(_RETURN_ZERO, len(_RETURN_ZERO))
    license_text = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQII16sIIIIQIIQII",
        program_type,
        len(_RETURN_ZERO) // 8,
        _address(code),
        _address(license_text),
        0,  # log_level
        0,
        0,
        0,  # kern_version
        0,
        b"hotpage_trial",
        0,
        attach_type,
        0,  # prog_btf_fd
        0,  # func_info_rec_size
        0,  # func_info
        0,  # func_info_cnt
        0,  # line_info_rec_size
        0,  # line_info
        0,  # line_info_cnt
        attach_btf_id,
    )
    return _bpf(_PROG_LOAD, attributes)


def attach_raw_tracepoint(name: str | None, program: int) -> int:
    """Attach to a tracepoint by name, or, with None, a tracing program to the function it was loaded for."""
    name_buffer = ctypes.create_string_buffer(name.encode()) if name else None
    return _bpf(
        _RAW_TRACEPOINT_OPEN, struct.pack("<QIxxxx", _address(name_buffer) if name_buffer else 0, program)
    )


def _perf_event_open(attributes: bytes, pid: int, cpu: int) -> int:
    buffer = ctypes.create_string_buffer(attributes, 112)  # PERF_ATTR_SIZE_VER5
    return _syscall(1, buffer, pid, cpu, -1, _PERF_FLAG_FD_CLOEXEC)


def _perf_attributes(event_type: int, config: int, period: int, sample_type: int, tail: bytes = b"") -> bytes:
    return struct.pack("<IIQQQQQII", event_type, 112, config, period, sample_type, 0, 0, 0, 0) + tail


def _attach_perf(event: int, program: int) -> int:
    try:
        fcntl.ioctl(event, _PERF_IOC_SET_BPF, program)
        fcntl.ioctl(event, _PERF_IOC_ENABLE, 0)
    except OSError:
        os.close(event)
        raise
    return event


def attach_kprobe(function: str, program: int) -> int:
    """Attach at the entry of a kernel function, through the kprobe PMU (no tracefs)."""
    try:
        pmu = int(Path("/sys/bus/event_source/devices/kprobe/type").read_text())
    except OSError as error:
        raise OSError(error.errno, "this kernel has no kprobes") from error
    name = ctypes.create_string_buffer(function.encode())
    # bp_addr and bp_len of the attribute double as kprobe_func and probe_offset.
    attributes = _perf_attributes(pmu, 0, 1, 0, struct.pack("<QQ", _address(name), 0))
    return _attach_perf(_perf_event_open(attributes, -1, 0), program)


def attach_page_fault_event(cpu: int, program: int) -> int:
    """Run the program for every page fault on a CPU (PERF_COUNT_SW_PAGE_FAULTS)."""
    attributes = _perf_attributes(_PERF_TYPE_SOFTWARE, _SW_PAGE_FAULTS, 1, _PERF_SAMPLE_ADDR)
    return _attach_perf(_perf_event_open(attributes, -1, cpu), program)


def try_raw_tracepoint(name: str) -> None:
    """Attach a program that does nothing to a tracepoint, and detach it; OSError says why that cannot be."""
    program = _load_trial(_PROG_TYPE_RAW_TRACEPOINT)
    try:
        os.close(attach_raw_tracepoint(name, program))
    finally:
        os.close(program)


def try_fentry(function_id: int) -> None:
    """The same for the entry of a kernel function, by BTF id, with a tracing program."""
    program = _load_trial(_PROG_TYPE_TRACING, _ATTACH_FENTRY, function_id)
    try:
        os.close(attach_raw_tracepoint(None, program))
    finally:
        os.close(program)


def try_kprobe(function: str) -> None:
    """The same for a kprobe."""
    program = _load_trial(_PROG_TYPE_KPROBE)
    try:
        os.close(attach_kprobe(function, program))
    finally:
        os.close(program)


def try_page_fault_event() -> None:
    """The same for the software page-fault event on one CPU."""
    program = _load_trial(_PROG_TYPE_PERF_EVENT)
    try:
        os.close(attach_page_fault_event(online_cpus()[0], program))
    finally:
        os.close(program)


def run_once(program: int) -> None:
    """Run a raw tracepoint program now, in the caller's context (BPF_PROG_TEST_RUN)."""
    _bpf(_PROG_TEST_RUN, struct.pack("<I", program))


def enable_run_time_statistics() -> int:
    """Count run time per program for as long as the returned fd stays open."""
    return _bpf(_ENABLE_STATS, struct.pack("<I", 0))


def program_statistics(program: int) -> tuple[int, int, int]:
    """Run time in ns and run count (while statistics are on), and runs refused because one was already
    active.
    """
    info = ctypes.create_string_buffer(232)
    _bpf(_OBJ_INFO, struct.pack("<IIQ", program, len(info), _address(info)))
    run_time_ns, run_count, misses = struct.unpack_from("<QQQ", info.raw, 192)
    return run_time_ns, run_count, misses
