# SPDX-License-Identifier: Apache-2.0
"""hotpage doctor in guests: Debian's kernels offer all that hotpage can use, and it says so."""

import json
import subprocess
from typing import Any

import pytest
from guestlab.topology import Topology

pytestmark = pytest.mark.guest(topology="cxl")


@pytest.fixture(scope="module")
def diagnosis() -> dict[str, Any]:
    """Once a guest: an emulated CPU compiles BPF programs slowly."""
    done = subprocess.run(["hotpage", "doctor", "--json"], capture_output=True, text=True)
    assert done.stderr == ""
    document = json.loads(done.stdout)
    return {"status": done.returncode} | document | {check["name"]: check for check in document["checks"]}


def test_rates_can_be_had(diagnosis: dict[str, Any]) -> None:
    assert diagnosis["status"] == 0
    assert diagnosis["main_job"]["can_run"] is True
    assert [check for check in diagnosis["checks"] if check["essential"] and check["state"] != "ok"] == []


@pytest.mark.parametrize("rung", ["hint/fentry", "hint/kprobe", "hint/tracepoint", "hint/software event"])
def test_every_rung_of_the_hint_ladder_holds(diagnosis: dict[str, Any], rung: str) -> None:
    assert diagnosis[rung]["state"] == "ok"


def test_the_first_rungs_are_taken(diagnosis: dict[str, Any]) -> None:
    assert diagnosis["hint/fentry"]["finding"] == "taken"
    assert diagnosis["fault/tracepoint"]["finding"] == "taken"
    assert diagnosis["source hint"]["state"] == diagnosis["source fault"]["state"] == "ok"


@pytest.mark.parametrize(
    "name", ["arming pace", "holding", "process events", "cgroup v2", "memory hot-plug", "type information"]
)
def test_debians_kernels_hide_nothing(diagnosis: dict[str, Any], name: str) -> None:
    assert diagnosis[name]["state"] == "ok"


def test_the_topology_row_is_the_machines(diagnosis: dict[str, Any], topology: Topology) -> None:
    finding = diagnosis["topology"]["finding"]
    assert finding.startswith(f"{len(topology.nodes)} node")
    assert f"{len(topology.tiers)} tier" in finding


# One kernel: what nodes a machine has is nothing to its BPF programs, which take most of the time.
@pytest.mark.guest(topology=("flat", "small-dram", "sockets-cxl"), kernels=("7.3",))
def test_other_nodes_take_nothing_away(diagnosis: dict[str, Any], topology: Topology) -> None:
    test_rates_can_be_had(diagnosis)
    test_the_first_rungs_are_taken(diagnosis)
    test_the_topology_row_is_the_machines(diagnosis, topology)
