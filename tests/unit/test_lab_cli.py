# SPDX-License-Identifier: Apache-2.0
"""The command line of scripts/lab, without a guest (with guests: tests/host/test_lab.py)."""

import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from guestlab import cli, kernels, topology
from guestlab.errors import GuestError

EVERYWHERE = list(product((kernel.name for kernel in kernels.SUPPORTED_KERNELS), topology.names()))


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Kernel and topology of each guest that would have been booted; ``end`` says how their commands end."""
    seen: list[tuple[str, str]] = []

    class FakeGuest:
        end: Callable[[str, str], int] = staticmethod(lambda kernel, name: 0)

        def __init__(
            self, image: Path, machine: topology.Topology, command: Any, *, kernel: str, **_: Any
        ) -> None:
            assert command == ("true",)
            self.booted = kernel, machine.name
            seen.append(self.booted)

        def wait(self, limit_s: float) -> int:
            return FakeGuest.end(*self.booted)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(cli, "Guest", FakeGuest)
    monkeypatch.setattr(kernels, "cached", lambda kernel: SimpleNamespace(image=Path("/image")))
    return seen


def test_the_matrix_is_every_kernel_with_every_topology(booted: list[tuple[str, str]]) -> None:
    assert cli.main(["matrix", "--", "true"]) == 0
    assert booted == EVERYWHERE


def test_the_matrix_goes_on_after_a_failure_and_tells(
    booted: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(kernel: str, name: str) -> int:
        if (kernel, name) == EVERYWHERE[0]:
            raise GuestError("the guest died", "its console")
        return int((kernel, name) == EVERYWHERE[1])

    monkeypatch.setattr(cli.Guest, "end", staticmethod(end), raising=False)
    assert cli.main(["matrix", "--", "true"]) == 1
    assert booted == EVERYWHERE
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if ", 0 s" in line]
    assert [line.split(",")[0] for line in lines[:3]] == [
        "--- the guest died",
        "--- status 1",
        "--- status 0",
    ]
    assert "its console" in said.err
