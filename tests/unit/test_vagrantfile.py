# SPDX-License-Identifier: Apache-2.0
"""The Vagrantfile: valid to Vagrant, and the machine that the lab calls cxl."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from guestlab.guest import numa_options
from guestlab.topology import Topology

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Vagrantfile").read_text()


@pytest.mark.needs("vagrant")
def test_vagrant_finds_it_valid(tmp_path: Path) -> None:
    environment = {
        "VAGRANT_HOME": str(tmp_path),
        "VAGRANT_CWD": str(ROOT),
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
    }
    environment |= {"VAGRANT_DOTFILE_PATH": str(tmp_path / "state"), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    done = subprocess.run(
        ["vagrant", "validate"], env=os.environ | environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated successfully" in done.stdout


def test_its_nodes_are_those_of_the_topology() -> None:
    words = re.search(r"%w\[(.*?)\]", TEXT, re.DOTALL).group(1).split()
    expected = numa_options(replace(Topology.load("cxl"), plug_mib=0))
    without_backends = [
        re.sub(r"memdev=lab\.memory\d+", "mem=2048M", word)
        for option, word in zip(expected[::2], expected[1::2], strict=True)
        if option != "-object"
        for word in (option, word)
    ]
    assert words == without_backends


def test_its_memory_and_cpus_are_those_of_the_topology() -> None:
    topology = Topology.load("cxl")
    assert f"machine.memory = {topology.memory_mib}\n" in TEXT
    assert f"machine.cpus = {topology.cpus}\n" in TEXT


def test_its_provisioning_script_is_there() -> None:
    script = re.search(r"sh /vagrant/(\S+)", TEXT).group(1)
    assert os.access(ROOT / script, os.X_OK)
