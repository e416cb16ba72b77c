# SPDX-License-Identifier: Apache-2.0
"""``hotpage report`` as it is called: options, outputs, warnings, exit statuses."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from profiles import armed, changes, interval, node, process, run_info, vma

from hotpage.cli import main
from hotpage.profile.disk.store import ProfileWriter
from hotpage.profile.snapshot import RunEnd, SourceCounts
from hotpage.views.rows import COLUMNS, KEYS


def record(directory: Path, *rows, **more) -> Path:
    writer = ProfileWriter(directory, run_info(**more.pop("run", {})))
    writer.interval(interval(10, changes(*rows), **more))
    writer.close(RunEnd(10.0, "complete", 0))
    return directory


@pytest.fixture
def profile(tmp_path) -> Path:
    return record(
        tmp_path / "hotpage-20260102-030405",
        *((1, 100 + page, 50.0) for page in range(10)),
        (1, 500, np.nan),
        processes=[process(1, "redis-server")],
        vmas={1: [vma(100, 300, {0: 100 << 12}), vma(500, 600, {0: 2 << 12}, "/usr/lib/libc.so.6")]},
        armed={1: armed(100, 300)},
    )


def test_it_finds_the_newest_profile_of_the_directory(profile, monkeypatch, capsys):
    record(profile.with_name("hotpage-20250102-030405"), (1, 1, 1.0), run={"target": "an old one"})
    record(profile.with_name("hotpage-20270102-mine"), (1, 1, 1.0), run={"target": "another name"})
    monkeypatch.chdir(profile.parent)
    assert main(["report"]) == 0
    assert "target    pid 4242 (redis-server)" in capsys.readouterr().out


def test_piped_output_is_plain(profile, capsys):
    assert main(["report", "-i", str(profile)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_terminal_gets_colours(profile, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["report", "-i", str(profile)]) == 0
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "libc.so.6" in out


def test_json_has_everything_with_units(profile, capsys):
    assert main(["report", "-i", str(profile), "--json"]) == 0
    shown = json.loads(
        capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")
    )
    assert shown["total"]["hot_bytes"] == 10 << 12
    assert shown["total"]["silent_bytes"] == 90 << 12
    assert shown["total"]["unknown_bytes"] == 2 << 12
    assert shown["run"]["sees_rates"] is True
    assert shown["end"]["status"] == "complete"
    assert shown["usage"]["window_s"] == 1.0
    assert shown["problems"] == []
    heap = shown["vmas"][0]
    assert (heap["start"], heap["pid"], heap["name"]) == ("64000", 4001, "[heap]")
    assert heap["strip_rate_hz"][0] == 50.0
    assert shown["ranges"][0]["size_bytes"] == 10 << 12
    assert "pages" not in shown


def test_json_has_pages_when_asked(profile, capsys):
    assert main(["report", "-i", str(profile), "--json", "--by", "page", "-n", "3"]) == 0
    assert len(json.loads(capsys.readouterr().out)["pages"]) == 3


@pytest.fixture
def several(tmp_path) -> Path:
    """Two of each kind of row, of processes three; and more ranges than JSON has by itself."""
    pages = [(1, 100 + 2 * place, 50.0) for place in range(1001)]
    return record(
        tmp_path / "several",
        *pages,
        (2, 100, 50.0),
        processes=[process(1, "redis-server"), process(2, "bash"), process(3, "sh")],
        vmas={1: [vma(100, 3000, {0: 1 << 22})], 2: [vma(100, 300, {1: 8 << 12})]},
        nodes=[node(0, 0), node(1, 1)],
    )


_TABLES = {"process": "processes", "vma": "vmas", "range": "ranges", "page": "pages", "node": "nodes"}


def json_rows(profile: Path, capsys, *options: str) -> dict[str, int]:
    """How many rows each table has."""
    assert main(["report", "-i", str(profile), "--json", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    return {by: len(document[table]) for by, table in _TABLES.items() if table in document}


@pytest.mark.parametrize("by", KEYS)
def test_a_count_is_of_the_table_asked_for(several, capsys, by):
    whole = {"process": 3, "vma": 2, "range": 1002, "page": 1002, "node": 2}
    others = whole | {"range": 1000}
    others = {name: rows for name, rows in others.items() if name != "page" or by == "page"}
    assert json_rows(several, capsys, "--by", by) == others
    assert json_rows(several, capsys, "--by", by, "-n", "0") == others | {by: whole[by]}
    assert json_rows(several, capsys, "--by", by, "-n", "1") == others | {by: 1}


def test_a_count_alone_is_of_ranges(several, capsys):
    assert [json_rows(several, capsys, "-n", count)["range"] for count in ("0", "1")] == [1002, 1]


@pytest.mark.parametrize("by", KEYS)
def test_csv_is_a_flat_table(profile, capsys, by):
    assert main(["report", "-i", str(profile), "--csv", "--by", by]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == {"process": 1, "vma": 2, "range": 1, "page": 10, "node": 1}[by]
    if by == "vma":
        assert rows[0]["resident_bytes_by_node"] == f"0:{100 << 12}"
        assert rows[1]["relative_error"] == ""


def csv_header(profile: Path, capsys, by: str) -> list[str]:
    assert main(["report", "-i", str(profile), "--csv", "--by", by]) == 0
    return capsys.readouterr().out.splitlines()[0].split(",")


def rows_in_json(profile: Path, capsys, by: str) -> list[dict[str, object]]:
    assert main(["report", "-i", str(profile), "--json", "--by", by]) == 0
    return json.loads(capsys.readouterr().out)[_TABLES[by]]


@pytest.mark.parametrize("by", KEYS)
def test_columns_do_not_depend_on_the_data(profile, tmp_path, capsys, by):
    """Nothing is known of the process of some pages, nor of their mapping; or there are no rows."""
    bare = record(tmp_path / "bare", (1, 100, 50.0))
    none = record(tmp_path / "none", armed={1: armed(100, 300)}, nodes=[])
    assert csv_header(profile, capsys, by) == list(COLUMNS[by])
    assert csv_header(bare, capsys, by) == csv_header(none, capsys, by) == list(COLUMNS[by])
    assert rows_in_json(none, capsys, by) == []
    known, unknown = rows_in_json(profile, capsys, by), rows_in_json(bare, capsys, by)
    in_json = [*COLUMNS[by], "strip_rate_hz"] if by == "vma" else [*COLUMNS[by]]
    assert all(list(row) == in_json for row in (*known, *unknown))
    if by != "node":
        assert known and unknown
        assert unknown[0].get("pid", None) is None and known[0]["pid"] == 4001


def test_damage_is_a_warning_on_stderr_and_in_json(profile, capsys):
    (profile / "nodes" / "part-000001.parquet").write_text("x")
    assert main(["report", "-i", str(profile), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("hotpage: warning: nodes/part-000001.parquet: damaged")
    assert len(json.loads(out)["problems"]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-s", "nonsense"], "hot, warm, cold"),
        (["--by", "node", "-s", "hotness"], "node, resident"),
        (["--by", "nonsense"], "process"),
        (["--json", "--csv"], "exclude"),
        (["--hot-rate", "1", "--hot-bytes", "1M"], "exclude"),
        (["--hot-rate", "0"], "no rate"),
        (["--hot-bytes", "lots"], "no size"),
        (["-n", "-1"], "--count"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(profile, capsys, options, said):
    assert main(["report", "-i", str(profile), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("option", "hot"), [("--hot-rate=51", "0"), ("--hot-bytes=1G", "40K")])
def test_what_is_hot_can_be_said(profile, capsys, option, hot):
    assert main(["report", "-i", str(profile), option]) == 0
    assert f"memory    hot {hot}," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "said"),
    [({}, "record longer"), ({"armed": False, "advice": ("record again with --arm",)}, "--arm")],
)
def test_an_empty_profile_is_said_and_is_status_1(tmp_path, capsys, run, said):
    record(tmp_path / "p", run=run, sources=[SourceCounts("fault", 0)])
    assert main(["report", "-i", str(tmp_path / "p")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "no page was observed in 1 s" in err
    assert said in err
    assert err.count("\n") == 1


def test_no_profile_here_or_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 1
    assert main(["report", "-i", "gone"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert ["hotpage record" in err[0], "gone does not exist" in err[1], len(err)] == [True, True, 2]


def test_without_rates_that_comes_first(tmp_path, capsys):
    run = {"armed": False, "advice": ("record again with --arm",)}
    record(tmp_path / "p", (1, 100, np.nan), vmas={1: [vma(100, 200, {0: 8 << 12})]}, run=run)
    assert main(["report", "-i", str(tmp_path / "p")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("No access rates arrived")
    assert lines[1] == "-> record again with --arm"
    assert "memory    hot 0, warm 0, cold 0, unknown 32K" in lines


def test_an_encoding_without_blocks_gets_ascii(profile):
    done = subprocess.run(
        [sys.executable, "-m", "hotpage", "report", "-i", profile],
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
    )
    assert done.stdout.isascii()
    assert done.stderr == b""


def test_a_name_that_the_encoding_does_not_have_is_escaped(tmp_path):
    profile = record(tmp_path / "p", (1, 100, 50.0), processes=[process(1, "日")])
    done = subprocess.run(
        [sys.executable, "-m", "hotpage", "report", "-i", profile, "--csv", "--by", "process"],
        env={"PYTHONIOENCODING": "iso-8859-1", "PATH": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b",\\u65e5," in done.stdout


def test_a_reader_that_stops_early_is_no_news(profile):
    command = [sys.executable, "-m", "hotpage", "report", "-i", profile, "--json"]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
