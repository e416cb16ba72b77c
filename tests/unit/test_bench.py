# SPDX-License-Identifier: Apache-2.0
"""scripts/bench's frame, with a benchmark that measures nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def bench(tmp_path: Path):
    shutil.copy(SCRIPTS / "bench.py", tmp_path)
    (tmp_path / "bench_nothing.py").write_text("def run(): return {'ratio': 25.123456, 'pairs': 10}")
    (tmp_path / "bench_broken.py").write_text(
        "from hotpage.errors import PrivilegeError\ndef run(): raise PrivilegeError('not root', 'sudo bench')"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent), "COLUMNS": "80"}
        command = [sys.executable, tmp_path / "bench.py", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


def test_json_has_the_numbers_and_the_machine(bench) -> None:
    results = json.loads(bench("nothing", "--json").stdout)
    assert results["ratio"] == 25.123456
    assert results["pairs"] == 10
    assert results["benchmark"] == "nothing"
    assert results["kernel"] == os.uname().release
    assert results["cores"] == os.cpu_count()
    assert {"cpu", "date", "hotpage"} <= results.keys()


def test_the_table_has_a_line_per_number(bench) -> None:
    lines = bench("nothing").stdout.splitlines()
    assert ["ratio", "25.12"] in [line.split() for line in lines]
    assert max(map(len, lines)) <= 80


def test_expected_failures_are_one_line(bench) -> None:
    done = bench("broken")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "hotpage: not root: sudo bench\n")


def test_an_unknown_benchmark_is_refused(bench) -> None:
    done = bench("bogus")
    assert done.returncode == 2
    assert "'bogus'" in done.stderr
