"""Numbers for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from hotpage.views import units


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (1, "1"),
        (999, "999"),
        (1000, "0.98K"),
        (1024, "1K"),
        (4096, "4K"),
        (12.5 * 2**20, "12.5M"),
        (1.25 * 2**30, "1.25G"),
        (1023 * 2**20, "1G"),
        (200 * 2**20, "200M"),
        (999.7 * 2**30, "0.98T"),
    ],
)
def test_size(count, shown):
    assert units.size(count) == shown


@given(st.floats(0, 2**62))
def test_sizes_are_short_and_right_within_rounding(count):
    shown = units.size(count)
    assert len(shown) <= 5
    assert shown == "0" or abs(units.parse_size(shown) - count) <= max(0.0051 * count, 1)


@pytest.mark.parametrize(
    ("per_s", "shown"),
    [
        (0, "0"),
        (0.001, "<0.01"),
        (0.02, "0.02"),
        (3.14159, "3.14"),
        (640, "640"),
        (12_500, "12.5k"),
        (3.2e6, "3.2M"),
    ],
)
def test_rate(per_s, shown):
    assert units.rate(per_s) == shown


def test_what_is_not_known_is_a_question_mark():
    assert [form(float("nan")) for form in (units.rate, units.percent, units.error)] == ["?"] * 3


@pytest.mark.parametrize(
    ("written", "count"),
    [("4096", 4096), ("64K", 65536), ("1.5G", 3 * 2**29), ("200MiB", 200 << 20), ("1kb", 1024)],
)
def test_parse_size(written, count):
    assert units.parse_size(written) == count


@pytest.mark.parametrize("written", ["", "x", "-1", "0", "12Q", "inf", "nan", "1e400"])
def test_parse_size_refuses(written):
    with pytest.raises(ValueError):
        units.parse_size(written)


# Joined and varied characters are another matter: rich measures them otherwise where it cuts.
@given(st.text(st.characters(exclude_characters="\u200d\ufe0f")), st.integers(1, 40))
def test_shortened_names_fit(name, width):
    short = units.shorten(name, width)
    assert cell_len(short) <= width
    if cell_len(name) <= width:
        assert short == name


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.integers(3, 40))
def test_shortened_names_keep_both_ends(name, width):
    short = units.shorten(name, width)
    assert len(short) == min(len(name), width)
    assert (short[:1], short[-1:]) == (name[:1], name[-1:])


@pytest.mark.parametrize(
    ("width", "short"),
    [
        (12, "日本語の名前"),
        (11, "日本…の名前"),
        (10, "日本…名前"),
        (7, "日…名前"),
        (4, "…前"),
        (2, "日"),
        (1, " "),
    ],
)
def test_characters_that_are_two_cells_wide(width, short):
    assert units.shorten("日本語の名前", width) == short


def test_durations():
    assert [units.seconds(s) for s in (0.0123, 9.5, 12.34, 119.96, 600)] == [
        "0.0123 s",
        "9.5 s",
        "12.3 s",
        "120.0 s",
        "10 min 0 s",
    ]
