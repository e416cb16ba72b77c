# SPDX-License-Identifier: Apache-2.0
"""Memory that comes and goes while hotpage listens: plugged in for real, nodes taken off-line and back."""

import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from monitor import Monitor

from hotpage.machine.hotplug import MemoryChange, MemoryHotplug
from hotpage.machine.topology import Topology

pytestmark = pytest.mark.guest(topology="cxl")

BLOCKS = Path("/sys/devices/system/memory")
SLOW_NODE = 1
PLUGGED_MIB = 256
DEADLINE_S = 60.0
MIB = 2**20


@pytest.fixture
def listener() -> Iterator[MemoryHotplug]:
    listener = MemoryHotplug()
    yield listener
    listener.close()


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.1)


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


def node_bytes(node: int) -> int:
    found = {entry.id: entry.total_bytes or 0 for entry in Topology.read().nodes}
    return found.get(node, 0)


def tier_ids() -> list[list[int]]:
    return [[node.id for node in tier] for tier in Topology.read().tiers]


def blocks_of(node: int) -> list[Path]:
    return sorted(Path(f"/sys/devices/system/node/node{node}").glob("memory[0-9]*"))


def test_memory_that_is_plugged_in_is_heard_and_counted(listener: MemoryHotplug) -> None:
    before = node_bytes(SLOW_NODE)
    block_bytes = int((BLOCKS / "block_size_bytes").read_text(), 16)
    blocks = PLUGGED_MIB * MIB // block_bytes
    with Monitor() as monitor:
        module = monitor.plug(PLUGGED_MIB, SLOW_NODE)
    found = heard(listener, lambda changes: sum(c.action == "online" for c in changes) >= blocks)
    assert {change.action for change in found} == {"online"}
    assert len({change.device for change in found}) == blocks
    assert node_bytes(SLOW_NODE) - before == PLUGGED_MIB * MIB
    assert tier_ids() == [[0], [SLOW_NODE]]

    with Monitor() as monitor:
        monitor.unplug(module)
    gone = heard(listener, lambda changes: sum(c.action == "offline" for c in changes) >= blocks)
    assert {change.device for change in gone} == {change.device for change in found}
    until(lambda: node_bytes(SLOW_NODE) == before)


def test_a_node_without_memory_has_no_tier_until_it_is_back(listener: MemoryHotplug) -> None:
    """Off-lining takes what can be moved; the slow node of this machine holds nothing that cannot."""
    before = node_bytes(SLOW_NODE)
    blocks = blocks_of(SLOW_NODE)
    taken = []
    try:
        for block in blocks:
            (block / "state").write_text("offline")
            taken.append(block)
        found = heard(listener, lambda changes: sum(c.action == "offline" for c in changes) >= len(blocks))
        assert {change.device for change in found if change.device.startswith("memory")} == {
            block.name for block in blocks
        }
        assert node_bytes(SLOW_NODE) == 0
        assert tier_ids() == [[0]]
    finally:
        for block in taken:
            (block / "state").write_text("online")
    assert node_bytes(SLOW_NODE) == before
    assert tier_ids() == [[0], [SLOW_NODE]]
    back = heard(listener, lambda changes: sum(c.action == "online" for c in changes) >= len(blocks))
    assert {change.device for change in back if change.device.startswith("memory")} == {
        block.name for block in blocks
    }
