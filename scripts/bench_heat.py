# SPDX-License-Identifier: Apache-2.0
"""Measure the heat table: update rates, the threshold histogram, and bytes per page.

Rates are events per second of CPU time (user + system of this process) of whole ``observe`` calls: keys,
sort, grouping, decay, store. Each is the median over repeated batches on a table that already holds the
pages; the histogram and the bytes belong to a table whose 16 Mi pages have been armed several times in
several ranges.
"""

import json
import statistics
import time
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hotpage.heat.table import HeatTable

BATCH_EVENTS = 1 << 20
LIVE_BATCH_EVENTS = 5000
ZIPF_PAGES = 1_000_000
ZIPF_EXPONENT = 0.99
UNIFORM_PAGES = 1 << 24
SCATTERED_PAGES = 1 << 18
FIRST_VPN = 0x7F12_3456_7000 >> 12
HISTOGRAM_RUNS = 3

Pages = npt.NDArray[np.int64]


class Load:
    """Feeds a table with one process's batches; the session's clock advances a second per million events."""

    def __init__(self, seed: int) -> None:
        self.table = HeatTable()
        self.rng = np.random.default_rng(seed)
        self.now_s = 1.0

    def observe(self, pages: Pages) -> float:
        """Feed one batch; CPU seconds that ``observe`` took."""
        count = pages.size
        process = np.zeros(count, dtype=np.int32)
        times = self.now_s + np.sort(self.rng.random(count)) * count * 1e-6
        exposures = self.rng.exponential(0.05, count)
        self.now_s += count * 1e-6
        before = time.process_time()
        self.table.observe(process, pages, times, exposures)
        return time.process_time() - before

    def populate(self, pages: Pages) -> None:
        """Observe every page once, shuffled."""
        shuffled = self.rng.permutation(pages)
        for low in range(0, shuffled.size, BATCH_EVENTS):
            self.observe(shuffled[low : low + BATCH_EVENTS])

    def arm(self, end_vpn: int) -> None:
        """Arm everything in four passes of 16 ranges each."""
        bounds = np.linspace(FIRST_VPN, end_vpn, 17).astype(np.int64).tolist()
        for _ in range(4):
            self.now_s += 1.0
            for start, end in pairwise(bounds):
                self.table.arm(0, start, end, self.now_s)


def _million_events_per_s(load: Load, pages: Pages, batch_events: int, batches: int) -> float:
    seconds = [load.observe(load.rng.choice(pages, batch_events)) for _ in range(batches)]
    return batch_events / statistics.median(seconds) / 1e6


def _zipf_sample(rng: np.random.Generator, count: int) -> Pages:
    """Pages of a zipf distribution, ranks scattered over the pages."""
    share = np.cumsum(np.arange(1, ZIPF_PAGES + 1) ** -ZIPF_EXPONENT)
    ranks = np.searchsorted(share, rng.random(count) * share[-1])
    return FIRST_VPN + rng.permutation(ZIPF_PAGES)[ranks]


def _zipf() -> dict[str, float]:
    load = Load(seed=1)
    load.populate(FIRST_VPN + np.arange(ZIPF_PAGES))
    load.arm(FIRST_VPN + ZIPF_PAGES)
    sample = _zipf_sample(load.rng, 1 << 23)
    big = _million_events_per_s(load, sample, BATCH_EVENTS, batches=7)
    live = _million_events_per_s(load, sample, LIVE_BATCH_EVENTS, batches=101)
    return {
        "zipf_1m_million_events_per_s": big,
        "zipf_1m_live_batch_million_events_per_s": live,
        "live_batch_ms": LIVE_BATCH_EVENTS / live / 1e3,
    }


def _cpu_s(load: Load, read: str, *arguments: object) -> float:
    seconds = []
    for _ in range(HISTOGRAM_RUNS):
        before = time.process_time()
        getattr(load.table, read)(*arguments, load.now_s)
        seconds.append(time.process_time() - before)
    return statistics.median(seconds)


def _uniform() -> dict[str, float]:
    load = Load(seed=2)
    pages = FIRST_VPN + np.arange(UNIFORM_PAGES)
    load.populate(pages)
    load.arm(FIRST_VPN + UNIFORM_PAGES)
    rate = _million_events_per_s(load, pages, BATCH_EVENTS, batches=5)
    return {
        "uniform_16m_million_events_per_s": rate,
        "histogram_16m_s": _cpu_s(load, "histogram"),
        "rates_16m_s": _cpu_s(load, "rates", 0),
        "take_changes_16m_s": _cpu_s(load, "take_changes"),
        "bytes_per_page_dense": load.table.nbytes / load.table.tracked_pages,
    }


def _scattered() -> dict[str, float]:
    worst = 0.0
    for spacing_pages in (16, 512):
        load = Load(seed=3)
        load.populate(FIRST_VPN + spacing_pages * np.arange(SCATTERED_PAGES))
        worst = max(worst, load.table.nbytes / load.table.tracked_pages)
    return {"bytes_per_page_scattered": worst}


def run() -> dict[str, float]:
    """All figures; rates in million events per CPU second, times in CPU seconds."""
    figures = {**_zipf(), **_uniform(), **_scattered()}
    return {name: round(value, 3) for name, value in figures.items()}


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
