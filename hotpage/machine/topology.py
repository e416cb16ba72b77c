# SPDX-License-Identifier: Apache-2.0
"""The machine's memory: nodes, their sizes, distances and speeds, and the tiers that follow from them.

Tiers are derived here. The kernel's own (memory_tiering) are only shown: Linux 6.1 puts slow memory that the
firmware brought online into the tier of DRAM, where newer kernels split it off.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from hotpage.machine.proc import PROC

SYSFS: Final = Path("/sys")

# The kernel's abstract distance (include/linux/memory-tiers.h): DRAM is 576, a tier spans 128; slow memory of
# unknown speed counts as five times DRAM (drivers/dax/kmem.c).
_DRAM_DISTANCE: Final = 4 * 128 + 64
_TIER_SPAN: Final = 128
_UNKNOWN_SLOW_FACTOR: Final = 5


@dataclass(frozen=True, slots=True)
class Node:
    """One NUMA node; what the machine does not tell is None.

    ``distances``: the firmware's (SLIT), by node id; 10 is the node itself. Latencies and bandwidths are
    those seen from the nearest CPUs, from the firmware's HMAT. ``tier``: 0 is the fastest; None without
    memory.
    """

    id: int
    cpus: tuple[int, ...]
    total_bytes: int | None
    free_bytes: int | None
    distances: dict[int, int]
    read_latency_ns: int | None = None
    write_latency_ns: int | None = None
    read_bandwidth_mbps: int | None = None
    write_bandwidth_mbps: int | None = None
    tier: int | None = None
    is_device: bool = False
    """Memory of an accelerator: it has no CPUs and is, or is next to, a generic initiator (ACPI SRAT)."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The nodes in order of id, and the kernel settings that move pages between them; None where unknown."""

    nodes: tuple[Node, ...]
    kernel_tiers: dict[str, tuple[int, ...]]
    """The kernel's opinion: memory tier name to node ids; empty where it has none."""
    demotion_enabled: bool | None
    numa_balancing: int | None
    promote_rate_limit_mbps: int | None
    zone_reclaim_mode: int | None

    @property
    def tiers(self) -> tuple[tuple[Node, ...], ...]:
        """The nodes with memory, by tier, the fastest first."""
        count = max((node.tier + 1 for node in self.nodes if node.tier is not None), default=0)
        return tuple(tuple(node for node in self.nodes if node.tier == tier) for tier in range(count))

    @property
    def kernel_disagrees(self) -> bool:
        """Whether the kernel groups the nodes into other tiers than these."""
        ours = {frozenset(node.id for node in tier) for tier in self.tiers}
        return bool(self.kernel_tiers) and ours != set(map(frozenset, self.kernel_tiers.values()))

    @classmethod
    def read(cls, sysfs_root: Path = SYSFS, proc_root: Path = PROC) -> Self:
        """The machine as it is now."""
        directory = sysfs_root / "devices/system/node"
        ids = sorted(int(entry.name[4:]) for entry in directory.glob("node[0-9]*"))
        nodes = [_read_node(directory / f"node{node}", node, ids) for node in ids]
        kernel = proc_root / "sys/kernel"
        return cls(
            nodes=_with_tiers(nodes or [_only_node(sysfs_root, proc_root)]),
            kernel_tiers=_read_kernel_tiers(sysfs_root),
            demotion_enabled=_read_bool(sysfs_root / "kernel/mm/numa/demotion_enabled"),
            numa_balancing=_read_int(kernel / "numa_balancing"),
            promote_rate_limit_mbps=_read_int(kernel / "numa_balancing_promote_rate_limit_MBps"),
            zone_reclaim_mode=_read_int(proc_root / "sys/vm/zone_reclaim_mode"),
        )

    def with_free_now(self, sysfs_root: Path = SYSFS, proc_root: Path = PROC) -> Self:
        """The same with the memory that is free now, which costs a file per node to read."""
        directory = sysfs_root / "devices/system/node"
        has_nodes = directory.is_dir()
        nodes = []
        for node in self.nodes:
            sizes = _read_meminfo((directory / f"node{node.id}" if has_nodes else proc_root) / "meminfo")
            nodes.append(replace(node, free_bytes=sizes.get("MemFree")))
        return replace(self, nodes=tuple(nodes))


def parse_cpulist(text: str) -> tuple[int, ...]:
    """Parse the kernel's list format: "0-2,8" is (0, 1, 2, 8)."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def format_cpulist(numbers: tuple[int, ...]) -> str:
    """The inverse of ``parse_cpulist``, for ascending numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _read_node(directory: Path, node: int, ids: list[int]) -> Node:
    sizes = _read_meminfo(directory / "meminfo")
    distances = (_read_text(directory / "distance") or "").split()
    cpus = parse_cpulist(_read_text(directory / "cpulist") or "")
    return Node(
        id=node,
        cpus=cpus,
        total_bytes=sizes.get("MemTotal"),
        free_bytes=sizes.get("MemFree"),
        distances=dict(zip(ids, map(int, distances), strict=False)),
        read_latency_ns=_read_hmat(directory, "read_latency"),
        write_latency_ns=_read_hmat(directory, "write_latency"),
        read_bandwidth_mbps=_read_hmat(directory, "read_bandwidth"),
        write_bandwidth_mbps=_read_hmat(directory, "write_bandwidth"),
        is_device=not cpus and _is_at_accelerator(directory, node),
    )


