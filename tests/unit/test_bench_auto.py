# SPDX-License-Identifier: Apache-2.0
"""scripts/guest_auto.py: what a workload's oracle has, and what hotpage is told of it."""

import tomllib
from types import SimpleNamespace

import guest_auto
import numpy as np
import pytest
from guest_auto import MIB, PAGE, Part, Workload


def part(shares: list[float], fast: list[bool], **more) -> Part:
    program = SimpleNamespace(pid=7, page_shares=np.array(shares), accesses=lambda: 100)
    made = Part(program, np.arange(len(shares)), **more)
    made.is_fast = lambda: np.array(fast)
    return made


def workload(*parts: Part) -> Workload:
    made = Workload.__new__(Workload)
    made.control, made.parts = None, list(parts)
    return made


def test_two_parts_have_half_of_the_accesses_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_auto, "CAPACITY", 3)
    two = workload(
        part([0.5, 0.3, 0.2], [False, True, False], ceiling=3),
        part([0.6, 0.4, 0.0], [True, False, True], ceiling=1),
    )
    assert two.fast_share() == pytest.approx((0.3 + 0.6) / 2)
    assert two.oracle_share == pytest.approx((0.5 + 0.3 + 0.6) / 2)  # the second's 0.4 is above its ceiling
    assert two.to_best_of_as_many() == pytest.approx((0.3 + 0.6) / (0.5 + 0.6 + 0.4))
    assert two.accesses() == 200


def test_processes_are_named_by_their_pids() -> None:
    assert tomllib.loads(workload(part([1.0], [True])).targets()) == {"targets": {"pids": [7]}}


def test_what_a_cgroup_had_before_does_not_use_its_ceiling_up(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"/bench-a": None, "/bench-b": {guest_auto.FAST: 2 * MIB, guest_auto.SLOW: 9 * MIB}}
    monkeypatch.setattr(guest_auto, "memory_by_node", there.get)
    halves = [part([1.0], [True], cgroup=name, ceiling=256) for name in there]
    told = tomllib.loads(workload(*halves).targets())["targets"]["cgroups"]
    assert told == [
        {"path": "/bench-a", "ceiling": 256 * PAGE},
        {"path": "/bench-b", "ceiling": 256 * PAGE + 2 * MIB},
    ]
