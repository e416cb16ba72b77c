# SPDX-License-Identifier: Apache-2.0
"""The machine's memory nodes during a session: which there are, and how much of them is free."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from hotpage.errors import UnsupportedError
from hotpage.machine.hotplug import MemoryHotplug
from hotpage.machine.topology import Topology
from hotpage.profile.snapshot import NodeRecord


class NodeWatch:
    """Context manager. ``topology`` is the state of the last reading."""

    def __init__(self) -> None:
        self.topology = Topology.read()
        try:
            self._hotplug: MemoryHotplug | None = MemoryHotplug()
        except UnsupportedError:  # then those that come and go show at the end only
            self._hotplug = None

    def read(self, last: bool = False) -> list[NodeRecord]:
        """All nodes, with the memory that is free now; read anew as a whole when memory has come or gone, and
        at the ``last`` call.
        """
        changed = self._hotplug is not None and bool(self._hotplug.drain())
        self.topology = Topology.read() if changed or last else self.topology.with_free_now()
        return node_records(self.topology)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hotplug is not None:
            self._hotplug.close()


def node_records(topology: Topology) -> list[NodeRecord]:
    """The machine's nodes as a profile keeps them."""
    return [
        NodeRecord(
            node=node.id,
            tier=node.tier or 0,
            cpus=len(node.cpus),
            total_bytes=node.total_bytes or 0,
            free_bytes=node.free_bytes or 0,
            read_latency_ns=node.read_latency_ns,
            write_latency_ns=node.write_latency_ns,
            read_bandwidth_mbps=node.read_bandwidth_mbps,
            write_bandwidth_mbps=node.write_bandwidth_mbps,
        )
        for node in topology.nodes
    ]
