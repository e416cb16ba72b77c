# SPDX-License-Identifier: Apache-2.0
"""``hotpage move`` by a profile between real nodes; the profile is made by hand, so its truth is known."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from movetarget import PAGE, PAGES
from moving import FAST, SLOW, Target, move, run_move, write_profile

from hotpage.placement.plan import WORDS, Fate
from hotpage.views.units import size

pytestmark = pytest.mark.guest(topology="small-dram", kernels=("6.1", "7.3"), limit_s=600.0)
# Where kernels differ is what becomes of a page (test_move_pages.py), not what the command makes of it.
ON_ONE_KERNEL = pytest.mark.guest(topology="small-dram", kernels=("7.3",), limit_s=600.0)

HOT = 300
"""The first pages of the target are hot, the others cold."""


@pytest.fixture
def target(elders: list[subprocess.Popen[str]]) -> Iterator[Target]:
    """The first ones, which demote, are old as long as there are elders."""
    one = Target(SLOW, shell=elders.pop() if elders else None)
    yield one
    one.end()


@pytest.fixture
def profile(target: Target, tmp_path: Path) -> Path:
    """Every page of the target has a rate: 1000 to 1299 accesses/s, or 0.01."""
    return write_profile(target, tmp_path / "profile", lambda page: 1000.0 + page if page < HOT else 0.01)


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


@ON_ONE_KERNEL
def test_a_whole_profile_goes_up_and_down_again(target: Target, profile: Path) -> None:
    """Every page that the profile knows is in the plan or has a reason to stay."""
    status, document, _ = move(profile, "--promote", "--hot", "0.001/s")
    assert status == 0 and document["result"]["bytes"] == {"moved": PAGES * PAGE}
    assert document["kept_bytes"] == {} and target.pages_on(FAST) == PAGES

    status, document, _ = move(profile, "--promote")
    assert status == 1 and sum(document["kept_bytes"].values()) == PAGES * PAGE

    target.await_age(31.0)
    status, document, _ = move(profile, "--demote", "--hot", "5000/s")
    assert status == 0 and document["result"]["bytes"] == {"moved": PAGES * PAGE}
    assert target.pages_on(SLOW) == PAGES
    assert target.tell("read") == "0"


@ON_ONE_KERNEL
def test_pages_that_cannot_move_are_in_the_result(target: Target, tmp_path: Path) -> None:
    """The three hottest are pinned: alone they are a failure, among others a line of the table."""
    profile = write_profile(
        target, tmp_path / "profile", lambda page: 9000.0 if page < 3 else 1000.0 if page < HOT else 0.01
    )
    target.tell("pin", 0, 3)
    status, document, said = move(profile, "--promote", "--limit", "12K")
    assert status == 1 and said == "hotpage: nothing was moved: pinned\n"
    assert document["result"]["bytes"] == {"pinned": 3 * PAGE}
    assert sum(document["kept_bytes"].values()) == (PAGES - 3) * PAGE

    done = run_move(profile, "--promote")
    assert done.returncode == 0, done.stderr
    plan, result = (part.splitlines() for part in done.stdout.split("\n\n"))
    assert f"policy fit: {size(HOT * PAGE)} to move" in plan[-2]
    assert plan[-1] == f"{size((PAGES - HOT) * PAGE):>7} stays: {WORDS[Fate.NOT_WORTH_IT]}"
    assert result[:2] == [f"{size((HOT - 3) * PAGE):>7} moved", f"{size(3 * PAGE):>7} pinned"]
    assert result[2].startswith(f"{size(HOT * PAGE):>7} asked for, in ") and len(result) == 3
    assert target.pages_on(FAST) == HOT - 3


@ON_ONE_KERNEL
def test_random_moves_what_it_may(target: Target, profile: Path) -> None:
    status, document, _ = move(profile, "--promote", "--policy", "random", "--limit", f"{100 * PAGE}")
    assert status == 0 and document["result"]["bytes"] == {"moved": 100 * PAGE}
    assert target.pages_on(FAST) == 100


@ON_ONE_KERNEL
def test_a_target_that_has_gone_is_named(target: Target, profile: Path) -> None:
    target.end()
    status, document, said = move(profile, "--promote")
    assert status == 1 and document["moves"] == []
    assert said.startswith(f"hotpage: process {target.pid} (")
    assert "has gone, or is another program now" in said


@ON_ONE_KERNEL
def test_nothing_is_under_pressure(profile: Path) -> None:
    done = run_move(profile, "--pressure")
    assert done.returncode == 1
    assert done.stderr == "hotpage: no node is near its low watermark: see /proc/zoneinfo\n"
