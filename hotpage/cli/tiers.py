# SPDX-License-Identifier: Apache-2.0
"""``hotpage tiers``: the machine's memory nodes and tiers, their speed, and the settings that move pages."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

from hotpage.cli.formats import print_json
from hotpage.machine.topology import Node, Topology, format_cpulist

_UNKNOWN = "-"
_BALANCING_BITS = {1: "move pages to the CPUs that use them", 2: "promote hot pages of slow tiers"}


def tiers(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document; null is unknown.")] = False,
) -> None:
    """Show memory nodes and tiers, their latency and their knobs.

    Tiers are derived from CPUs, distances and the firmware's latency and bandwidth; 0 is the fastest.
    """
    topology = Topology.read()
    if json:
        print_json(as_json(topology), indent=2)
    else:
        Console(highlight=False).print(render(topology))


def as_json(topology: Topology) -> dict[str, Any]:
    """The whole topology in plain types: bytes, nanoseconds, MB/s."""
    return {**asdict(topology), "kernel_disagrees": topology.kernel_disagrees}


def render(topology: Topology) -> RenderableType:
    """The topology for a terminal, at most 80 columns if that is all there is."""
    parts: list[RenderableType] = [_nodes_table(topology)]
    if len(topology.nodes) > 1:
        parts += ["", _distance_table(topology)]
    parts += ["", _settings_table(topology)]
    if topology.kernel_disagrees:
        parts += ["", "The kernel's tiers differ from these: it may neither promote nor demote between them."]
    return Group(*parts)


def _nodes_table(topology: Topology) -> Table:
    table = _table()
    for name in ("tier", "node"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("CPUs", overflow="fold")
    for name in ("size", "free", "read/write ns", "read/write GB/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for node in sorted(topology.nodes, key=lambda node: (node.tier is None, node.tier, node.id)):
        table.add_row(*_node_row(node))
    return table


def _node_row(node: Node) -> list[str]:
    return [
        _number(node.tier),
        str(node.id),
        format_cpulist(node.cpus) or "none",
        _gib(node.total_bytes),
        _gib(node.free_bytes),
        f"{_number(node.read_latency_ns)}/{_number(node.write_latency_ns)}",
        f"{_gb_per_s(node.read_bandwidth_mbps)}/{_gb_per_s(node.write_bandwidth_mbps)}",
    ]


def _distance_table(topology: Topology) -> Table:
    table = _table()
    table.add_column("distance", no_wrap=True)
    table.add_column("to " + " ".join(f"{node.id:>3}" for node in topology.nodes))
    for node in topology.nodes:
        cells = (_number(node.distances.get(other.id)) for other in topology.nodes)
        table.add_row(f"from {node.id}", "   " + " ".join(f"{cell:>3}" for cell in cells))
    return table


def _settings_table(topology: Topology) -> Table:
    table = _table()
    table.add_column("setting", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("meaning")
    table.add_row(
        "demotion_enabled", _on_off(topology.demotion_enabled), "reclaim moves pages to a slower tier"
    )
    table.add_row("numa_balancing", _number(topology.numa_balancing), _balancing(topology.numa_balancing))
    table.add_row("promote_rate_limit_MBps", _number(topology.promote_rate_limit_mbps), "limit of promotion")
    table.add_row(
        "zone_reclaim_mode", _number(topology.zone_reclaim_mode), "0: use other nodes before reclaim"
    )
    kernel = "; ".join(f"{name} = {format_cpulist(ids)}" for name, ids in topology.kernel_tiers.items())
    table.add_row("kernel's own tiers", "", kernel or _UNKNOWN)
    return table


def _balancing(mode: int | None) -> str:
    if mode is None:
        return "this kernel has no NUMA balancing"
    meanings = [meaning for bit, meaning in _BALANCING_BITS.items() if mode & bit]
    return ", ".join(meanings) or "off: no hint faults"


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else str(value)


def _on_off(value: bool | None) -> str:
    return _UNKNOWN if value is None else "on" if value else "off"


def _gib(size_bytes: int | None) -> str:
    return _UNKNOWN if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"


def _gb_per_s(mb_per_s: int | None) -> str:
    return _UNKNOWN if mb_per_s is None else f"{mb_per_s / 1000:.1f}"
