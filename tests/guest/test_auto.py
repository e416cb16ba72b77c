# SPDX-License-Identifier: Apache-2.0
"""``hotpage auto`` on real nodes: the hot set ends on the fast one, the kernel's settings as they were."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from movetarget import set_policy
from moving import FAST, SLOW, filled
from numpy.typing import NDArray
from toucher import wait_for
from workload import BALANCING, nodes_of, scattered_on

from hotpage.exerciser import Exerciser
from hotpage.machine.knobs import KnobSession
from hotpage.machine.numa import MovePages
from hotpage.machine.tiering import ARMING_ONLY, PROMOTE_RATE_LIMIT, hold_promotion, tier_changes

_DEADLINE_S = 240.0
MPOL_PREFERRED = 1  # linux/mempolicy.h

# 6.12 moves, and is told to leave moving alone, as 7.3 is.
pytestmark = pytest.mark.guest(topology="small-dram", kernels=("6.1", "7.3"), limit_s=600.0)


@pytest.fixture
def workload() -> Iterator[Exerciser]:
    """A tenth of 48 MiB gets all accesses; everything on the slow node."""
    with scattered_on(SLOW, mib=48) as exerciser:
        yield exerciser


def is_hot(workload: Exerciser) -> NDArray[np.bool_]:
    """Of each page, whether it gets accesses."""
    return np.isin(np.arange(workload.pages) + (workload.base >> 12), workload.hot_vpns)


def hint_faults() -> int:
    """Since boot."""
    words = Path("/proc/vmstat").read_text().split()
    return int(words[words.index("numa_hint_faults") + 1])


def keep_until_hot_pages_are_fast(workload: Exerciser, directory: Path) -> str:
    """Run ``hotpage auto`` until 95 % of the hot pages are on the fast node; what it says.

    It keeps to the slow node itself.
    """
    config = directory / "auto.toml"
    budget = "[budget]\ncpu_percent = 50.0\nplan_percent = 20.0"  # everything is slow here
    config.write_text(f'state_dir = "{directory}/state"\n{budget}\n[metrics]\naddress = ""\n')
    hot = is_hot(workload)
    command = [sys.executable, "-m", "hotpage", "auto", "--config", str(config), "-p", str(workload.pid)]
    output = directory / "output"
    os.kill(workload.pid, signal.SIGSTOP)  # the compiler wants the processors, too
    with output.open("wb") as file:
        service = subprocess.Popen(
            command, stdout=file, stderr=file, preexec_fn=lambda: set_policy(MPOL_PREFERRED, SLOW)
        )
    try:
        wait_for(lambda: " moves pages of " in output.read_text() or service.poll() is not None, "it runs")
        os.kill(workload.pid, signal.SIGCONT)
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            on_fast = nodes_of(workload.pid, workload.base, workload.pages) == FAST
            if on_fast[hot].mean() >= 0.95:
                break
            assert service.poll() is None, output.read_text()
            assert time.monotonic() < deadline, (on_fast[hot].mean(), output.read_text())
            time.sleep(1.0)
        service.send_signal(signal.SIGTERM)
        assert service.wait(_DEADLINE_S) == 0, output.read_text()
    finally:
        service.kill()
        service.wait()
    return output.read_text()


def test_the_hot_set_ends_on_the_fast_node(workload: Exerciser, machine: object, tmp_path: Path) -> None:
    before = BALANCING.read_text(), PROMOTE_RATE_LIMIT.read_text() if PROMOTE_RATE_LIMIT.exists() else ""
    said = keep_until_hot_pages_are_fast(workload, tmp_path)
    if machine.kernel != "6.1":  # type: ignore[attr-defined]  # there the kernel moves what is accessed
        assert " up, 0 down: moved " in said
        on_fast = nodes_of(workload.pid, workload.base, workload.pages) == FAST
        assert on_fast[~is_hot(workload)].mean() < 0.05, "what nobody accesses stays"
    after = BALANCING.read_text(), PROMOTE_RATE_LIMIT.read_text() if PROMOTE_RATE_LIMIT.exists() else ""
    assert after == before


@pytest.mark.guest(topology="small-dram", kernels=("6.12", "7.3"), limit_s=600.0)
def test_what_was_promoted_while_nothing_was_armed_can_be_armed_again(workload: Exerciser) -> None:
    """Else the kernel takes the time when a page was armed for a CPU, and the workload dies of an oops."""
    addresses = workload.base + 4096 * np.arange(workload.pages, dtype=np.uint64)
    status = np.empty(addresses.size, np.int32)

    def arm() -> None:
        wanted = hint_faults() + workload.pages // 20
        BALANCING.write_text(str(ARMING_ONLY))
        wait_for(lambda: hint_faults() > wanted, "hint faults")
        BALANCING.write_text("0")

    with KnobSession() as knobs:
        assert hold_promotion(knobs)
        arm()
        with tier_changes():
            assert BALANCING.read_text() == "2\n"
            MovePages()(workload.pid, addresses, np.full(addresses.size, FAST, np.int32), status)
        assert (status == FAST).mean() > 0.9 and BALANCING.read_text() == "0\n"
        arm()
        before = workload.accesses()
        wait_for(lambda: workload.accesses() > before, "accesses")


# The policy decides here, whatever the kernel: minutes of one guest are enough.
@pytest.mark.guest(topology="small-dram", kernels=("7.3",), limit_s=600.0)
def test_hot_and_cold_pages_change_places_on_a_node_that_others_fill(
    workload: Exerciser, tmp_path: Path
) -> None:
    """8 MiB are left above the high watermark: less than hotpage's headroom, so there is no free room."""
    cold = workload.base + 4096 * np.flatnonzero(~is_hot(workload)).astype(np.uint64)
    status = np.empty(cold.size, np.int32)
    MovePages()(workload.pid, cold, np.full(cold.size, FAST, np.int32), status)
    assert (status == FAST).all()
    with filled(FAST):
        keep_until_hot_pages_are_fast(workload, tmp_path)
