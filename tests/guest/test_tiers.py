# SPDX-License-Identifier: Apache-2.0
"""hotpage tiers on machines with known nodes: the right tiers, whatever the kernel makes of them."""

import json
import subprocess
from typing import Any

import pytest
from guestlab.topology import Tiers, Topology, names

from hotpage.machine import topology as hotpage_topology
from hotpage.recording.checks import check_topology

MIB = 2**20
EVERY_MACHINE = pytest.mark.guest(topology=names())


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What ``hotpage tiers`` says, once a guest."""
    done = subprocess.run(["hotpage", "tiers", "--json"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def by_tier(nodes: list[dict[str, Any]]) -> Tiers:
    numbers = sorted({node["tier"] for node in nodes})
    return tuple(tuple(node["id"] for node in nodes if node["tier"] == number) for number in numbers)


@EVERY_MACHINE
def test_tiers_are_those_of_the_machine(told: dict[str, Any], topology: Topology) -> None:
    assert by_tier(told["nodes"]) == topology.tiers


@EVERY_MACHINE
def test_what_the_kernel_makes_of_it_is_told(told: dict[str, Any], topology: Topology, machine: Any) -> None:
    kernels_own = topology.kernel_tiers_on(machine.kernel)
    assert sorted(told["kernel_tiers"].values()) == sorted(map(list, kernels_own))
    assert told["kernel_disagrees"] is (set(kernels_own) != set(topology.tiers))


@EVERY_MACHINE
def test_distances_and_speeds_are_the_firmwares(told: dict[str, Any], topology: Topology) -> None:
    for number, (node, expected) in enumerate(zip(told["nodes"], topology.nodes, strict=True)):
        assert list(node["distances"].values()) == list(topology.distances[number])
        for way in ("read", "write"):
            assert node[f"{way}_latency_ns"] == expected.latency_ns
            assert node[f"{way}_bandwidth_mbps"] == expected.bandwidth_mbps


@EVERY_MACHINE
def test_sizes_and_cpus_are_the_machines(told: dict[str, Any], topology: Topology) -> None:
    for node, expected in zip(told["nodes"], topology.nodes, strict=True):
        assert len(node["cpus"]) == expected.cpus
        # The firmware and the kernel's own tables take their part of it first.
        assert expected.memory_mib - 192 < node["total_bytes"] / MIB <= expected.memory_mib
        assert 0 < node["free_bytes"] < node["total_bytes"]


@EVERY_MACHINE
def test_doctor_counts_them(topology: Topology) -> None:
    check = check_topology(hotpage_topology.Topology.read())
    assert check.state == "ok"
    words = check.finding.split(", ")
    assert words[0].split()[0] == str(len(topology.nodes))
    assert words[1].split()[0] == str(len(topology.tiers))
    assert words[2].split()[0] == str(topology.cpus)
