# SPDX-License-Identifier: Apache-2.0
"""The machines of the lab as data: each one makes sense, and becomes the options that QEMU wants."""

import shutil
import subprocess
import tomllib

import pytest
from guestlab.errors import LabError
from guestlab.guest import numa_options
from guestlab.kernels import SUPPORTED_KERNELS
from guestlab.topology import DIRECTORY, Topology, names

LARGEST_MIB = 4096  # two guests at once shall fit into a machine of 16 GiB, with room for their page tables
ONE_NODE = {"summary": "one", "tiers": [[0]], "nodes": [{"memory_mib": 1024, "cpus": 1}]}


def test_the_four_machines_are_there() -> None:
    assert names() == ("cxl", "flat", "small-dram", "sockets-cxl")


@pytest.mark.parametrize("name", names())
def test_each_is_whole(name: str) -> None:
    topology = Topology.load(name)
    ids = set(range(len(topology.nodes)))
    for tiers in (topology.tiers, *topology.kernel_tiers.values()):
        assert sorted(node for tier in tiers for node in tier) == sorted(ids)
    assert topology.kernel_tiers.keys() <= {kernel.name for kernel in SUPPORTED_KERNELS}
    assert all(row[number] == 10 for number, row in enumerate(topology.distances))
    assert all(topology.nodes[node.nearest].cpus for node in topology.nodes)
    assert topology.memory_mib <= LARGEST_MIB
    text = (DIRECTORY / f"{name}.toml").read_text()
    assert tomllib.loads(text)["summary"] == topology.summary


@pytest.mark.needs("emulator")
@pytest.mark.parametrize("name", names())
def test_qemu_takes_it(name: str) -> None:
    topology = Topology.load(name)
    qemu = shutil.which("qemu-system-x86_64")
    command = [qemu, "-machine", "q35", "-accel", "tcg", "-display", "none", "-nodefaults", "-S"]
    command += ["-m", f"{topology.memory_mib}M", "-smp", str(topology.cpus), "-monitor", "stdio"]
    done = subprocess.run(
        [*command, *numa_options(topology)], input="info numa\nquit\n", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for number, node in enumerate(topology.nodes):
        assert f"node {number} size: {node.memory_mib} MB" in done.stdout


def test_an_unknown_one_is_said_with_those_there_are() -> None:
    with pytest.raises(LabError, match=r"no topology 'x'; there are: cxl, flat"):
        Topology.load("x")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"distances": [[10, 20], [20, 10]]}, "a row and a column for each node"),
        ({"nodes": [{"memory_mib": 1024}]}, "no node has CPUs"),
        ({"nodes": [{"memory_mib": 1024, "cpu": 1}]}, "a node has no cpu; it has memory_mib, cpus"),
    ],
)
def test_what_is_no_machine_is_said(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(LabError, match=complaint):
        Topology.parse("x", ONE_NODE | change)


def test_a_plugged_node_is_like_the_last_one() -> None:
    options = " ".join(numa_options(Topology.load("cxl")))
    assert "node,nodeid=2,initiator=0" in options
    assert "dist,src=0,dst=2,val=20" in options
    assert "dist,src=2,dst=1,val=20" in options
    assert "target=2,hierarchy=memory,data-type=access-latency,latency=250" in options
