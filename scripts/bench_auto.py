# SPDX-License-Identifier: Apache-2.0
"""Measure ``hotpage auto``: what it costs here, and in guests what it is worth beside the alternatives.

Here: dry runs on a hot set of 10 % with 90 % of the accesses, in 200 MiB and in 2 GiB: CPU time of all its
processes once it has started, its resident memory, and the most it ever was. In guests: guest_auto.py, for
each workload and kernel, which run at once, as a guest keeps one processor busy; medians of ``RUNS`` runs.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inlab import lab_json

from hotpage.errors import UnsupportedError
from hotpage.exerciser import Exerciser
from hotpage.machine.processes import children_of

SIZES_MIB = (200, 2048)
START_UP_S, MEASURED_S = 20.0, 60.0
KERNELS = (os.environ.get("HOTPAGE_BENCH_KERNELS") or "7.3,6.12").split(",")
KINDS = (os.environ.get("HOTPAGE_BENCH_KINDS") or "zipf,shift,sweep,groups,redis").split(",")
RUNS = int(os.environ.get("HOTPAGE_BENCH_RUNS") or 3)
GUEST_LIMIT_S = 720
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of a process and its children, those that ended included."""
    total = 0.0
    for one in (pid, *children_of(pid)):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) * TICK_S
    return total


def resident_kib(pid: int, name: str) -> int:
    """A field of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


@contextmanager
def service(workload: Exerciser, directory: Path) -> Iterator[tuple[int, str]]:
    """``hotpage auto --dry-run`` with its defaults; its pid, and the address of its metrics."""
    config = directory / "auto.toml"
    config.write_text(f'state_dir = "{directory}"\n[metrics]\naddress = "127.0.0.1:0"\n')
    command = [sys.executable, "-P", "-m", "hotpage", "auto", "--dry-run", "--config", str(config)]
    with subprocess.Popen([*command, "-p", str(workload.pid)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if "metrics at " not in line:
                raise UnsupportedError("hotpage auto did not start", "its words are above")
            yield process.pid, line.split()[-1]
        finally:
            process.terminate()
            process.stdout.read()


def metrics(url: str) -> dict[str, float]:
    """Values by name with labels, as they are served."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}


def host_figures(mib: int) -> dict[str, float]:
    """What a dry run costs on so much memory."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Exerciser.start(mib=mib, threads=2) as workload,
        service(workload, Path(directory)) as (pid, url),
    ):
        time.sleep(START_UP_S)
        before_s, begun_s = cpu_s(pid), time.monotonic()
        resident = []
        while time.monotonic() - begun_s < MEASURED_S:
            time.sleep(0.5)
            resident.append(resident_kib(pid, "VmRSS"))
        share = (cpu_s(pid) - before_s) / (time.monotonic() - begun_s)
        found = metrics(url)
        tracked = found["hotpage_tracked_pages"]
        lost = sum(value for name, value in found.items() if name.startswith("hotpage_events_lost_total"))
        seen = sum(value for name, value in found.items() if name.startswith("hotpage_events_total"))
        figures = {
            "own_cpu_pct": 100 * share,
            "resident_mib": statistics.median(resident) / 1024,
            "resident_peak_mib": resident_kib(pid, "VmHWM") / 1024,
            "resident_allowed_mib": (80e6 + 16 * tracked) / 2**20,
            "tracked_pages": tracked,
            "plan_ms": 1e3 * found["hotpage_plan_cpu_seconds_total"] / found["hotpage_plans_total"],
            "plan_period_s": found["hotpage_plan_period_seconds"],
            "events": seen,
            "lost_pct": 100 * lost / max(seen + lost, 1),
        }
    return {f"host_{mib}m_{name}": round(value, 3) for name, value in figures.items()}


def guest_figures(kernel: str) -> dict[str, float]:
    """Medians over the runs of one kernel, by workload, method and figure."""
    found: dict[str, list[float]] = {}
    for seed in range(1, RUNS + 1):
        for kind in KINDS:
            if kind == "redis" and shutil.which("redis-benchmark") is None:
                print("without Redis (Debian: redis-tools) its benchmark is left out", file=sys.stderr)
                continue
            for name, value in figures_of(one_run(kernel, kind, seed)).items():
                found.setdefault(f"linux_{kernel}_{kind}_{name}", []).append(value)
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def figures_of(measured: dict[str, Any]) -> dict[str, float]:
    """What one guest measured, each method's share of accesses held against the oracle's."""
    figures = {}
    for method, one in measured.items():
        if method == "kernel_release":
            continue
        kept = {name: value for name, value in one.items() if name not in ("fast_share", "oracle_share")}
        kept["to_oracle"] = one["fast_share"] / one["oracle_share"]
        figures |= {f"{method}_{name}": value for name, value in kept.items()}
    return figures


def one_run(kernel: str, kind: str, seed: int) -> dict[str, Any]:
    """Everything measured with one workload, in a guest of its own."""
    result = lab_json(kernel, GUEST_LIMIT_S, "guest_auto.py", seed, kind)
    print(f"Linux {kernel}, {kind}, seed {seed}: {json.dumps(result)}", file=sys.stderr, flush=True)
    return result


def run() -> dict[str, Any]:
    """All figures; HOTPAGE_BENCH_PART=host or guest leaves the other part out."""
    part = os.environ.get("HOTPAGE_BENCH_PART", "")
    figures: dict[str, Any] = {}
    for mib in SIZES_MIB if part != "guest" else ():
        figures |= host_figures(mib)
    if part != "host":
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for found in pool.map(guest_figures, KERNELS):
                figures |= found
    return figures


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
