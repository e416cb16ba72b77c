# SPDX-License-Identifier: Apache-2.0
"""The tables of a profile on disk: Arrow schemas, encodings, and the conversion of records to rows.

This module is the only definition of the format; docs/profile-format.md explains it to people.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa

from hotpage.arrays import Float32s
from hotpage.heat.results import ArmedRanges
from hotpage.machine.processes import Process
from hotpage.machine.vmas import Residency, Vma
from hotpage.profile.runs import PageRuns
from hotpage.profile.snapshot import (
    IntervalData,
    NodeRecord,
    ProcessRecord,
    RunEnd,
    RunInfo,
    SourceCounts,
    VmaRecord,
)

FORMAT_MAGIC = "hotpage-profile"
FORMAT_VERSION = 2
VPN_BITS = 52  # 64-bit addresses in 4 KiB pages

README = """A hotpage profile is a directory of tables, each a folder of Parquet parts, readable on its own.
pages: runs of 4096-byte pages (start_vpn = address / 4096) of one process, written when their rate moved by
half an octave, or their short rate rose to four times it or fell back; the row with the latest time_s holds
for a page. rate_hz: accesses/s of each page of the run (long horizon); NaN: seen, rate unknown.
vmas, armed: the complete set of a process at time_s. A resident page
inside armed without a row in pages was armed and never accessed: it is cold. Outside it is unknown.
cleared: rows of pages in the range older than time_s no longer hold. time_s: seconds since
run.started_unix_s. Other columns say their units."""

_PROCESS = pa.field("process", pa.int32(), nullable=False)
_TIME = pa.field("time_s", pa.float64(), nullable=False)
_COUNTS = pa.struct(
    [
        pa.field("source", pa.string()),
        pa.field("received", pa.int64()),
        pa.field("lost", pa.int64()),
        pa.field("skipped", pa.int64()),
        pa.field("sampled_one_in", pa.int32()),
        pa.field("stands_for", pa.int64()),
        pa.field("without_address", pa.int64()),
        pa.field("cache_hits", pa.int64()),
        pa.field("unwatched_s", pa.float64()),
        pa.field("missed_runs", pa.int64()),
    ]
)


def _schema(*fields: pa.Field | tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([f if isinstance(f, pa.Field) else pa.field(*f) for f in fields])


SCHEMAS: Mapping[str, pa.Schema] = {
    "pages": _schema(
        _PROCESS,
        ("start_vpn", pa.int64()),
        ("pages", pa.int32()),
        ("rate_hz", pa.float32()),
        ("rate_short_hz", pa.float32()),
        ("relative_error", pa.float32()),
        _TIME,
    ),
    "vmas": _schema(
        _PROCESS,
        _TIME,
        ("start", pa.uint64()),
        ("end", pa.uint64()),
        ("permissions", pa.string()),
        ("offset", pa.uint64()),
        ("inode", pa.uint64()),
        ("path", pa.string()),
        ("kind", pa.string()),
        ("armable", pa.bool_()),
        ("page_size_bytes", pa.int64()),  # null, with the two below: residency unknown
        ("resident_bytes", pa.map_(pa.int32(), pa.int64())),  # by node
        ("policy", pa.string()),
    ),
    "processes": _schema(
        _PROCESS,
        _TIME,
        ("pid", pa.int32()),
        ("start_time_ticks", pa.int64()),
        ("comm", pa.string()),
        ("cmdline", pa.string()),
        ("exe", pa.string()),
        ("threads", pa.int32()),
        ("cgroup", pa.string()),
        ("parent_pid", pa.int32()),
        ("first_s", pa.float64()),
        ("exited_s", pa.float64()),
        ("previous_index", pa.int32()),
    ),
    "armed": _schema(
        _PROCESS,
        _TIME,
        ("start_vpn", pa.int64()),
        ("end_vpn", pa.int64()),
        ("first_s", pa.float64()),
        ("last_s", pa.float64()),
        ("passes", pa.int32()),
    ),
    "cleared": _schema(_PROCESS, _TIME, ("start_vpn", pa.int64()), ("end_vpn", pa.int64())),
    "nodes": _schema(
        _TIME,
        ("node", pa.int32()),
        ("tier", pa.int32()),
        ("cpus", pa.int32()),
        ("total_bytes", pa.int64()),
        ("free_bytes", pa.int64()),
        ("read_latency_ns", pa.float64()),
        ("write_latency_ns", pa.float64()),
        ("read_bandwidth_mbps", pa.float64()),
        ("write_bandwidth_mbps", pa.float64()),
    ),
    "intervals": _schema(
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("sources", pa.list_(_COUNTS)),
        ("own_cpu_s", pa.float64()),
        ("bpf_s", pa.float64()),
        ("target_cpu_s", pa.float64()),
        ("rss_bytes", pa.int64()),
    ),
    # One row at the start (end_* null), one at the end.
    "run": _schema(
        ("hotpage_version", pa.string()),
        ("command_line", pa.list_(pa.string())),
        ("target", pa.string()),
        ("started_unix_s", pa.float64()),
        ("origin_monotonic_ns", pa.int64()),
        ("hostname", pa.string()),
        ("kernel_release", pa.string()),
        ("boot_id", pa.string()),
        ("architecture", pa.string()),
        ("interval_s", pa.float64()),
        ("armed", pa.bool_()),
        ("numa_balancing", pa.int32()),
        ("rungs", pa.map_(pa.string(), pa.string())),
        ("horizons_s", pa.list_(pa.float64())),
        ("prior_count", pa.float64()),
        ("prior_exposure_s", pa.float64()),
        ("budget_percent", pa.float64()),
        ("advice", pa.list_(pa.string())),
        ("end_s", pa.float64()),
        ("status", pa.string()),
        ("command_exit_status", pa.int32()),
        ("first_event_s", pa.float64()),
    ),
}

# Measured on 50,000 random pages of 64 GiB (bytes a row, zstd 3): these 5.5, plain 6.4; with full mantissas
# 12.1.
ENCODINGS: Mapping[str, Mapping[str, str]] = {
    "pages": {
        "start_vpn": "DELTA_BINARY_PACKED",
        "rate_hz": "BYTE_STREAM_SPLIT",
        "rate_short_hz": "BYTE_STREAM_SPLIT",
        "relative_error": "BYTE_STREAM_SPLIT",
    },
    "armed": {"start_vpn": "DELTA_BINARY_PACKED", "end_vpn": "DELTA_BINARY_PACKED"},
}
COMPRESSION_LEVEL = 3
_RATE_MANTISSA_BITS = 7  # 0.4 %: rows are written when a rate moves by 41 %
_ERROR_MANTISSA_BITS = 5


def metadata(table: str, first_interval: int, last_interval: int) -> dict[str, str]:
    """What every part says about itself: format, table, and the intervals that it covers."""
    return {
        "format": FORMAT_MAGIC,
        "format_version": str(FORMAT_VERSION),
        "table": table,
        "intervals": json.dumps([first_interval, last_interval]),
        "readme": README,
    }


def pages_table(runs: PageRuns, time_s: float) -> pa.Table:
    """Rows of ``pages``, rates rounded to what the estimate can carry."""
    return pa.table(
        [
            runs.process,
            runs.start_vpn,
            runs.pages,
            _rounded(runs.rate_hz, _RATE_MANTISSA_BITS),
            _rounded(runs.rate_short_hz, _RATE_MANTISSA_BITS),
            _rounded(runs.relative_error, _ERROR_MANTISSA_BITS),
            np.full(len(runs), time_s),
        ],
        schema=SCHEMAS["pages"],
    )


def armed_table(armed: Mapping[int, ArmedRanges], time_s: float) -> pa.Table:
    """Rows of ``armed``; coverage that became empty leaves one empty range, to replace the former."""
    tables = []
    for process, ranges in armed.items():
        count = len(ranges.start_vpn)
        if not count:
            ranges = _NO_COVERAGE
            count = 1
        tables.append(
            pa.table(
                [
                    np.full(count, process, np.int32),
                    np.full(count, time_s),
                    ranges.start_vpn,
                    ranges.end_vpn,
                    ranges.first_s,
                    ranges.last_s,
                    ranges.passes,
                ],
                schema=SCHEMAS["armed"],
            )
        )
    return pa.concat_tables(tables)


_ZERO = np.zeros(1, np.int64)
_NO_COVERAGE = ArmedRanges(
    _ZERO, _ZERO, _ZERO.astype(np.float64), _ZERO.astype(np.float64), _ZERO.astype(np.int32)
)


def record_tables(data: IntervalData) -> dict[str, pa.Table]:
    """The small tables of one interval; only those that have rows."""
    time_s = data.end_s
    rows: dict[str, list[dict[str, Any]]] = {
        "processes": [_process_row(record, time_s) for record in data.processes],
        "vmas": [
            _vma_row(process, record, time_s) for process, records in data.vmas.items() for record in records
        ],
        "cleared": [asdict(cleared) | {"time_s": time_s} for cleared in data.cleared],
        "nodes": [asdict(node) | {"time_s": time_s} for node in data.nodes],
        "intervals": [
            {
                "start_s": data.start_s,
                "end_s": data.end_s,
                "sources": [asdict(counts) for counts in data.sources],
                "own_cpu_s": data.own_cpu_s,
                "bpf_s": data.bpf_s,
                "target_cpu_s": data.target_cpu_s,
                "rss_bytes": data.rss_bytes,
            }
        ],
    }
    return {name: table_of(name, some) for name, some in rows.items() if some}


def run_table(run: RunInfo, end: RunEnd | None) -> pa.Table:
    """The one row of ``run``."""
    row = asdict(run) | (asdict(end) if end else {})
    row = {name: _text(value) for name, value in row.items()} | {"rungs": list(run.rungs.items())}
    return table_of("run", [row])


def table_of(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of the given schema."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMAS[name])


def process_of(row: Mapping[str, Any]) -> ProcessRecord:
    """A row of ``processes`` as a record."""
    process = Process(
        index=row["process"],
        pid=row["pid"],
        start_time_ticks=row["start_time_ticks"],
        comm=row["comm"],
        cmdline=row["cmdline"],
        exe=row["exe"],
        threads=row["threads"],
        cgroup=row["cgroup"],
        parent_pid=row["parent_pid"],
    )
    return ProcessRecord(process, row["first_s"], row["exited_s"], row["previous_index"])


def vma_of(row: Mapping[str, Any]) -> VmaRecord:
    """A row of ``vmas`` as a record."""
    vma = Vma(**{name: row[name] for name in _VMA_COLUMNS})
    if row["page_size_bytes"] is None:
        return VmaRecord(vma)
    return VmaRecord(vma, Residency(row["page_size_bytes"], dict(row["resident_bytes"]), row["policy"]))


def node_of(row: Mapping[str, Any]) -> NodeRecord:
    """A row of ``nodes`` as a record."""
    return NodeRecord(**{name: value for name, value in row.items() if name != "time_s"})


def interval_of(row: Mapping[str, Any], changes: Any) -> IntervalData:
    """A row of ``intervals`` as the counters of an interval."""
    sources = tuple(SourceCounts(**counts) for counts in row["sources"])
    return IntervalData(**{**row, "sources": sources, "changes": changes})


def run_of(row: Mapping[str, Any]) -> tuple[RunInfo, RunEnd | None]:
    """A row of ``run`` as how the session began and, if it says so, ended."""
    values = dict(row)
    end = RunEnd(**{name: values.pop(name) for name in _END_COLUMNS})
    for name in ("command_line", "horizons_s", "advice"):
        values[name] = tuple(values[name])
    values["rungs"] = dict(values["rungs"])
    return RunInfo(**values), end if end.status is not None else None


_END_COLUMNS = tuple(field.name for field in fields(RunEnd))
_VMA_COLUMNS = ("start", "end", "permissions", "offset", "inode", "path", "kind")


def _vma_row(process: int, record: VmaRecord, time_s: float) -> dict[str, Any]:
    row = {name: _text(getattr(record.vma, name)) for name in _VMA_COLUMNS}
    row |= {"process": process, "time_s": time_s, "armable": record.armable}
    if record.residency is not None:
        page_size_bytes, by_node, policy, *_ = record.residency
        row |= {"page_size_bytes": page_size_bytes, "resident_bytes": list(by_node.items()), "policy": policy}
    return row


def _process_row(record: ProcessRecord, time_s: float) -> dict[str, Any]:
    row = {name: _text(value) for name, value in (asdict(record.process) | asdict(record)).items()}
    row["process"] = row.pop("index")
    return row | {"time_s": time_s}


def _text(value: Any) -> Any:
    """File names and command lines are bytes to the kernel: what is not UTF-8 is stored as an escape."""
    if isinstance(value, tuple):
        return tuple(_text(one) for one in value)
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _rounded(values: Float32s, mantissa_bits: int) -> Float32s:
    """Round to nearest with fewer mantissa bits: the rest would be stored noise."""
    dropped = 23 - mantissa_bits
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(1 << (dropped - 1))) & ~np.uint32((1 << dropped) - 1)
    result: Float32s = np.where(np.isfinite(values), rounded.view(np.float32), values)
    return result


def in_writing_order(tables: Mapping[str, pa.Table]) -> Iterable[tuple[str, pa.Table]]:
    """With ``intervals`` last: its row says that the interval is complete."""
    return sorted(tables.items(), key=lambda item: (item[0] == "intervals", item[0]))
