# SPDX-License-Identifier: Apache-2.0
"""Tests that run inside the lab's guests, and are reported here like any other.

    @pytest.mark.guest(topology="cxl")                       # on every supported kernel
    @pytest.mark.guest(topology=("flat", "cxl"), kernels=("7.3",), limit_s=120)
    def test_x(): ...                                        # an ordinary test; root; this checkout

With systemd=True the guest's init is the host's systemd.

On the host each test is there once for each kernel and topology. One guest is booted for each such pair; a
pytest inside it runs that pair's tests and writes its reports to the host as they come (guestrun.py). Inside
a guest, also one opened by hand with scripts/lab, the tests simply run.

The fixture ``machine`` says what guest it is, and ``monitor`` plugs memory into it.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from guestlab.kernels import SUPPORTED_KERNELS
from guestlab.topology import Topology
from shells import waiting_shell

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Machine:
    """A guest: ``kernel`` is a name of the supported ones, or the release of another."""

    kernel: str
    topology: str
    systemd: bool = False

    def __str__(self) -> str:
        return f"{self.kernel}-{self.topology}{'-systemd' if self.systemd else ''}"


THIS_GUEST = (
    Machine(
        os.environ["HOTPAGE_LAB_KERNEL"],
        os.environ["HOTPAGE_LAB_TOPOLOGY"],
        "HOTPAGE_LAB_SYSTEMD" in os.environ,
    )
    if "HOTPAGE_LAB_KERNEL" in os.environ
    else None
)
_ELDERS = 3
_REPORTS = os.environ.get("HOTPAGE_LAB_REPORTS")


def pytest_configure(config: pytest.Config) -> None:
    if THIS_GUEST is None:
        # Here: what it imports is of no use in a guest.
        from guestrun import GuestRunner

        config.pluginmanager.register(GuestRunner(config))
    elif _REPORTS:
        config.pluginmanager.register(_ReportWriter(config, Path(_REPORTS)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not Path(metafunc.definition.path).is_relative_to(_HERE):
        return
    mark = metafunc.definition.get_closest_marker("guest")
    if mark is None:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: a test here is marked @pytest.mark.guest(topology=...)"
        )
    machines = _machines(**mark.kwargs)
    if THIS_GUEST is not None:
        machines = [machine for machine in machines if machine == THIS_GUEST]
    metafunc.fixturenames.append("machine")
    metafunc.parametrize("machine", machines, indirect=True, ids=str, scope="session")


def _machines(
    topology: str | tuple[str, ...],
    kernels: tuple[str, ...] = tuple(kernel.name for kernel in SUPPORTED_KERNELS),
    limit_s: float | None = None,
    systemd: bool = False,
) -> list[Machine]:
    names = (topology,) if isinstance(topology, str) else topology
    return [Machine(kernel, name, systemd) for kernel in kernels for name in names]


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Machine:
    """What guest this is."""
    return request.param


@pytest.fixture(scope="session")
def topology(machine: Machine) -> Topology:
    """The guest's nodes, and the tiers to be derived from them."""
    return Topology.load(machine.topology)


@pytest.fixture(scope="session", autouse=True)
def elders() -> Iterator[list[subprocess.Popen[str]]]:
    """Waiting shells, as old as the session: placement does not demote pages of young processes."""
    shells = [waiting_shell() for _ in range(_ELDERS)]
    yield list(shells)
    for shell in shells:
        shell.kill()
        shell.communicate()


class _ReportWriter:
    """Writes each report to the host, one JSON line each, as soon as it is there."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config = config
        self._file = path.open("a")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write({"started": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def _write(self, document: dict[str, object]) -> None:
        self._file.write(json.dumps(document) + "\n")
        self._file.flush()
