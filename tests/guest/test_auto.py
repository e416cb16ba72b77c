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
from moving import FAST, SLOW
from toucher import wait_for
from workload import BALANCING, move, nodes_of

from hotpage.exerciser import Exerciser
from hotpage.machine.tiering import PROMOTE_RATE_LIMIT

_DEADLINE_S = 240.0

pytestmark = pytest.mark.guest(topology="small-dram", limit_s=600.0)


@pytest.fixture
def workload() -> Iterator[Exerciser]:
    """A tenth of 48 MiB gets all accesses; everything on the slow node."""
    with Exerciser.start(mib=48, hot_share=1.0, layout="scattered", threads=2, work=200) as exerciser:
        BALANCING.write_text("0")
        move(exerciser.pid, exerciser.base, exerciser.pages, SLOW)
        yield exerciser


def test_the_hot_set_ends_on_the_fast_node(workload: Exerciser, machine: object, tmp_path: Path) -> None:
    before = BALANCING.read_text(), PROMOTE_RATE_LIMIT.read_text() if PROMOTE_RATE_LIMIT.exists() else ""
    config = tmp_path / "auto.toml"
    budget = "[budget]\ncpu_percent = 50.0\nplan_percent = 20.0"  # everything is slow here
    config.write_text(f'state_dir = "{tmp_path}/state"\n{budget}\n[metrics]\naddress = ""\n')
    hot = np.isin(np.arange(workload.pages) + (workload.base >> 12), workload.hot_vpns)
    command = [sys.executable, "-m", "hotpage", "auto", "--config", str(config), "-p", str(workload.pid)]
    output = tmp_path / "output"
    os.kill(workload.pid, signal.SIGSTOP)  # the compiler wants the processors, too
    with output.open("wb") as file:
        service = subprocess.Popen(command, stdout=file, stderr=file)
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
    if machine.kernel != "6.1":  # type: ignore[attr-defined]  # there the kernel moves what is accessed
        assert " up, 0 down: moved " in output.read_text()
        on_fast = nodes_of(workload.pid, workload.base, workload.pages) == FAST
        assert on_fast[~hot].mean() < 0.05, "what nobody accesses stays"
    after = BALANCING.read_text(), PROMOTE_RATE_LIMIT.read_text() if PROMOTE_RATE_LIMIT.exists() else ""
    assert after == before
