# SPDX-License-Identifier: Apache-2.0
"""bpf(2), as far as hotpage needs it: maps, attaching, statistics, trial programs. perf.py has perf events.

Functions raise OSError with the kernel's errno; file descriptors are plain ints owned by the caller.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path

from hotpage.errors import UnsupportedError
from hotpage.machine.topology import parse_cpulist

_SYSCALLS = {"x86_64": (321, 298), "aarch64": (280, 241)}
BPF, PERF_EVENT_OPEN = 0, 1
"""Places in _SYSCALLS."""

_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY = 1, 2, 3, 4
_PROG_LOAD, _PROG_TEST_RUN, _OBJ_INFO, _RAW_TRACEPOINT_OPEN, _ENABLE_STATS = 5, 10, 15, 17, 32

_PROG_TYPE_KPROBE, _PROG_TYPE_PERF_EVENT, _PROG_TYPE_RAW_TRACEPOINT, _PROG_TYPE_TRACING = 2, 7, 17, 26
_ATTACH_FENTRY = 24

# r0 = 0; exit: what a trial program does.
_RETURN_ZERO = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)

_libc = ctypes.CDLL(None, use_errno=True)


def syscall(which: int, *arguments: object) -> int:
    """bpf(2) or perf_event_open(2), by its place in _SYSCALLS; OSError, UnsupportedError elsewhere."""
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
    return syscall(BPF, command, buffer, len(buffer))


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


def online_cpus() -> tuple[int, ...]:
    """The CPUs that are online now."""
    return parse_cpulist(Path("/sys/devices/system/cpu/online").read_text())


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
        *(0, 0, 0),  # func_info
        *(0, 0, 0),  # line_info
        attach_btf_id,
    )
    return _bpf(_PROG_LOAD, attributes)


def attach_raw_tracepoint(name: str | None, program: int) -> int:
    """Attach to a tracepoint by name, or, with None, a tracing program to the function it was loaded for."""
    name_buffer = ctypes.create_string_buffer(name.encode()) if name else None
    return _bpf(
        _RAW_TRACEPOINT_OPEN, struct.pack("<QIxxxx", _address(name_buffer) if name_buffer else 0, program)
    )


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


def load_kprobe_trial() -> int:
    """Load a program for kprobes that does nothing; its fd."""
    return _load_trial(_PROG_TYPE_KPROBE)


def load_perf_trial() -> int:
    """Load a program for perf events that does nothing; its fd."""
    return _load_trial(_PROG_TYPE_PERF_EVENT)


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
