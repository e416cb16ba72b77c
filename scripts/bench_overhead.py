# SPDX-License-Identifier: Apache-2.0
"""Measure what ``hotpage record`` costs the processes that it records.

Recording is switched on and off in turn, and each window with it is compared with the window just before.
Medians over the pairs. Everything is taken from outside: the workload's own count of accesses or faults, its
CPU time in /proc/PID/stat, the kernel's count of hint faults in /proc/vmstat.

*Storm*: first touches only, the worst case of the page-fault source: CPU time a fault. With the default
budget the recorder keeps fewer of them as soon as it notices; "keeping all" is recorded with all the CPU time
that the recorder wants.

*Steady*: random accesses by two threads, hint faults turned on by ``--arm``. Each pair has a fresh workload:
the kernel scans a process more and more rarely, and a long-lived one would hardly be armed. The window with
recording stands between two without, so that a drift cancels. Throughput is noisy on a machine that is
shared, if only by its host: as many controls, the same windows with nothing recorded, alternate with the
pairs, and their median and quartiles say what throughput can tell. The workload's system time, hardly any of
which it has by itself, is not noisy.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from hotpage.errors import HotpageError
from hotpage.exerciser import Exerciser
from hotpage.profile.disk.reader import ProfileReader
from hotpage.profile.snapshot import SourceCounts
from hotpage.recording.budget import hint_fault_cost_s, measure_fault_cost_s

PAIRS = 16
BUDGET_PERCENT = 2.0
OTHER_BUDGETS_PERCENT = {0.5: 2, 10.0: 3}
"""With the number of pairs: their throughput is not asked for."""
_STORM_WINDOW_S = 2.0
_WARM_UP_S = 0.5
_QUIET_WINDOW_S = 3.0
_ARMED_WINDOW_S = {0.5: 16.0, 2.0: 9.0, 10.0: 9.0}
"""The first scan is spent in advance: it takes so long to be earned, and more."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class BenchError(HotpageError):
    """A measurement that did not come about."""


