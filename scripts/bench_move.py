# SPDX-License-Identifier: Apache-2.0
"""Measure placement: how long a plan takes (here), and what one-shot promotion is worth (in guests).

The plan: 16 Mi tracked pages of zipf rates, a quarter of them fitting fast memory, where nine tenths of the
hot ones are already; CPU seconds, median. One-shot, and the mover beside a bare loop: guest_move.py, in
guests of the lab with little fast memory; medians of ``RUNS`` runs for each kernel.
"""

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from inlab import lab_json

from hotpage.errors import UnsupportedError
from hotpage.placement.plan import Aim, Candidates, NodeRoom, ProcessFacts, Situation
from hotpage.placement.policies import policy

TRACKED_PAGES = 1 << 24
PROCESSES = 8
PLAN_RUNS = 5
KERNELS = ("6.12", "7.3")
RUNS = 3
GUEST_LIMIT_S = 900
HERE = Path(__file__).resolve().parent


def situation() -> Situation:
    """What the plan is made for."""
    rng = np.random.default_rng(1)
    rank = rng.permutation(TRACKED_PAGES)
    rate_hz = (1e7 / (rank + 1) ** 0.99).astype(np.float32)
    has_drifted = rng.random(TRACKED_PAGES) < 0.1
    is_fast = np.where(has_drifted, rng.random(TRACKED_PAGES) < 0.25, rank < TRACKED_PAGES // 4)
    candidates = Candidates(
        np.repeat(np.arange(PROCESSES, dtype=np.int32), TRACKED_PAGES // PROCESSES),
        0x7F00_0000_0 + np.arange(TRACKED_PAGES, dtype=np.int64),
        np.ones(TRACKED_PAGES, np.int32),
        np.where(is_fast, 0, 1).astype(np.int16),
        rate_hz,
        rate_hz,
        np.full(TRACKED_PAGES, 0.3, np.float32),
    )
    both = frozenset({0, 1})
    facts = {i: ProcessFacts(100 + i, 1, (1, 2), "worker", "/", both) for i in range(PROCESSES)}
    nodes = [
        NodeRoom(0, 0, 20 << 30, 1 << 30, 512 << 20, {0: 10, 1: 20}),
        NodeRoom(1, 1, 64 << 30, 8 << 30, 1 << 30, {0: 20, 1: 10}),
    ]
    return Situation(candidates, facts, nodes)


def plan_figures() -> dict[str, float]:
    """CPU seconds of one plan, by policy, and what it moves."""
    made_for = situation()
    figures = {}
    for name in ("fit", "threshold", "cold"):
        seconds = []
        for _ in range(PLAN_RUNS):
            before = time.process_time()
            plan = policy(name)(made_for, Aim())
            seconds.append(time.process_time() - before)
        figures[f"plan_{name}_16m_s"] = round(statistics.median(seconds), 3)
        figures[f"plan_{name}_moves_mib"] = plan.moved_bytes >> 20
    return figures


def guest_figures(kernel: str) -> dict[str, Any]:
    """Medians over the runs of one kernel; each with its spread where it decides something."""
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".bench-move-") as directory:  # seen by the guest
        peer = Path(directory) / "peer"
        source = str(HERE / "guest_move_peer.c")
        subprocess.run(["cc", "-O2", "-o", str(peer), source, "-lm"], check=True)
        runs = [lab_json(kernel, GUEST_LIMIT_S, "guest_move.py", peer, seed) for seed in range(1, RUNS + 1)]
    to_oracle = [run["fit"]["fast_share"] / run["fit"]["oracle_share"] for run in runs]
    figures = {
        "one_shot_to_oracle": statistics.median(to_oracle),
        "one_shot_to_oracle_worst": min(to_oracle),
        "one_shot_fast_share": statistics.median(run["fit"]["fast_share"] for run in runs),
        "random_fast_share": statistics.median(run["random"]["fast_share"] for run in runs),
        "moved_mib": statistics.median(run["fit"]["moved_mib"] for run in runs),
        "random_moved_mib": statistics.median(run["random"]["moved_mib"] for run in runs),
    }
    throughput = (
        "mover_to_loop",
        "mover_within_20_ms_to_loop",
        "mover_to_loop_of_such_calls",
        "mover_pages_per_call",
        "mover_pages_per_s",
    )
    for name in throughput:
        figures[name] = statistics.median(run["throughput"][name] for run in runs)
    return {f"linux_{kernel}_{name}": round(value, 3) for name, value in figures.items()}


def run() -> dict[str, Any]:
    """All figures."""
    if not shutil.which("cc"):
        raise UnsupportedError("there is no C compiler (cc)", "install gcc")
    figures: dict[str, Any] = plan_figures()
    for kernel in KERNELS:
        figures |= guest_figures(kernel)
    return figures


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
