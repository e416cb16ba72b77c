# SPDX-License-Identifier: Apache-2.0
"""Machines as data: topologies/NAME.toml says what nodes there are, and what tiers hotpage must derive."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from guestlab.errors import LabError

DIRECTORY: Final = Path(__file__).parent / "topologies"

Tiers = tuple[tuple[int, ...], ...]
"""Node ids by tier, the fastest first."""


@dataclass(frozen=True, slots=True)
class Node:
    """``cpus``: how many; 0 is memory without CPUs. Speeds are what the firmware's HMAT says of it, from the
    nearest CPUs; None: no HMAT.
    """

    memory_mib: int
    cpus: int
    latency_ns: int | None
    bandwidth_mbps: int | None
    nearest: int


@dataclass(frozen=True, slots=True)
class Topology:
    """One emulated machine. ``distances[i][j]``: the firmware's (SLIT) from node i to node j."""

    name: str
    summary: str
    nodes: tuple[Node, ...]
    distances: tuple[tuple[int, ...], ...]
    tiers: Tiers
    """What hotpage must derive."""
    kernel_tiers: dict[str, Tiers]
    """What the kernel itself makes of it, where it differs: by kernel name."""
    plug_mib: int
    """How much memory can be plugged in while it runs. If any, there is a further node for it, absent until
    then; it is as fast and as far as the last of ``nodes``, and 20 from that.
    """

    @classmethod
    def load(cls, name: str) -> Self:
        """The topology of that name. Raises LabError if there is none."""
        try:
            text = (DIRECTORY / f"{name}.toml").read_text()
        except OSError:
            raise LabError(f"there is no topology {name!r}; there are: {', '.join(names())}") from None
        return cls.parse(name, tomllib.loads(text))

    @classmethod
    def parse(cls, name: str, document: dict[str, Any]) -> Self:
        """From the TOML document; raises LabError on what does not describe a machine."""
        nodes = tuple(_node(entry) for entry in document["nodes"])
        distances = tuple(map(tuple, document.get("distances", [[10]])))
        if [len(row) for row in distances] != [len(nodes)] * len(nodes):
            raise LabError(f"topology {name}: distances must be a row and a column for each node")
        if not any(node.cpus for node in nodes):
            raise LabError(f"topology {name}: no node has CPUs")
        return cls(
            name=name,
            summary=document["summary"],
            nodes=nodes,
            distances=distances,
            tiers=_tiers(document["tiers"]),
            kernel_tiers={
                kernel: _tiers(found) for kernel, found in document.get("kernel_tiers", {}).items()
            },
            plug_mib=document.get("plug_mib", 0),
        )

    def kernel_tiers_on(self, kernel: str) -> Tiers:
        """What that kernel's memory_tiering makes of it."""
        return self.kernel_tiers.get(kernel, self.tiers)

    @property
    def plug_node(self) -> int:
        """Id of the node for memory that is plugged in."""
        return len(self.nodes)

    @property
    def memory_mib(self) -> int:
        """All memory the guest boots with."""
        return sum(node.memory_mib for node in self.nodes)

    @property
    def cpus(self) -> int:
        """All CPUs."""
        return sum(node.cpus for node in self.nodes)


def names() -> tuple[str, ...]:
    """The topologies there are."""
    return tuple(sorted(file.stem for file in DIRECTORY.glob("*.toml")))


def _node(entry: dict[str, Any]) -> Node:
    known = Node.__slots__
    unknown = entry.keys() - set(known)
    if unknown:
        raise LabError(f"a node has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    return Node(
        memory_mib=entry["memory_mib"],
        cpus=entry.get("cpus", 0),
        latency_ns=entry.get("latency_ns"),
        bandwidth_mbps=entry.get("bandwidth_mbps"),
        nearest=entry.get("nearest", 0),
    )


def _tiers(found: list[list[int]]) -> Tiers:
    return tuple(tuple(tier) for tier in found)
