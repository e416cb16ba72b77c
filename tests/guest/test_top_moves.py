# SPDX-License-Identifier: Apache-2.0
"""F8 and F7 of ``hotpage top`` in a real terminal: a workload's pages go to the slow node and come back.

The workload is halted meanwhile: as long as the fast node has much free memory the kernel promotes what is
accessed, whatever the session has told it.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from moving import FAST, SLOW
from terminals import Terminal, check_left, start_top
from toucher import loaded_programs, stop, wait_for
from workload import BALANCING, await_passes, halted, nodes_of, set_scan_period

from hotpage.exerciser import Exerciser
from hotpage.machine.tiering import PROMOTE_RATE_LIMIT

pytestmark = [
    pytest.mark.needs("bcc", "tmux"),
    # On 6.1 a page that is armed cannot be moved, and a halted workload disarms none; 6.12 does as 7.3 does.
    pytest.mark.guest(topology="cxl", kernels=("7.3",), limit_s=1200.0),
]

PATIENCE_S = 300.0


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("HOTPAGE_STATE_DIR", str(tmp_path / "state"))
    settings = [file.read_text() for file in (BALANCING, PROMOTE_RATE_LIMIT)]
    programs = loaded_programs()
    terminal = Terminal(tmp_path, 110, 30, PATIENCE_S)
    yield terminal
    terminal.close()
    wait_for(lambda: not loaded_programs() - programs, "all programs are gone", 0.3)
    assert [file.read_text() for file in (BALANCING, PROMOTE_RATE_LIMIT)] == settings


def move_everything(terminal: Terminal, key: str, title: str) -> None:
    """Ask for it with a key, have it planned for all pages of known rate, confirm, and see it through."""
    terminal.keys(key)
    terminal.until(lambda shown: title in shown and "AEverything" in shown)
    terminal.keys("a")
    terminal.until(lambda shown: "Tried, without moving anything" in shown and "AOnly" in shown)
    terminal.keys("Enter")
    shown = terminal.until(lambda shown: "asked for, in" in shown)
    print(shown)
    terminal.keys("Escape")
    terminal.until(lambda shown: "F10Quit" in shown)


def test_the_keys_move_pages_between_nodes(terminal: Terminal) -> None:
    set_scan_period(100, slowest_ms=60_000)
    with Exerciser.start(mib=4, threads=2) as workload:

        def nodes() -> list[int]:
            return np.unique(nodes_of(workload.pid, workload.base, workload.pages)).tolist()

        with halted([workload.pid]):
            start_top(terminal, "--arm", "--budget", "50", "-p", str(workload.pid))
        await_passes([workload.pid], 3)
        terminal.until(lambda shown: "hot > " in shown)
        stop(workload.pid)
        assert nodes() == [FAST]

        move_everything(terminal, "F8", f"Demote exerciser ({workload.pid})")
        assert nodes() == [SLOW]

        move_everything(terminal, "F7", f"Promote exerciser ({workload.pid})")
        assert nodes() == [FAST]
        terminal.keys("q")
        check_left(terminal, 0)
