# SPDX-License-Identifier: Apache-2.0
"""The workload does what it says: threads, pages, who is hot, and it dies with its parent."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S

import hotpage
from hotpage.exerciser import Exerciser, ExerciserError, choose_hot_pages, zipf_shares

COMPILERS = [pytest.param("cc", marks=pytest.mark.needs("compiler"), id="c"), pytest.param(None, id="numpy")]


def wait_for(condition, timeout_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)


def status_field(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


def mapping_of(pid: int, address: int) -> dict[str, int]:
    """Return the sizes, in KiB, that smaps gives for the mapping that holds the address."""
    sizes: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if bounds := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = (int(bound, 16) for bound in bounds.groups())
            inside = start <= address < end
        elif inside and line.endswith(" kB"):
            name, size, _ = line.split()
            sizes[name.rstrip(":")] = int(size)
    return sizes


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("threads", [1, 3])
def test_it_has_the_threads_and_pages_it_was_given(compiler: str | None, threads: int) -> None:
    with Exerciser.start(mib=8, threads=threads, compiler=compiler) as exerciser:
        assert exerciser.compiled == (compiler is not None)
        wait_for(lambda: exerciser.accesses() > 0)
        wait_for(lambda: status_field(exerciser.pid, "Threads") == str(threads))
        assert exerciser.pages == 8 * 256
        area = mapping_of(exerciser.pid, exerciser.base)
        assert area["Rss"] >= 8 * 1024
        assert area.get("AnonHugePages", 0) == 0


def changed_pages(exerciser: Exerciser) -> np.ndarray:
    """The numbers of the pages that were written to after the first touch."""
    with Path(f"/proc/{exerciser.pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(exerciser.base)
        content = np.frombuffer(memory.read(exerciser.pages * 4096), np.uint8).reshape(-1, 64, 64)
    untouched = np.zeros((64, 64), np.uint8)
    untouched[0, 0] = 1
    return np.flatnonzero((content != untouched).any(axis=(1, 2)))


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("layout", ["block", "scattered"])
def test_only_the_hot_pages_change_when_all_accesses_are_theirs(compiler: str | None, layout: str) -> None:
    with Exerciser.start(
        mib=4, hot_share=1.0, threads=1, layout=layout, compiler=compiler, pattern="steady", interval_s=0.01
    ) as exerciser:
        # Enough accesses that no hot page was left out but with a chance below 1e-100.
        wait_for(lambda: exerciser.accesses() > 1_000_000)
        changed = changed_pages(exerciser)
    np.testing.assert_array_equal(changed + (exerciser.base >> 12), exerciser.hot_vpns)
    np.testing.assert_array_equal(changed, np.flatnonzero(exerciser.page_shares))


@pytest.mark.parametrize("compiler", COMPILERS)
def test_accesses_follow_the_shares_and_shift(compiler: str | None) -> None:
    shares = np.zeros(1024)
    shares[[3, 500, 1000]] = 1, 2, 1
    options = {"mib": 4, "threads": 1, "compiler": compiler, "work": 2}
    with Exerciser.start(page_shares=shares, shift_pages=100, **options) as exerciser:
        np.testing.assert_allclose(exerciser.page_shares[[3, 500, 1000]], [0.25, 0.5, 0.25], atol=1e-6)
        wait_for(lambda: exerciser.accesses() > 100_000)
        assert changed_pages(exerciser).tolist() == [3, 500, 1000]
        exerciser.shift()
        before = exerciser.accesses()
        wait_for(lambda: exerciser.accesses() > before + 100_000)
        assert changed_pages(exerciser).tolist() == [3, 76, 103, 500, 600, 1000]
        assert np.flatnonzero(exerciser.page_shares).tolist() == [76, 103, 600]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_sweep_strides(compiler: str | None) -> None:
    with Exerciser.start(mib=4, threads=1, pattern="sweep", stride=7, compiler=compiler) as exerciser:
        changed: set[int] = set()

        def all_were_seen() -> bool:
            # A byte that is just going from 255 to 0 makes its page look untouched, for one sweep in 256.
            changed.update(changed_pages(exerciser).tolist())
            return len(changed) >= 147

        wait_for(all_were_seen)
        wait_for(lambda: exerciser.accesses() > 10_000)
        changed.update(changed_pages(exerciser).tolist())
        assert sorted(changed) == list(range(0, 1024, 7))
        assert np.flatnonzero(exerciser.page_shares).tolist() == list(range(0, 1024, 7))


@pytest.mark.parametrize("compiler", COMPILERS)
def test_huge_pages_on_request(compiler: str | None) -> None:
    with Exerciser.start(mib=8, threads=1, huge=True, compiler=compiler) as exerciser:
        assert exerciser.base % (2 << 20) == 0
        if "[never]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
            assert mapping_of(exerciser.pid, exerciser.base)["AnonHugePages"] >= 4 * 1024


def test_zipf_shares_fall_as_the_law_says() -> None:
    shares = zipf_shares(1000, exponent=1.0)
    assert shares.sum() == pytest.approx(1)
    ranked = np.sort(shares)[::-1]
    np.testing.assert_allclose(ranked[0] / ranked[[1, 9, 999]], [2, 10, 1000])
    assert not np.array_equal(shares, ranked), "dealt out at random"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_notes_and_counter_agree(compiler: str | None) -> None:
    with Exerciser.start(mib=4, pattern="steady", interval_s=0.02, compiler=compiler) as exerciser:
        wait_for(lambda: len(exerciser.intervals()) >= 5)
        notes = exerciser.intervals()
        total = exerciser.accesses()
    assert (np.diff(notes[:, 0]) > 0).all()
    assert (notes[:, 1] > 0).all()
    assert notes[:, 1].sum() <= total


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_storm_faults_once_per_page(compiler: str | None) -> None:
    with Exerciser.start(mib=4, threads=1, pattern="storm", compiler=compiler) as exerciser:
        wait_for(lambda: exerciser.accesses() > 5_000)
        stat = Path(f"/proc/{exerciser.pid}/stat").read_text()
        told = exerciser.accesses()
        kernel_counted = int(stat.rsplit(")", 1)[1].split()[7])  # minflt
        assert exerciser.hot_vpns.size == 0
    # At most a batch apart, and start-up has faults too.
    assert 5_000 - 4096 <= kernel_counted <= told + 4096 + 5_000


def test_true_rates_add_up_to_the_throughput() -> None:
    with Exerciser.start(mib=4, hot_fraction=0.25, hot_share=0.8) as exerciser:
        hot_hz, cold_hz = exerciser.page_rates_hz(1e6)
        hot = exerciser.hot_vpns.size
        assert hot == 256
        assert hot_hz * hot == pytest.approx(0.8e6)
        assert cold_hz * (exerciser.pages - hot) == pytest.approx(0.2e6)


@pytest.mark.parametrize("layout", ["block", "scattered"])
def test_the_seed_chooses_the_hot_pages(layout) -> None:
    first, again, other = (choose_hot_pages(1000, 0.1, layout, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.unique(first).size == 100
    assert first.min() >= 0
    assert first.max() < 1000
    assert (np.ptp(first) == 99) == (layout == "block")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_it_dies_with_its_parent(compiler: str | None, tmp_path: Path) -> None:
    program = (
        "import time; from hotpage.exerciser import Exerciser\n"
        f"print(Exerciser.start(mib=1, compiler={compiler!r}).pid, flush=True); time.sleep(1000)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(hotpage.__file__).parents[1],
        env=os.environ | {"TMPDIR": str(tmp_path)},  # killed, it cannot clean up
    )
    with parent:
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or status_field(pid, "State") == "Z")


def test_it_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Exerciser.start(mib=1) as exerciser:
        assert list(tmp_path.iterdir())
    exerciser.stop()
    assert not list(tmp_path.iterdir())
    assert not Path(f"/proc/{exerciser.pid}").exists()


def test_a_compiler_that_fails_means_numpy() -> None:
    with Exerciser.start(mib=1, compiler="false") as exerciser:
        assert not exerciser.compiled


def test_what_cannot_start_says_why(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ExerciserError, match="did not start"):
        Exerciser.start(mib=1, threads=1000)
    assert not list(tmp_path.iterdir())


@pytest.mark.needs("compiler")
def test_both_versions_know_the_same_options(tmp_path: Path) -> None:
    home = Path(hotpage.__file__).parent / "exerciser"
    binary = tmp_path / "exerciser"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *warnings, "-pthread", "-o", binary, home / "exerciser.c"], check=True)
    helps = [
        subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
        for command in ([binary], [sys.executable, home / "exerciser.py"])
    ]
    in_c, in_python = (set(re.findall("--[a-z-]+", text)) for text in helps)
    assert in_c == in_python - {"--help"}


def test_it_is_not_fooled_by_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", str(os.cpu_count() or 2))
    with Exerciser.start(mib=1, threads=1, compiler=None) as exerciser:
        wait_for(lambda: exerciser.accesses() > 0)
        assert status_field(exerciser.pid, "Threads") == "1"
