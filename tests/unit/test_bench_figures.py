# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the benchmarks, and what the peer of the capture benchmark is given."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hotpage.capture.events import CONFIG_DTYPE, EVENT_DTYPE

SCRIPTS = Path(__file__).parents[2] / "scripts"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses look their module up
    try:
        spec.loader.exec_module(loaded)
    finally:
        del sys.modules[name]
    return loaded


@pytest.fixture(scope="module")
def overhead() -> ModuleType:
    return module("bench_overhead")


def pair(overhead: ModuleType, before: tuple, after: tuple):
    return overhead.Pair(overhead.Reading(*before), overhead.Reading(*after), {"hint": 0})


def test_a_window_is_the_growth_of_every_total(overhead: ModuleType) -> None:
    first, last = overhead.Reading(100.0, 1000, 5.0, 1.0, 70), overhead.Reading(102.0, 5000, 8.0, 2.0, 90)
    grown = last.since(first)
    assert grown == overhead.Reading(2.0, 4000, 3.0, 1.0, 20)
    assert (grown.accesses_per_s, grown.accesses_per_cpu_s) == (2000, 1000)


def test_slowdowns_compare_windows_of_different_length(overhead: ModuleType) -> None:
    # Alone 1000 accesses/s with 2 CPUs; recorded 900/s, for which it got only half as much CPU time.
    recorded = pair(overhead, (1.0, 1000, 2.0, 0.0, 0), (10.0, 9000, 9.0, 1.0, 0))
    assert recorded.slowdown_percent == pytest.approx(10)
    assert recorded.slowdown_per_cpu_percent == pytest.approx(100 * (500 / 900 - 1))


def test_system_time_of_windows_is_weighted_by_cpu_time(overhead: ModuleType) -> None:
    windows = [overhead.Reading(1.0, 1, 0.9, 0.1, 0), overhead.Reading(3.0, 1, 3.0, 0.0, 0)]
    assert overhead.system_percent(windows) == pytest.approx(2.5)


def test_the_peer_gets_the_same_layout_and_a_target() -> None:
    request = module("bench_capture").peer_request(4242)
    fields = EVENT_DTYPE.fields
    assert fields is not None
    assert (request["tgid_offset"], request["source_offset"]) == (fields["tgid"][1], fields["source"][1])
    on, off = (bytes.fromhex(request[which]) for which in ("on", "off"))
    assert len(on) == len(off) == CONFIG_DTYPE.itemsize
    assert on != off
    assert set(request["attach"]) == {"page_fault_user", "page_fault_kernel"}
    assert "page_fault_user" in request["source"]


def test_each_way_to_place_pages_is_held_against_the_oracle() -> None:
    one = {"fast_share": 0.3, "oracle_share": 0.6, "moved_mib": 5.0}
    measured = {"kernel_release": "7.3.4", "kernel": one, "auto": one | {"fast_share": 0.57, "back_s": 3.0}}
    assert module("bench_auto").figures_of(measured) == {
        "kernel_to_oracle": pytest.approx(0.5),
        "kernel_moved_mib": 5.0,
        "auto_to_oracle": pytest.approx(0.95),
        "auto_moved_mib": 5.0,
        "auto_back_s": 3.0,
    }


@pytest.mark.parametrize(
    ("program", "kinds"), [("/usr/bin/redis-benchmark", ["redis", "zipf"]), (None, ["zipf"])]
)
def test_redis_is_left_out_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, program: str | None, kinds: list[str]
) -> None:
    bench, run = module("bench_auto"), []
    monkeypatch.setattr(bench, "KINDS", ["redis", "zipf"])
    monkeypatch.setattr(bench, "RUNS", 2)
    monkeypatch.setattr(bench.shutil, "which", lambda name: program)
    monkeypatch.setattr(bench, "one_run", lambda kernel, kind, seed: run.append(kind) or {})
    assert bench.guest_figures("7.3") == {}
    assert run == 2 * kinds
