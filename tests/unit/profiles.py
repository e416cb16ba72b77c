# SPDX-License-Identifier: Apache-2.0
"""Small profiles for tests."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hotpage.heat.results import ArmedRanges, Changes
from hotpage.machine.processes import Process
from hotpage.machine.vmas import Residency, Vma
from hotpage.profile.snapshot import (
    IntervalData,
    NodeRecord,
    ProcessRecord,
    RunInfo,
    SourceCounts,
    VmaRecord,
)


def run_info(**changed: Any) -> RunInfo:
    values: dict[str, Any] = {
        "hotpage_version": "0.1.0",
        "command_line": ("hotpage", "record", "-p", "4242"),
        "target": "pid 4242 (redis-server)",
        "started_unix_s": 1_700_000_000.0,
        "origin_monotonic_ns": 5_000_000_000,
        "hostname": "box",
        "kernel_release": "6.12.0",
        "boot_id": "0b7e",
        "architecture": "x86_64",
        "interval_s": 1.0,
        "armed": True,
        "numa_balancing": 0,
        "rungs": {"hint": "tracepoint", "fault": "raw tracepoint"},
        "horizons_s": (2.0, 20.0),
        "prior_count": 0.5,
        "prior_exposure_s": 1e-5,
    }
    return RunInfo(**(values | changed))


def changes(*rows: tuple[int, int, float]) -> Changes:
    """Rows (process, vpn, rate_hz), sorted."""
    process, vpn, rate_hz = zip(*sorted(rows), strict=True) if rows else ((), (), ())
    rate = np.array(rate_hz, np.float32)
    return Changes(
        np.array(process, np.int32),
        np.array(vpn, np.int64),
        rate,
        rate * 2,
        np.full(len(rate), 0.25, np.float32),
    )


def process(
    index: int, comm: str, exited_s: float | None = None, previous_index: int | None = None
) -> ProcessRecord:
    return ProcessRecord(
        Process(index, 4000 + index, 99, comm, f"/usr/bin/{comm} --x", f"/usr/bin/{comm}", 4, "/", 1),
        0.0,
        exited_s,
        previous_index,
    )


def vma(start_vpn: int, end_vpn: int, by_node: Mapping[int, int] | None, path: str = "[heap]") -> VmaRecord:
    kind = "heap" if path == "[heap]" else "file" if path else "anon"
    mapping = Vma(start_vpn << 12, end_vpn << 12, "rw-p", 0, int(kind == "file"), path, kind)
    return VmaRecord(mapping, None if by_node is None else Residency(4096, dict(by_node), "default"))


def shared(record: VmaRecord) -> VmaRecord:
    """As a mapping of shared memory, always the same."""
    mapping = replace(record.vma, permissions="rw-s", inode=77, path="/dev/shm/x", kind="shared")
    return replace(record, vma=mapping)


def armed(start_vpn: int, end_vpn: int, first_s: float = 0.0) -> ArmedRanges:
    return ArmedRanges(
        np.array([start_vpn]),
        np.array([end_vpn]),
        np.array([first_s]),
        np.array([first_s]),
        np.array([3], np.int32),
    )


def node(number: int, tier: int = 0, total_bytes: int = 16 << 30) -> NodeRecord:
    return NodeRecord(number, tier, 4, total_bytes, total_bytes // 2)


def interval(number: int, pages: Changes, **more: Any) -> IntervalData:
    """The one-second interval that ends at ``number`` seconds, unless ``start_s`` says otherwise."""
    values: dict[str, Any] = {
        "nodes": [node(0)],
        "sources": [SourceCounts("hint", 100, 1, 0, 1), SourceCounts("fault", 10)],
        "own_cpu_s": 0.01,
        "bpf_s": 0.002,
        "target_cpu_s": 1.5,
        "rss_bytes": 80 << 20,
    }
    start_s = more.pop("start_s", number - 1.0)
    return IntervalData(start_s, float(number), pages, **(values | more))
