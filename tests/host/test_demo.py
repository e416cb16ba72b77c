# SPDX-License-Identifier: Apache-2.0
"""The whole road, from the kernel's events to a verdict: the demo finds the hot set that it has."""

import json
import subprocess

import pytest
from recordings import HOTPAGE
from wrongusage import check_wrong_usage

pytestmark = [pytest.mark.needs("bcc")]


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HOTPAGE, "demo", *options], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("threads", "layout"), [(2, "block"), (1, "scattered")])
def test_the_hot_set_is_found(threads: int, layout: str) -> None:
    # 20 s are what the demo takes by default, on a machine with nothing else to do; CI's may be busy.
    done = demo("--json", "--threads", str(threads), "--layout", layout, "-d", "30")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["precision"] >= 0.9
    assert verdict["recall"] >= 0.9
    assert verdict["hot_bytes"] == pytest.approx(20 << 20, rel=0.12)
    assert verdict["events"] > 51_200  # more than one access to every page
    assert verdict["lost"] == 0
    assert verdict["source"] == "hint"
    assert verdict["rung"] in ("fentry", "kprobe", "tracepoint", "software event")
    assert 29 < verdict["seconds"] < 60
    assert verdict["hot_rate_hz"] > 2 * verdict["cold_rate_hz"]


def test_the_truth_is_printed_beside_the_report() -> None:
    done = demo("-d", "6", "--size", "20")
    assert done.returncode == 0, done.stderr
    assert "exerciser" in done.stdout
    assert "The truth beside it:" in done.stdout
    assert "(recall)" in done.stdout


def test_impossible_options_are_one_line() -> None:
    wrong = [("--threads", "0"), ("-d", "0"), ("--size", "0"), ("--budget", "101")]
    check_wrong_usage(["demo"], [(options, "the demo cannot run like that", 2) for options in wrong])
