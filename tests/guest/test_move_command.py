# SPDX-License-Identifier: Apache-2.0
"""``hotpage move`` by a profile between real nodes; the profile is made by hand, so its truth is known."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from movetarget import PAGE, PAGES
from moving import FAST, SLOW, Target
from profiles import changes, interval, run_info, vma

from hotpage.machine.proc import PROC
from hotpage.machine.processes import ProcessTable
from hotpage.profile.snapshot import ProcessRecord, RunEnd
from hotpage.profile.store import ProfileWriter

pytestmark = pytest.mark.guest(topology="small-dram", limit_s=600.0)

HOT = 300
"""The first pages of the target are hot, the others cold."""


@pytest.fixture
def target() -> Iterator[Target]:
    one = Target(SLOW)
    yield one
    one.end()


@pytest.fixture
def profile(target: Target, tmp_path: Path) -> Path:
    """Every page of the target has a rate: 1000 to 1299 accesses/s, or 0.01."""
    process = ProcessTable().add(target.pid)
    assert process is not None
    first = int(target.vpn[0])
    rates = ((0, first + page, 1000.0 + page if page < HOT else 0.01) for page in range(PAGES))
    boot_id = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    writer = ProfileWriter(tmp_path / "profile", run_info(boot_id=boot_id))
    mapping = vma(first, first + PAGES, {SLOW: PAGES * PAGE}, "")
    writer.interval(
        interval(1, changes(*rates), processes=[ProcessRecord(process, 0.0)], vmas={0: [mapping]})
    )
    writer.close(RunEnd(1.0, "complete"))
    return tmp_path / "profile"


def move(profile: Path, *options: object) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, "-m", "hotpage", "move", "-i", str(profile), "--json", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_hot_pages_go_up_and_cold_ones_down(target: Target, profile: Path) -> None:
    status, document, _ = move(profile, "--promote", "--dry-run")
    assert status == 0 and document["result"]["bytes"] == {"planned": HOT * PAGE}
    assert target.pages_on(FAST) == 0, "a dry run moves nothing"

    status, document, said = move(profile, "--promote")
    assert (status, said) == (0, "")
    assert document["policy"] == "fit"
    assert document["result"]["bytes"] == {"moved": HOT * PAGE}
    assert [(one["source"], one["target"]) for one in document["moves"]] == [(SLOW, FAST)]
    assert target.pages_on(FAST) == HOT

    status, document, said = move(profile, "--promote")
    assert status == 1 and said.startswith("hotpage: nothing to move: ")
    assert document["kept_bytes"]["hot_in_place"] == HOT * PAGE

    status, document, _ = move(profile, "--to", FAST, "--hot", f"{2 * HOT * PAGE}")
    assert status == 0 and document["result"]["moved_bytes"] >= HOT * PAGE, "ties are all as hot"

    target.await_age(31.0)
    status, document, _ = move(profile, "--demote", "--hot", "500/s")
    assert status == 0
    assert target.pages_on(FAST) == HOT, "all that is colder has gone"
    assert target.tell("read") == "0"


def test_random_moves_what_it_may(target: Target, profile: Path) -> None:
    status, document, _ = move(profile, "--promote", "--policy", "random", "--limit", f"{100 * PAGE}")
    assert status == 0 and document["result"]["bytes"] == {"moved": 100 * PAGE}
    assert target.pages_on(FAST) == 100


def test_a_target_that_has_gone_is_named(target: Target, profile: Path) -> None:
    target.end()
    status, document, said = move(profile, "--promote")
    assert status == 1 and document["moves"] == []
    assert said.startswith(f"hotpage: process {target.pid} (")
    assert "has gone, or is another program now" in said


def test_nothing_is_under_pressure(profile: Path) -> None:
    command = [sys.executable, "-m", "hotpage", "move", "-i", str(profile), "--pressure"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr == "hotpage: no node is near its low watermark: see /proc/zoneinfo\n"
