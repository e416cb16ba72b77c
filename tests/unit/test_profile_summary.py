# SPDX-License-Identifier: Apache-2.0
"""A report's numbers: what is hot, warm, cold, unknown; and that silence counts only where it was listened
for.
"""

from dataclasses import replace

import numpy as np
import pytest
from profiles import armed, changes, interval, node, process, run_info, shared, vma

from hotpage.machine.vmas import Residency, Vma
from hotpage.profile.inmemory import InMemoryProfile
from hotpage.profile.snapshot import Snapshot, VmaRecord
from hotpage.profile.summary import Heat, Summary, summarise

PAGE = 4096


def snapshot(*rows: tuple[int, int, float], seconds: int = 100, **more) -> Snapshot:
    live = InMemoryProfile(run_info(**more.pop("run", {})))
    live.interval(interval(seconds, changes(*rows), **more))
    return live.snapshot()


def only_mapping(summary: Summary) -> Heat:
    (mapping,) = summary.mappings
    return mapping.heat


def test_classes_by_a_given_rate():
    rates = [8.0, 4.0, 3.9, 2.0, 1.9, 0.001, np.nan]
    summary = summarise(
        snapshot(
            *((1, 10 + n, rate) for n, rate in enumerate(rates)), vmas={1: [vma(10, 50, {0: 20 * PAGE})]}
        ),
        hot_rate_hz=4.0,
    )
    heat = only_mapping(summary)
    assert (heat.hot_bytes, heat.warm_bytes, heat.cold_bytes) == (2 * PAGE, 2 * PAGE, 2 * PAGE)
    assert heat.unknown_bytes == (1 + 13) * PAGE  # one seen without a rate, 13 resident that nobody observed
    assert heat.accesses_per_s == pytest.approx(8 + 4 + 3.9 + 2 + 1.9 + 0.001)
    assert heat.relative_error == pytest.approx(0.25)


def test_armed_and_silent_is_cold_elsewhere_unknown():
    whole = snapshot((1, 10, 8.0), vmas={1: [vma(10, 110, {0: 60 * PAGE})]}, armed={1: armed(10, 110)})
    heat = only_mapping(summarise(whole, hot_rate_hz=4.0))
    assert (heat.silent_bytes, heat.cold_bytes, heat.unknown_bytes) == (59 * PAGE, 59 * PAGE, 0)
    none = snapshot((1, 10, 8.0), vmas={1: [vma(10, 110, {0: 60 * PAGE})]}, armed={1: armed(500, 600)})
    heat = only_mapping(summarise(none, hot_rate_hz=4.0))
    assert (heat.silent_bytes, heat.unknown_bytes) == (0, 59 * PAGE)


def test_partly_armed_counts_in_proportion():
    half = snapshot(vmas={1: [vma(0, 100, {0: 60 * PAGE})]}, armed={1: armed(0, 50)})
    heat = only_mapping(summarise(half, hot_rate_hz=4.0))
    assert (heat.silent_bytes, heat.unknown_bytes) == (30 * PAGE, 30 * PAGE)


def test_silence_too_short_to_tell_is_unknown():
    # armed for 0.1 s: a page of up to 0.5/0.1 = 5 accesses/s may well have stayed silent
    fresh = snapshot(vmas={1: [vma(0, 10, {0: 10 * PAGE})]}, armed={1: armed(0, 10, first_s=99.9)})
    assert only_mapping(summarise(fresh, hot_rate_hz=4.0)).unknown_bytes == 10 * PAGE
    assert only_mapping(summarise(fresh, hot_rate_hz=4000.0)).silent_bytes == 10 * PAGE


def test_silence_ends_with_the_process():
    gone = snapshot(
        processes=[process(1, "x", exited_s=10.0)],
        vmas={1: [vma(0, 10, {0: 10 * PAGE})]},
        armed={1: armed(0, 10, first_s=9.9)},
    )
    assert only_mapping(summarise(gone, hot_rate_hz=4.0)).unknown_bytes == 10 * PAGE


def test_working_set_is_the_expected_bytes_touched():
    heat = only_mapping(
        summarise(snapshot((1, 1, 0.1), (1, 2, 1000.0), vmas={1: [vma(0, 9, {0: 9 * PAGE})]}))
    )
    expected = [PAGE * (1 + 1 - np.exp(-0.1 * window_s)) for window_s in (1, 10, 60)]
    assert heat.working_set_bytes == pytest.approx(expected)


def test_one_tier_splits_where_the_rates_fall_apart():
    rows = [(1, vpn, 100.0 + vpn) for vpn in range(10)] + [(1, vpn, 0.01) for vpn in range(100, 190)]
    summary = summarise(snapshot(*rows))
    assert 0.01 < summary.threshold.hot_hz < 100
    assert summary.threshold.rule == "where the rates fall apart"
    assert summary.total.hot_bytes == 10 * PAGE