@dataclass(frozen=True)
class Reading:
    """A workload's totals at one moment, or what they grew by in a window."""

    time_s: float
    accesses: int
    user_s: float
    system_s: float
    hint_faults: int

    @classmethod
    def of(cls, workload: Exerciser) -> "Reading":
        """Now."""
        fields = Path(f"/proc/{workload.pid}/stat").read_bytes().rpartition(b")")[2].split()
        vmstat = Path("/proc/vmstat").read_text().split()
        return cls(
            time.monotonic(),
            workload.accesses(),
            int(fields[11]) * _TICK_S,
            int(fields[12]) * _TICK_S,
            int(vmstat[vmstat.index("numa_hint_faults") + 1]) if "numa_hint_faults" in vmstat else 0,
        )

    def since(self, before: "Reading") -> "Reading":
        """The growth."""
        return Reading(*(mine - its for mine, its in zip(astuple(self), astuple(before), strict=True)))

    def plus(self, other: "Reading") -> "Reading":
        """Two windows taken as one."""
        return Reading(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s

    @property
    def accesses_per_s(self) -> float:
        return self.accesses / self.time_s

    @property
    def accesses_per_cpu_s(self) -> float:
        return self.accesses / self.cpu_s


@dataclass(frozen=True)
class Pair:
    """Neighbouring windows of one workload."""

    without: Reading
    recorded: Reading
    """In a control, not recorded either."""
    sources: dict[str, SourceCounts]
    """What the recorder took, by source."""

    @property
    def slowdown_percent(self) -> float:
        """Of the accesses per second."""
        return 100 * (1 - self.recorded.accesses_per_s / self.without.accesses_per_s)

    @property
    def slowdown_per_cpu_percent(self) -> float:
        """CPU time an access takes more."""
        return 100 * (self.without.accesses_per_cpu_s / self.recorded.accesses_per_cpu_s - 1)


def run() -> dict[str, object]:
    """All figures; what ends in _pct is in percent."""
    with tempfile.TemporaryDirectory(prefix="hotpage-bench-") as scratch:
        return {**_storm(Path(scratch)), **_steady(Path(scratch))}


def _storm(scratch: Path) -> dict[str, float]:
    default, keeping_all = [], []
    with Exerciser.start(pattern="storm", threads=2) as storm:
        for _ in range(PAIRS):
            window = _STORM_WINDOW_S, _STORM_WINDOW_S
            default.append(_pair(storm, scratch, window, "--source", "fault"))
            keeping_all.append(_pair(storm, scratch, window, "--source", "fault", "--budget", "100"))
    return {
        "storm_slowdown_pct": statistics.median(pair.slowdown_per_cpu_percent for pair in default),
        "storm_keeping_all_slowdown_pct": statistics.median(p.slowdown_per_cpu_percent for p in keeping_all),
        "storm_one_in": statistics.median(pair.sources["fault"].sampled_one_in for pair in default),
        "storm_keeping_all_one_in": max(pair.sources["fault"].sampled_one_in for pair in keeping_all),
        "storm_cpu_ns_per_fault": 1e9 / statistics.median(p.without.accesses_per_cpu_s for p in default),
    }


def _steady(scratch: Path) -> dict[str, object]:
    own, controls = [], []
    for _ in range(PAIRS):
        own.append(_armed_pair(scratch, BUDGET_PERCENT))
        controls.append(_control())
    pairs = {BUDGET_PERCENT: own} | {
        budget: [_armed_pair(scratch, budget) for _ in range(n)]
        for budget, n in OTHER_BUDGETS_PERCENT.items()
    }
    alone_percent = system_percent([pair.without for some in pairs.values() for pair in some])
    return {
        "steady_slowdown_pct": statistics.median(pair.slowdown_percent for pair in own),
        "steady_slowdown_quartiles_pct": _quartiles([pair.slowdown_percent for pair in own]),
        "control_slowdown_pct": statistics.median(pair.slowdown_percent for pair in controls),
        "control_slowdown_quartiles_pct": _quartiles([pair.slowdown_percent for pair in controls]),
        "steady_slowdown_per_cpu_pct": statistics.median(pair.slowdown_per_cpu_percent for pair in own),
        "control_slowdown_per_cpu_pct": statistics.median(pair.slowdown_per_cpu_percent for pair in controls),
        "steady_system_time_pct": system_percent([pair.recorded for pair in own]) - alone_percent,
        "budget_pct": BUDGET_PERCENT,
        "pairs": PAIRS,
        "assumed_us_per_hint_fault": 1e6 * hint_fault_cost_s(measure_fault_cost_s()),
        "by_budget": {
            f"{budget:g}": _of_budget(some, alone_percent) for budget, some in sorted(pairs.items())
        },
    }


def _quartiles(values: list[float]) -> list[float]:
    """The lower and the upper one."""
    lower, _, upper = statistics.quantiles(values, n=4)
    return [round(lower, 2), round(upper, 2)]


def system_percent(windows: list[Reading]) -> float:
    """System time as a share of the CPU time of all windows together: a single one holds few clock ticks."""
    return 100 * sum(window.system_s for window in windows) / sum(window.cpu_s for window in windows)


def _of_budget(pairs: list[Pair], alone_percent: float) -> dict[str, float]:
    """``alone_percent``: the system time that the workload takes unrecorded."""
    added_percent = system_percent([pair.recorded for pair in pairs]) - alone_percent
    added_s = added_percent / 100 * sum(pair.recorded.cpu_s for pair in pairs)
    kernel = sum(pair.recorded.hint_faults for pair in pairs)
    figures = {
        "system_time_pct": added_percent,
        "hint_faults_per_s": kernel / sum(pair.recorded.time_s for pair in pairs),
        "received_per_hint_fault": sum(pair.sources["hint"].received for pair in pairs) / max(kernel, 1),
        "us_per_hint_fault": 1e6 * added_s / max(kernel, 1),
        "slowdown_pct": statistics.median(pair.slowdown_percent for pair in pairs),
        "slowdown_per_cpu_pct": statistics.median(pair.slowdown_per_cpu_percent for pair in pairs),
    }
    return {name: round(value, 3) for name, value in figures.items()}


def _pair(workload: Exerciser, scratch: Path, windows_s: tuple[float, float], *options: str) -> Pair:
    """A window without, and one with ``hotpage record OPTIONS``."""
    without = _window(workload, windows_s[0])
    profile = scratch / f"profile-{time.monotonic_ns()}"
    with _recording(workload.pid, profile, options):
        recorded = _window(workload, windows_s[1])
    sources = ProfileReader(profile).snapshot().usage.sources
    return Pair(without, recorded, {counts.source: counts for counts in sources})


def _armed_pair(scratch: Path, budget_percent: float) -> Pair:
    with Exerciser.start(pattern="steady", threads=2) as workload:
        time.sleep(_WARM_UP_S)
        windows_s = _QUIET_WINDOW_S, _ARMED_WINDOW_S[budget_percent]
        pair = _pair(workload, scratch, windows_s, "--arm", "--budget", str(budget_percent))
        return replace(pair, without=pair.without.plus(_window(workload, _QUIET_WINDOW_S)))


def _control() -> Pair:
    """The windows of an armed pair, with nothing recorded."""
    with Exerciser.start(pattern="steady", threads=2) as workload:
        time.sleep(_WARM_UP_S)
        before = _window(workload, _QUIET_WINDOW_S)
        middle = _window(workload, _ARMED_WINDOW_S[BUDGET_PERCENT])
        return Pair(before.plus(_window(workload, _QUIET_WINDOW_S)), middle, {})


def _window(workload: Exerciser, seconds: float) -> Reading:
    before = Reading.of(workload)
    time.sleep(seconds)
    return Reading.of(workload).since(before)


@contextmanager
def _recording(pid: int, profile: Path, options: tuple[str, ...]) -> Iterator[None]:
    """From the moment that everything is attached."""
    command = [sys.executable, "-P", "-m", "hotpage", "record", "-p", str(pid), "-o", str(profile), *options]
    recorder = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert recorder.stderr is not None
    said = ""
    try:
        while "recording process" not in said:
            line = recorder.stderr.readline()
            said += line
            if not line:
                raise BenchError(f"hotpage record ended too soon: {said.strip()}")
        yield
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.communicate()


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
