# SPDX-License-Identifier: Apache-2.0
"""``hotpage move`` as people run it, on a machine with one node: it looks, and says why nothing moves."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from recordings import HOTPAGE
from wrongusage import check_wrong_usage

from hotpage.exerciser import Exerciser
from hotpage.machine.numa import MovePages
from hotpage.machine.proc import read_stat
from hotpage.machine.topology import Topology
from hotpage.placement.movers.move_pages import MovePagesMover
from hotpage.placement.plan import Move, Plan, ProcessFacts

MOVE = [*HOTPAGE, "move"]
PAGE = 4096


@pytest.fixture(scope="module")
def workload() -> Iterator[Exerciser]:
    with Exerciser.start(mib=32, threads=2) as exerciser:
        yield exerciser


def move(*options: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MOVE, *map(str, options)], capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.needs("bcc")
def test_a_live_look_knows_what_is_in_place(workload: Exerciser) -> None:
    done = move("-p", workload.pid, "--to", 0, "-d", 4, "--budget", 100, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert "hotpage: nothing to move: among the hottest, and in fast memory already" in done.stderr
    assert document["moves"] == [] and "result" not in document
    # The workload's pages at least; how much of the rest the kernel has armed is its own affair.
    assert document["kept_bytes"]["hot_in_place"] >= workload.pages * PAGE * 0.5


WRONG = [
    (("--to", "77"), "there is no memory on node 77"),
    (("--hot", "much", "--to", "0"), "--hot much is no size"),
    (("--hot", "101%", "--to", "0"), "--hot 101% makes no sense"),
    (("-p", "1", "-a"), "several targets are given"),
    (("-p", "1", "-i", "x"), "a profile and a live target exclude each other"),
    (("--policy", "magic", "--to", "0"), "there is no policy 'magic'"),
    (("--mover", "magic", "--to", "0"), "there is no mover 'magic'"),
]


def test_wrong_usage_is_one_line() -> None:
    cases = [(options, f"hotpage: {problem}", 2) for options, problem in WRONG]
    check_wrong_usage(["move"], cases)


def test_without_a_profile_it_says_so(tmp_path: Path) -> None:
    done = move("--to", 0, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("hotpage: ") and done.stdout == ""


def test_one_node_is_no_place_to_move_to(workload: Exerciser) -> None:
    done = move("-p", workload.pid, "--promote")
    if len([node for node in Topology.read().nodes if node.total_bytes]) == 1:
        assert done.returncode == 1
        assert done.stderr.startswith("hotpage: this machine has one memory node")


def test_the_real_call_finds_pages_in_place_and_says_who_has_gone(workload: Exerciser) -> None:
    stat = read_stat(workload.pid)
    assert stat is not None
    vpn = (workload.base >> 12) + np.arange(500, dtype=np.int64)
    assert (MovePages().query(workload.pid, vpn) == 0).all()
    order = Move(0, 1, 0, True, "", vpn, np.ones(500, np.int32), 1.0, 1.0, 1.0)
    facts = ProcessFacts(workload.pid, stat.start_time_ticks, stat.image, "", "/", frozenset({0}))
    plan = Plan("test", (order,), {})
    done = MovePagesMover().run(plan, {0: facts})
    assert {kind.name: count for kind, count in done.bytes_by_result().items()} == {"ALREADY": 500 * PAGE}
    stranger = ProcessFacts(workload.pid, stat.start_time_ticks + 1, stat.image, "", "/", frozenset({0}))
    done = MovePagesMover().run(plan, {0: stranger})
    assert {kind.name: count for kind, count in done.bytes_by_result().items()} == {"GONE": 500 * PAGE}