def _only_node(sysfs_root: Path, proc_root: Path) -> Node:
    """A kernel without NUMA has no node directory: all memory and CPUs are one node."""
    sizes = _read_meminfo(proc_root / "meminfo")
    cpus = parse_cpulist(_read_text(sysfs_root / "devices/system/cpu/online") or "")
    return Node(0, cpus, sizes.get("MemTotal"), sizes.get("MemFree"), {0: 10})


def _with_tiers(nodes: list[Node]) -> tuple[Node, ...]:
    """Number the nodes with memory by tier: same rank, same tier."""
    ranks = {node.id: _rank(node, nodes) for node in nodes if node.total_bytes}
    order = sorted(set(ranks.values()))
    return tuple(
        replace(node, tier=order.index(ranks[node.id])) if node.id in ranks else node for node in nodes
    )


def _rank(node: Node, nodes: list[Node]) -> tuple[int, int]:
    """Smaller is faster: memory beside CPUs is DRAM; other memory is ranked by speed, else by distance."""
    dram_rank = _DRAM_DISTANCE // _TIER_SPAN, 0
    with_cpus = [other for other in nodes if other.cpus]
    if node.cpus or not with_cpus:
        return dram_rank
    slowness = min(
        (factor for other in with_cpus if (factor := _slowness(node, other)) is not None), default=None
    )
    if slowness is not None:
        return int(_DRAM_DISTANCE * slowness) // _TIER_SPAN, 0
    nearest = min(node.distances.get(other.id, 255) for other in with_cpus)
    return _UNKNOWN_SLOW_FACTOR * _DRAM_DISTANCE // _TIER_SPAN, nearest


def _slowness(node: Node, dram: Node) -> float | None:
    """The kernel's mt_perf_to_adistance(): latency ratio times inverse bandwidth ratio; None if unknown."""
    latency = _sum(node.read_latency_ns, node.write_latency_ns)
    dram_latency = _sum(dram.read_latency_ns, dram.write_latency_ns)
    bandwidth = _sum(node.read_bandwidth_mbps, node.write_bandwidth_mbps)
    dram_bandwidth = _sum(dram.read_bandwidth_mbps, dram.write_bandwidth_mbps)
    if not (latency and dram_latency and bandwidth and dram_bandwidth):
        return None
    return (latency / dram_latency) * (dram_bandwidth / bandwidth)


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second


def _read_hmat(directory: Path, name: str) -> int | None:
    # access1 is seen from CPUs, access0 from any initiator (an accelerator may be nearer); 0 means not told.
    for access in ("access1", "access0"):
        value = _read_int(directory / access / "initiators" / name)
        if value:
            return value
    return None


def _is_at_accelerator(directory: Path, node: int) -> bool:
    """Whether the node, or the nearest initiator to it, is a generic one and no CPU."""
    generic = set(parse_cpulist(_read_text(directory.parent / "has_generic_initiator") or ""))
    generic -= set(parse_cpulist(_read_text(directory.parent / "has_cpu") or ""))
    nearest = (directory / "access0/initiators").glob("node[0-9]*")
    return node in generic or any(int(entry.name[4:]) in generic for entry in nearest)


def _read_kernel_tiers(sysfs_root: Path) -> dict[str, tuple[int, ...]]:
    found = (sysfs_root / "devices/virtual/memory_tiering").glob("memory_tier[0-9]*")
    tiers = {entry.name: parse_cpulist(_read_text(entry / "nodelist") or "") for entry in found}
    by_number = sorted(tiers.items(), key=lambda item: int(item[0].removeprefix("memory_tier")))
    return {name: nodes for name, nodes in by_number if nodes}


def _read_meminfo(path: Path) -> dict[str, int]:
    """Bytes by field, of lines such as ``Node 0 MemTotal: 4286676 kB`` or ``MemTotal: 4286676 kB``."""
    sizes = {}
    for line in (_read_text(path) or "").splitlines():
        head, _, value = line.partition(":")
        if value.endswith(" kB"):
            sizes[head.split()[-1]] = int(value.split()[0]) * 1024
    return sizes


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _read_int(path: Path) -> int | None:
    text = _read_text(path)
    return int(text) if text and text.isdecimal() else None


def _read_bool(path: Path) -> bool | None:
    # Spelled true/false; 1/0 by early kernels.
    return {"true": True, "1": True, "false": False, "0": False}.get(_read_text(path) or "")