def test_silent_memory_counts_for_the_split():
    # without the silent pages the two rates would be split between them
    rows = [(1, vpn, rate) for vpn, rate in enumerate([64.0, 80.0, 100.0, 128.0])]
    state = snapshot(*rows, vmas={1: [vma(0, 5000, {0: 5000 * PAGE})]}, armed={1: armed(0, 5000)})
    assert summarise(state).total.hot_bytes == 4 * PAGE


def test_a_rate_that_does_not_differ_is_said():
    summary = summarise(snapshot((1, 1, 5.0), (1, 2, 5.0)))
    assert "do not differ" in summary.threshold.rule
    assert summary.total.hot_bytes == 2 * PAGE


def test_two_tiers_fit_the_hot_set_to_the_fast_one():
    fast_bytes = 200 << 20
    rows = [(1, vpn, float(2 ** (vpn // 6400))) for vpn in range(102_400)]  # 400 MiB in 16 octaves of 25 MiB
    summary = summarise(snapshot(*rows, nodes=[node(0, 0, fast_bytes), node(1, 1, 1 << 40)]))
    assert summary.threshold.rule.startswith("what fits the fast tier")
    assert summary.total.hot_bytes == 150 << 20  # 50 MiB of headroom
    assert summarise(snapshot(*rows, nodes=[node(0, 0, 1 << 40), node(1, 1)])).threshold.rule.endswith(
        "; the fast tier would hold it all"
    )


def test_a_fast_tier_that_is_all_headroom_does_not_say_what_is_hot():
    rows = [(1, vpn, 1000.0 if vpn < 10 else 0.01) for vpn in range(100)]
    summary = summarise(snapshot(*rows, nodes=[node(0, 0, 48 << 20), node(1, 1)]))
    assert summary.threshold.rule.endswith("; the fast tier is all headroom")
    assert summary.total.hot_bytes == 10 * PAGE


def test_given_bytes_set_the_threshold():
    rows = [(1, vpn, float(2**vpn)) for vpn in range(10)]
    assert summarise(snapshot(*rows), hot_bytes=3 * PAGE).total.hot_bytes == 3 * PAGE


def test_exited_processes_are_listed_but_not_counted_beside_living_ones():
    rows = [(1, 5, 10.0), (2, 5, 10.0)]
    some = [process(1, "gone", exited_s=3.0), process(2, "here")]
    summary = summarise(snapshot(*rows, processes=some), hot_rate_hz=1.0)
    assert summary.total.hot_bytes == PAGE
    assert [entry.heat.hot_bytes for entry in summary.processes] == [PAGE, PAGE]
    every = [process(1, "gone", exited_s=3.0), process(2, "gone too", exited_s=4.0)]
    assert summarise(snapshot(*rows, processes=every), hot_rate_hz=1.0).total.hot_bytes == 2 * PAGE


def test_pages_outside_every_mapping_are_kept_apart():
    summary = summarise(
        snapshot((1, 5, 10.0), (1, 9, 10.0), vmas={1: [vma(0, 9, {0: PAGE})]}), hot_rate_hz=1.0
    )
    assert [(m.record is None, m.heat.hot_bytes) for m in summary.mappings] == [(False, PAGE), (True, PAGE)]


def test_ranges_join_similar_neighbours_only():
    rows = [(1, 10, 8.0), (1, 11, 9.0), (1, 12, 1000.0), (1, 20, 8.0), (2, 21, 8.0)]
    found = [
        (r.process, r.start // PAGE, r.size_bytes // PAGE)
        for r in summarise(snapshot(*rows)).ranges("address")
    ]
    assert found == [(1, 10, 2), (1, 12, 1), (1, 20, 1), (2, 21, 1)]


def test_ranges_and_pages_are_sorted_and_cut():
    rows = [(1, 10, 8.0), (1, 11, 8.0), (1, 20, 12.0), (1, 30, np.nan)]
    summary = summarise(snapshot(*rows))
    assert [r.start // PAGE for r in summary.ranges("accesses", 1)] == [10]
    assert [r.start // PAGE for r in summary.ranges("rate", 1)] == [20]
    assert [r.start // PAGE for r in summary.pages("rate", 2)] == [20, 10]


def test_hot_memory_counts_for_a_node_only_where_the_mapping_is_there():
    state = snapshot(
        (1, 1, 10.0),
        (1, 11, 10.0),
        vmas={1: [vma(0, 9, {0: PAGE}), vma(10, 19, {0: PAGE, 1: PAGE})]},
        nodes=[node(0), node(1)],
    )
    summary = summarise(state, hot_rate_hz=1.0)
    assert [(n.resident_bytes, n.hot_bytes) for n in summary.nodes] == [(2 * PAGE, PAGE), (PAGE, 0)]
    assert summary.hot_bytes_on_several_nodes == PAGE


def test_nothing_at_all_is_no_error():
    summary = summarise(snapshot())
    assert summary.total == Heat()
    assert summary.ranges() == []


def test_a_page_just_outside_the_armed_range_is_not_taken_as_armed():
    # all 100 pages resident; the 50 armed ones have no row, of the other 50 one has
    beside = snapshot((1, 50, 8.0), vmas={1: [vma(0, 100, {0: 100 * PAGE})]}, armed={1: armed(0, 50)})
    heat = only_mapping(summarise(beside, hot_rate_hz=4.0))
    assert (heat.silent_bytes, heat.unknown_bytes) == (50 * PAGE, 49 * PAGE)


def test_memory_that_is_never_armed_is_said_with_its_reason():
    def mapping(start_vpn: int, permissions: str, path: str, kind: str) -> VmaRecord:
        found = Vma(start_vpn << 12, (start_vpn + 10) << 12, permissions, 0, 7, path, kind)
        return VmaRecord(found, Residency(PAGE, {0: 5 * PAGE}, "default"))

    summary = summarise(
        snapshot(
            processes=[process(1, "postgres")],
            vmas={
                1: [
                    mapping(10, "rw-s", "/dev/zero (deleted)", "shared"),
                    mapping(30, "r-xp", "/usr/bin/postgres", "file"),
                    mapping(50, "rw-p", "/usr/bin/postgres", "file"),
                ]
            },
        )
    )
    assert summary.unarmable_bytes() == {"shared memory": 5 * PAGE, "read-only files": 5 * PAGE}


def test_shared_memory_is_counted_once_in_sums():
    """As PostgreSQL's backends have their buffers; of each it is all of its own."""
    buffers = {index: [shared(vma(100, 200, {0: (80 + index) * PAGE}))] for index in range(5)}
    rows = [(index, 100 + n, 100.0 if n < 5 * index else 0.01) for index in range(3) for n in range(40)]
    every = [process(index, "postgres") for index in range(5)]
    summary = summarise(snapshot(*rows, vmas=buffers, processes=every), hot_rate_hz=1.0)
    assert [entry.heat.resident_bytes for entry in summary.processes] == [(80 + n) * PAGE for n in range(5)]
    total = summary.total
    assert (total.resident_bytes, total.resident_bytes_by_node) == (84 * PAGE, {0: 84 * PAGE})
    assert (total.hot_bytes, total.cold_bytes, total.unknown_bytes) == (10 * PAGE, 30 * PAGE, 44 * PAGE)
    assert summary.nodes[0].resident_bytes == 84 * PAGE
    assert summary.unarmable_bytes() == {"shared memory": 44 * PAGE}
    assert summary.histogram.bytes.sum() == 40 * PAGE
    assert summary.histogram.unknown_bytes == 44 * PAGE
    accesses_per_s = sum(entry.heat.accesses_per_s for entry in summary.processes)
    assert total.accesses_per_s == pytest.approx(accesses_per_s), "each has its own"


@pytest.mark.parametrize(
    ("changed", "times"),
    [
        ({"permissions": "r-xp", "kind": "file"}, 1),
        ({"permissions": "rw-p", "kind": "file"}, 2),  # copied where it was written
        ({"permissions": "rw-s", "kind": "file"}, 1),
        ({"offset": 1 << 20}, 2),
        ({"inode": 78}, 2),
        ({"kind": "anon", "path": "", "inode": 0, "permissions": "r--p"}, 2),
    ],
)
def test_what_is_the_same_memory(changed, times):
    first = shared(vma(100, 200, {0: 100 * PAGE}))
    other = replace(first, vma=replace(first.vma, **changed))
    if "offset" not in changed and "inode" not in changed:
        first = other
    summary = summarise(snapshot(vmas={1: [first], 2: [other]}, processes=[process(1, "a"), process(2, "b")]))
    assert summary.total.resident_bytes == times * 100 * PAGE


def test_shared_memory_of_an_exited_process_does_not_count_beside_living_ones():
    mapped = {1: [shared(vma(0, 100, {0: 100 * PAGE}))], 2: [shared(vma(0, 100, {0: 30 * PAGE}))]}
    some = [process(1, "gone", exited_s=3.0), process(2, "here")]
    assert summarise(snapshot(vmas=mapped, processes=some)).total.resident_bytes == 30 * PAGE
