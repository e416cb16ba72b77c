# SPDX-License-Identifier: Apache-2.0
"""Topology from fake sysfs trees: one node, DRAM and CXL, two sockets, and what the kernel gets wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from hotpage.cli.tiers import as_json, render
from hotpage.machine.topology import Topology, format_cpulist, parse_cpulist
from hotpage.recording.nodes import NodeWatch

GIB = 2**30
DRAM_HMAT = {"read_latency": 100, "write_latency": 100, "read_bandwidth": 200_000, "write_bandwidth": 200_000}
CXL_HMAT = {"read_latency": 250, "write_latency": 250, "read_bandwidth": 50_000, "write_bandwidth": 50_000}
HBM_HMAT = {"read_latency": 110, "write_latency": 110, "read_bandwidth": 800_000, "write_bandwidth": 800_000}

AddNode = Callable[..., None]


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, AddNode]:
    """An empty tree, and a function that puts a node in it."""

    def add(number: int, cpulist: str, gib: int, distance: str, access: str = "access0", **hmat: int) -> None:
        node = tmp_path / f"sys/devices/system/node/node{number}"
        write(node / "cpulist", cpulist)
        total_kb = gib * GIB // 1024
        lines = [
            f"Node {number} MemTotal: {total_kb:>12} kB",
            f"Node {number} MemFree: {total_kb // 2:>12} kB",
        ]
        write(node / "meminfo", "\n".join([*lines, f"Node {number} HugePages_Total:     0"]))
        write(node / "distance", distance)
        for name, value in hmat.items():
            write(node / access / "initiators" / name, value)

    return tmp_path, add


def read(root: Path) -> Topology:
    return Topology.read(root / "sys", root / "proc")


def tier_ids(topology: Topology) -> list[list[int]]:
    return [[node.id for node in tier] for tier in topology.tiers]


def test_one_node_and_nothing_known_beside_it(machine: tuple[Path, AddNode]) -> None:
    root, add = machine
    add(0, "0-1", 4, "10")
    topology = read(root)
    (node,) = topology.nodes
    assert (node.cpus, node.total_bytes, node.free_bytes, node.distances) == (
        (0, 1),
        4 * GIB,
        2 * GIB,
        {0: 10},
    )
    assert node.read_latency_ns is None
    assert node.tier == 0
    assert topology.demotion_enabled is None
    assert topology.numa_balancing is None
    assert topology.kernel_tiers == {}
    assert not topology.kernel_disagrees


def test_memory_without_cpus_is_slower_even_where_the_kernel_says_otherwise(
    machine: tuple[Path, AddNode],
) -> None:
    root, add = machine
    add(0, "0-7", 64, "10 20")
    add(1, "", 128, "20 10")
    write(root / "sys/devices/virtual/memory_tiering/memory_tier4/nodelist", "0-1")  # as Linux 6.1 does
    topology = read(root)
    assert tier_ids(topology) == [[0], [1]]
    assert topology.kernel_tiers == {"memory_tier4": (0, 1)}
    assert topology.kernel_disagrees


def test_two_sockets_share_the_fast_tier(machine: tuple[Path, AddNode]) -> None:
    root, add = machine
    add(0, "0-3,8-11", 64, "10 20 20")
    add(1, "4-7,12-15", 64, "20 10 30")
    add(2, "", 256, "20 30 10")
    write(root / "sys/devices/virtual/memory_tiering/memory_tier4/nodelist", "0-1")
    write(root / "sys/devices/virtual/memory_tiering/memory_tier90/nodelist", "2")
    topology = read(root)
    assert tier_ids(topology) == [[0, 1], [2]]
    assert topology.nodes[1].distances == {0: 20, 1: 10, 2: 30}
    assert list(topology.kernel_tiers) == ["memory_tier4", "memory_tier90"]
    assert not topology.kernel_disagrees


def test_without_speeds_memory_further_away_is_a_tier_of_its_own(machine: tuple[Path, AddNode]) -> None:
    root, add = machine
    add(0, "0-3", 64, "10 20 40 20")
    add(1, "", 64, "20 10 40 40")
    add(2, "", 64, "40 40 10 40")
    add(3, "", 64, "20 40 40 10")
    assert tier_ids(read(root)) == [[0], [1, 3], [2]]


def test_measured_speed_decides_over_distance(machine: tuple[Path, AddNode]) -> None:
    root, add = machine
    add(0, "0-3", 64, "10 20 20 20", **DRAM_HMAT)
    add(1, "", 64, "20 10 20 20", **CXL_HMAT)
    add(2, "", 16, "20 20 10 20", **HBM_HMAT)
    add(3, "", 64, "20 20 20 10", **DRAM_HMAT)
    topology = read(root)
    assert tier_ids(topology) == [[2], [0, 3], [1]]
    assert topology.nodes[1].read_latency_ns == 250
    assert topology.nodes[2].write_bandwidth_mbps == 800_000


def test_speed_seen_from_cpus_is_preferred_and_zero_is_unknown(machine: tuple[Path, AddNode]) -> None:
    root, add = machine
    add(0, "0", 1, "10", access="access0", read_latency=50, write_latency=0, read_bandwidth=7)
    add(0, "0", 1, "10", access="access1", read_latency=90, read_bandwidth=0)
    (node,) = read(root).nodes
    assert (node.read_latency_ns, node.write_latency_ns) == (90, None)
    assert (node.read_bandwidth_mbps, node.write_bandwidth_mbps) == (7, None)


def test_a_node_without_memory_has_no_tier(machine: tuple[Path, AddNode]) -> None:
    root, add = machine
    add(0, "0-1", 8, "10 20")
    add(1, "2-3", 0, "20 10")
    topology = read(root)
    assert tier_ids(topology) == [[0]]
    assert topology.nodes[1].tier is None


def test_sparse_node_numbers_keep_their_distances(machine: tuple[Path, AddNode]) -> None:
    root, add = machine
    add(0, "0", 8, "10 28")
    add(10, "", 8, "28 10")
    assert read(root).nodes[1].distances == {0: 28, 10: 10}


def test_a_kernel_without_numa_is_one_node(tmp_path: Path) -> None:
    write(tmp_path / "sys/devices/system/cpu/online", "0-3")
    write(tmp_path / "proc/meminfo", "MemTotal:        2048 kB\nMemFree:        1024 kB")
    (node,) = read(tmp_path).nodes
    assert (node.id, node.cpus, node.total_bytes, node.free_bytes) == (0, (0, 1, 2, 3), 2 << 20, 1 << 20)
    assert node.tier == 0


@pytest.mark.parametrize(
    ("text", "enabled"), [("true", True), ("false", False), ("1", True), ("0", False), ("?", None)]
)
def test_settings(tmp_path: Path, text: str, enabled: bool | None) -> None:
    write(tmp_path / "sys/kernel/mm/numa/demotion_enabled", text)
    write(tmp_path / "proc/sys/kernel/numa_balancing", 3)
    write(tmp_path / "proc/sys/kernel/numa_balancing_promote_rate_limit_MBps", 65536)
    write(tmp_path / "proc/sys/vm/zone_reclaim_mode", 0)
    topology = read(tmp_path)
    assert topology.demotion_enabled is enabled
    assert (topology.numa_balancing, topology.promote_rate_limit_mbps, topology.zone_reclaim_mode) == (
        3,
        65536,
        0,
    )


@pytest.mark.parametrize("text", ["", "0", "0-3", "0,2-4,9", "0-55,112-167"])
def test_cpulists_survive_the_round_trip(text: str) -> None:
    assert format_cpulist(parse_cpulist(text)) == text


def test_the_view_fits_80_columns_and_shows_unknown_as_a_dash(machine: tuple[Path, AddNode]) -> None:
    root, add = machine
    cpus = ",".join(str(cpu) for cpu in range(0, 200, 2))
    add(0, cpus, 1536, "10 21 14", **DRAM_HMAT)
    add(1, "1,3", 1536, "21 10 24")
    add(2, "", 2048, "14 24 10", **CXL_HMAT)
    console = Console(width=80, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(render(read(root)))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    text = capture.get()
    assert "1536.0 GiB" in text
    assert "250/250" in text
    assert "-/-" in text
    assert "…" not in text
    assert cpus in "".join(line[12:30].split("  ")[0].strip() for line in lines[2:])


def test_json_says_null_for_unknown(machine: tuple[Path, AddNode]) -> None:
    root, add = machine
    add(0, "0-1", 4, "10")
    document = json.loads(json.dumps(as_json(read(root))))
    assert document["nodes"][0]["read_latency_ns"] is None
    assert document["demotion_enabled"] is None
    assert document["nodes"][0]["total_bytes"] == 4 * GIB


def test_free_memory_is_read_again_without_all_the_rest(machine: tuple[Path, AddNode]) -> None:
    root, add = machine
    add(0, "0-1", 4, "10 20")
    add(1, "", 8, "20 10")
    before = read(root)
    add(1, "0-1", 8, "20 10")  # only noticed when all is read
    write(root / "sys/devices/system/node/node1/meminfo", "Node 1 MemFree: 1024 kB")
    now = before.with_free_now(root / "sys", root / "proc")
    assert [node.free_bytes for node in now.nodes] == [2 * GIB, 1 << 20]
    assert [node.tier for node in now.nodes] == [node.tier for node in before.nodes] == [0, 1]


def test_free_memory_of_a_kernel_without_nodes(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal: 4096 kB\nMemFree: 2048 kB")
    before = read(tmp_path)
    write(tmp_path / "proc/meminfo", "MemTotal: 4096 kB\nMemFree: 1024 kB")
    (node,) = before.with_free_now(tmp_path / "sys", tmp_path / "proc").nodes
    assert node.free_bytes == 1 << 20


def test_a_session_is_told_of_free_memory_all_the_time(
    machine: tuple[Path, AddNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, add = machine
    add(0, "0-1", 4, "10")
    with_free_now = Topology.with_free_now
    read_all = Topology.read
    monkeypatch.setattr(Topology, "read", lambda: read_all(root / "sys", root / "proc"))
    monkeypatch.setattr(
        Topology, "with_free_now", lambda self: with_free_now(self, root / "sys", root / "proc")
    )
    with NodeWatch() as watch:
        assert [record.free_bytes for record in watch.read()] == [2 * GIB]
        add(0, "0-1", 2, "10")
        assert [record.free_bytes for record in watch.read()] == [GIB]
        assert [record.total_bytes for record in watch.read(last=True)] == [2 * GIB]
