"""The report for people, against tests/golden; HOTPAGE_UPDATE_GOLDEN=1 rewrites those."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from frozen import frozen_snapshot
from profiles import changes, interval, process, run_info, vma

from hotpage.errors import UsageError
from hotpage.profile.inmemory import InMemoryProfile
from hotpage.profile.snapshot import SourceCounts
from hotpage.profile.summary import summarise
from hotpage.views.report import Report
from hotpage.views.rows import KEYS

GOLDEN = Path(__file__).parents[1] / "golden"


def text(snapshot=None, **options) -> str:
    summary = summarise(snapshot if snapshot is not None else frozen_snapshot())
    return "".join(f"{line.plain}\n" for line in Report(summary, **options).lines())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("report-80", {"width": 80}),
        ("report-120", {"width": 120}),
        ("report-80-ascii", {"width": 80, "unicode": False}),
        ("report-80-two-nodes", {"width": 80, "snapshot": {"nodes": 2}}),
        ("report-120-two-nodes", {"width": 120, "snapshot": {"nodes": 2}}),
        (
            "report-80-no-rates",
            {
                "width": 80,
                "snapshot": {"rates": False, "armed": False, "advice": ("record again with --arm",)},
            },
        ),
        ("report-80-pages", {"width": 80, "by": "page", "count": 3}),
        ("report-80-ranges-by-address", {"width": 80, "by": "range", "key": "address", "count": 4}),
        ("report-80-nodes", {"width": 80, "by": "node", "snapshot": {"nodes": 2}}),
    ],
)
def test_golden(name, options):
    options = dict(options)
    shown = text(frozen_snapshot(**options.pop("snapshot", {})), **options)
    golden = GOLDEN / f"{name}.txt"
    if "HOTPAGE_UPDATE_GOLDEN" in os.environ:
        golden.write_text(shown)
    assert shown == golden.read_text()


def test_samples_say_what_they_stand_for_and_what_was_dropped():
    snapshot = frozen_snapshot()
    counts = SourceCounts(
        "sample",
        2000,
        10,
        stands_for=2_006_000,
        without_address=77,
        cache_hits=5,
        unwatched_s=0.5,
        missed_runs=1234,
    )
    run = replace(snapshot.run, rungs={"sample": "pebs"})
    shown = text(replace(snapshot, run=run, usage=replace(snapshot.usage, sources=(counts,))), width=250)
    assert (
        "sample 2,000 received, 10 lost (0.5 %), up to 1,234 more missed by preempted programs, "
        "each for 1,003 accesses, 77 more without an address, "
        "5 more of cache hits, not sampled for 0.5 s (throttled)"
    ) in shown
    assert "sources   sample by pebs\n" in shown, "nothing about arming"
    assert "missed the core's caches" in shown


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("by", [None, *KEYS])
@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_line_is_wider_than_the_output(width, by, unicode):
    for line in text(frozen_snapshot(nodes=2), width=width, by=by, unicode=unicode).splitlines():
        assert len(line) <= width, line


@pytest.mark.parametrize("by", KEYS)
def test_every_key_sorts_and_any_other_names_them(by):
    for key in KEYS[by]:
        assert text(by=by, key=key)
    with pytest.raises(UsageError, match=KEYS[by][0]):
        text(by=by, key="nonsense")


def test_ascii_output_is_ascii():
    names = [vma(0, 4, {0: 4096}, path="/data/größe.db")]
    live = InMemoryProfile(run_info(target="pid 7 (größe)"))
    live.interval(interval(1, changes((1, 1, 5.0)), vmas={1: names}, processes=[process(1, "größe")]))
    shown = text(live.snapshot(), unicode=False)
    assert shown.isascii()
    assert r"gr\xf6\xdfe" in shown


def test_control_characters_of_names_do_not_reach_the_terminal():
    live = InMemoryProfile(run_info())
    live.interval(
        interval(
            1,
            changes((1, 1, 5.0)),
            vmas={1: [vma(0, 4, {0: 4096}, path="/tmp/\x1b[31mred")]},
            processes=[process(1, "\x1b]0;x\x07")],
        )
    )
    assert "\x1b" not in text(live.snapshot())


def test_different_addresses_never_print_alike():
    low, high = 0x7F00_0000_0, 0x1FF_7F00_0000_0
    live = InMemoryProfile(run_info())
    live.interval(
        interval(
            1,
            changes((1, low, 5.0), (1, high, 5.0)),
            vmas={1: [vma(low, low + 1, {0: 4096}), vma(high, high + 1, {0: 4096})]},
        )
    )
    for by in ("vma", "range", "page"):
        shown = text(live.snapshot(), by=by)
        assert f"{low << 12:x}" in shown
        assert f"{high << 12:x}" in shown


def test_what_is_left_out_is_said():
    live = InMemoryProfile(run_info())
    live.interval(interval(1, changes(*((n, 1, 5.0) for n in range(30)))))
    assert "  10 more (--by process -n 0 shows all)" in text(live.snapshot(), by="process")
    assert "more (" not in text(live.snapshot(), by="process", count=0)


def test_columns_stay_under_their_headings_where_names_have_wide_characters():
    snapshot = frozen_snapshot()
    redis = snapshot.processes[1]
    renamed = replace(redis, process=replace(redis.process, comm="redis-日本語"))  # as wide as redis-server
    shown = text(replace(snapshot, processes={**snapshot.processes, 1: renamed}), by="process")
    assert shown == text(snapshot, by="process").replace("4001 redis-server", "4001 redis-日本語")
