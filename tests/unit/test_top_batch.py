# SPDX-License-Identifier: Apache-2.0
"""top -b: columns that stay where they are, and JSON that adds up."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from profiles import changes, interval, process
from topfeed import busy_feed, frozen_feed

from hotpage.errors import UsageError
from hotpage.views.top.batch import KEYS, check_key, json_line, text_block
from hotpage.views.top.feed import Status
from hotpage.views.top.processes import ProcessLevel


def test_columns_are_the_same_on_every_machine() -> None:
    headings = set()
    for feed in (frozen_feed(1), frozen_feed(2), busy_feed(3)):
        lines = text_block(feed.view, Status("on"), "accesses").splitlines()
        start = lines.index("") + 1
        headings.add(lines[start])
        columns = lines[start].split()
        for line in lines[start + 1 :]:
            assert len(line.split()) == len(columns)
    (heading,) = headings
    assert heading == (
        "    PID    RSS    HOT   WARM   COLD UNKNOWN  ACC/S  ERROR  MISPL  MOV/S NODES        COMMAND"
    )


def test_text_is_ascii_but_for_the_error_and_blocks_are_apart() -> None:
    view = frozen_feed(2).view
    first, second = (text_block(view, Status("on"), "hot", again) for again in (False, True))
    assert second == "\n" + first
    assert first.replace("±", "").isascii()
    assert first.count("\n\n") == 1


def test_json_is_one_line_that_adds_up() -> None:
    line = json_line(frozen_feed(2).view, Status("on", target_cost_percent=1.2), "hot")
    assert line.endswith("\n") and line.count("\n") == 1
    document = json.loads(line)
    processes = document["processes"]
    assert [row["comm"] for row in processes[:2]] == ["redis-server", "postgres"]
    for name in ("hot_bytes", "cold_bytes", "unknown_bytes", "resident_bytes"):
        assert document["total"][name] == sum(row[name] for row in processes)
    assert document["total"]["accesses_per_s"] == pytest.approx(sum(r["accesses_per_s"] for r in processes))
    assert document["total"]["misplaced_bytes"] == document["tiers"][1]["hot_bytes"] > 0
    assert processes[3]["relative_error"] is None  # nothing known: no NaN in JSON
    assert document["sources"]["hint"]["lost"] == 7
    assert document["time_s"] == 10.0
    assert document["own_cpu_share"] == pytest.approx(0.012)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_sorts(key: str) -> None:
    feed = frozen_feed(2)
    feed.profile.interval(interval(11, changes(), nodes=(), migrated_pages={2: 5, 4: 7}))
    document = json.loads(json_line(feed.view, Status("on"), key))
    names = {
        "accesses": "accesses_per_s",
        "rss": "resident_bytes",
        "error": "relative_error",
        "moves": "moved_pages_per_s",
        "pid": "pid",
        "command": "comm",
    }
    name = names.get(key, f"{key}_bytes")
    values = [row[name] for row in document["processes"] if row[name] is not None]
    assert values == sorted(values, reverse=key not in ("error", "pid", "command"))


@pytest.mark.parametrize("is_tree", [False, True])
@pytest.mark.parametrize("key", ["misplaced", "moves"])
def test_without_tiers_the_order_is_the_default_one(key: str, is_tree: bool) -> None:
    """A cgroup holds processes and a cgroup: not all rows have the same kind of identity."""
    feed = frozen_feed(1)
    inner = process(6, "inner")
    inner = replace(inner, process=replace(inner.process, cgroup="/user.slice/inner"))
    feed.profile.interval(interval(11, changes((6, 1000, 2000.0)), processes=[inner]))

    def names(level: ProcessLevel) -> list[str]:
        level.is_tree = is_tree
        return [row.name for row in level.rows(feed, feed.view, "")]

    level = ProcessLevel()
    level.order = check_key(key)
    assert names(level) == names(ProcessLevel()) and "inner" in names(level)
    assert level.order == ProcessLevel.default, "as the heading says"


def test_another_key_names_them() -> None:
    with pytest.raises(UsageError, match="accesses, hot, warm"):
        check_key("nonsense")


def test_batch_mode_and_the_other_verbs_do_without_textual() -> None:
    code = "import sys, hotpage.cli.top, hotpage.views.top.batch; sys.exit('textual' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
