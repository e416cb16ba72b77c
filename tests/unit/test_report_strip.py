"""The heat strip: what lies where in a mapping."""

import numpy as np
from profiles import armed, changes, interval, run_info, vma

from hotpage.profile.inmemory import InMemoryProfile
from hotpage.profile.strips import heat_strip
from hotpage.profile.summary import summarise
from hotpage.views import strip


def shown(cells: int, unicode: bool = True) -> str:
    """A mapping of 100 pages: hot 0-9, warm 10-19, two colds 20-39, unknown 40-79, silent 80-99; hot is
    100/s.
    """
    rates = {
        range(0, 5): 2000.0,
        range(5, 10): 150.0,
        range(10, 20): 60.0,
        range(20, 30): 40.0,
        range(30, 40): 1e-6,
    }
    rows = [(1, page, rate) for pages, rate in rates.items() for page in pages]
    rows += [(1, page, np.nan) for page in range(40, 50)]
    live = InMemoryProfile(run_info())
    live.interval(
        interval(10, changes(*rows), vmas={1: [vma(0, 100, {0: 100 << 12})]}, armed={1: armed(80, 100)})
    )
    summary = summarise(live.snapshot(), hot_rate_hz=100.0)
    levels = strip.levels(heat_strip(summary.snapshot, summary.mappings[0], cells), summary.threshold)
    assert len(strip.styles(levels)) == len(levels)
    return strip.characters(levels, unicode)


def test_each_class_has_its_sign():
    assert shown(20) == "█▆▅▅▄▄▁▁        ····"
    assert shown(20, unicode=False) == "@*++==,,        ...."


def test_never_more_cells_than_pages():
    assert len(shown(1000)) == 100


def test_a_cell_takes_the_mean_of_its_known_pages():
    assert shown(1) == "▆"  # (5·2000 + 5·150 + 10·60 + 10·40) / 40 = 294 accesses/s, 1.6 octaves above hot


def test_pages_outside_every_mapping_have_no_strip():
    live = InMemoryProfile(run_info())
    live.interval(interval(1, changes((1, 5, 1.0))))
    summary = summarise(live.snapshot())
    assert not len(heat_strip(summary.snapshot, summary.mappings[0], 10).rate_hz)
