# SPDX-License-Identifier: Apache-2.0
"""Memory that comes and goes while hotpage listens: plugged in for real, nodes taken off-line and back."""

import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guestlab.topology import Topology as Machine
from monitor import Monitor

from hotpage.machine.hotplug import MemoryChange, MemoryHotplug
from hotpage.machine.topology import Topology

pytestmark = pytest.mark.guest(topology="cxl")

BLOCKS = Path("/sys/devices/system/memory")
PLUGGED_MIB = 256
DEADLINE_S = 60.0
MIB = 2**20


@pytest.fixture
def listener() -> Iterator[MemoryHotplug]:
    listener = MemoryHotplug()
    yield listener
    listener.close()


@pytest.fixture
def comes_online_movable() -> Iterator[None]:
    """Memory that is plugged in comes online, and holds nothing that could not leave it."""
    policy = BLOCKS / "auto_online_blocks"
    before = policy.read_text()
    policy.write_text("online_movable")
    yield
    policy.write_text(before)


def heard(listener: MemoryHotplug, enough: Callable[[list[MemoryChange]], bool]) -> list[MemoryChange]:
    """All that the listener hears until it is enough."""
    changes: list[MemoryChange] = []
    deadline = time.monotonic() + DEADLINE_S
    while not enough(changes):
        left = deadline - time.monotonic()
        assert left > 0, f"heard no more than {changes}"
        if select.select([listener], [], [], left)[0]:
            changes += listener.drain()
    return changes


def online(changes: list[MemoryChange], kind: str) -> set[str]:
    return {
        change.device for change in changes if change.action == "online" and change.device.startswith(kind)
    }


def offline(changes: list[MemoryChange], kind: str) -> set[str]:
    return {
        change.device for change in changes if change.action == "offline" and change.device.startswith(kind)
    }


def node_bytes(node: int) -> int:
    return {entry.id: entry.total_bytes or 0 for entry in Topology.read().nodes}.get(node, 0)


def tier_ids() -> list[list[int]]:
    return [[node.id for node in tier] for tier in Topology.read().tiers]


def test_memory_that_comes_and_goes_is_heard_and_counted(
    listener: MemoryHotplug, comes_online_movable: None, topology: Machine
) -> None:
    """A module in an empty node; the node's blocks off-line and back; the module gone."""
    blocks = PLUGGED_MIB * MIB // int((BLOCKS / "block_size_bytes").read_text(), 16)
    node = topology.plug_node
    without, together = [[0], [1]], [[0], [1, node]]
    assert tier_ids() == without

    with Monitor() as monitor:
        module = monitor.plug(PLUGGED_MIB, node)
    found = heard(listener, lambda changes: len(online(changes, "memory")) == blocks)
    assert [change for change in found if change.action != "online"] == []
    assert node_bytes(node) == PLUGGED_MIB * MIB
    assert tier_ids() == together
    names = online(found, "memory")

    for name in names:
        (BLOCKS / name / "state").write_text("offline")
    found = heard(listener, lambda changes: len(offline(changes, "memory")) == blocks)
    assert offline(found, "memory") == names
    assert node_bytes(node) == 0
    assert tier_ids() == without

    for name in names:
        (BLOCKS / name / "state").write_text("online_movable")
    found = heard(listener, lambda changes: len(online(changes, "memory")) == blocks)
    assert online(found, "memory") == names
    assert node_bytes(node) == PLUGGED_MIB * MIB
    assert tier_ids() == together

    with Monitor() as monitor:
        monitor.unplug(module)
    found = heard(listener, lambda changes: f"node{node}" in offline(changes, "node"))
    assert offline(found, "memory") == names
    assert node_bytes(node) == 0
    assert tier_ids() == without
