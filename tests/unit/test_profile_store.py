# SPDX-License-Identifier: Apache-2.0
"""The profile on disk: what goes in comes out, whatever the disk, a kill or a stranger did to some of it."""

import errno
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from profiles import armed, changes, interval, node, process, run_info, vma

from hotpage.errors import ProfileError
from hotpage.heat.results import Changes
from hotpage.profile import fold
from hotpage.profile.disk import parts
from hotpage.profile.disk.reader import ProfileReader
from hotpage.profile.disk.store import ProfileWriter
from hotpage.profile.inmemory import InMemoryProfile
from hotpage.profile.snapshot import ClearedRange, RunEnd, Snapshot, SourceCounts


def write(directory: Path, *intervals, end: RunEnd | None = None) -> Path:
    writer = ProfileWriter(directory, run_info())
    for data in intervals:
        writer.interval(data)
    if end is not None:
        writer.close(end)
    return directory


def rates(snapshot: Snapshot, index: int) -> dict[int, float]:
    pages = snapshot.pages.of(index)
    return dict(zip(pages.vpn.tolist(), pages.rate_hz.tolist(), strict=True))


def everything() -> list:
    """Two intervals that use every field."""
    return [
        interval(
            1,
            changes((7, 100, 8.0), (7, 101, 8.0), (7, 102, np.nan), (9, 5, 0.5)),
            processes=[process(7, "redis"), process(9, "sh", exited_s=0.75, previous_index=3)],
            vmas={7: [vma(100, 200, {0: 4096 * 90}), vma(300, 301, None)], 9: [vma(5, 6, {-1: 4096})]},
            armed={7: armed(100, 200)},
        ),
        interval(
            2,
            changes((7, 101, 64.0), (9, 5, 16.0)),
            cleared=[ClearedRange(7, 102, 110)],
            sources=[SourceCounts("sample", 100, 1, 0, 1, 50_000, 23, 7, 0.25, 11)],
        ),
    ]


def test_directory_and_memory_give_the_same_snapshot(tmp_path):
    live = InMemoryProfile(run_info())
    for data in everything():
        live.interval(data)
    live.close(RunEnd(2.0, "complete", 0))
    stored = ProfileReader(write(tmp_path / "p", *everything(), end=RunEnd(2.0, "complete", 0))).snapshot()
    kept = live.snapshot()
    assert stored.problems == ()
    for name in ("run", "end", "time_s", "usage", "processes"):
        assert getattr(stored, name) == getattr(kept, name), name
    assert {k: list(v) for k, v in stored.vmas.items()} == {k: list(v) for k, v in kept.vmas.items()}
    assert list(stored.nodes) == list(kept.nodes)
    for ours, theirs in zip(stored.pages.columns(), kept.pages.columns(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2**-6)
    assert stored.armed[7].end_vpn.tolist() == [200]
    assert stored.end == RunEnd(2.0, "complete", 0)


def test_the_latest_row_of_a_page_wins(tmp_path):
    snapshot = ProfileReader(write(tmp_path / "p", *everything())).snapshot()
    assert rates(snapshot, 7) == {100: 8.0, 101: 64.0}
    assert rates(snapshot, 9) == {5: 16.0}


def test_a_time_of_the_session_shows_the_state_of_then(tmp_path):
    snapshot = ProfileReader(write(tmp_path / "p", *everything())).snapshot(at_s=1.5)
    assert snapshot.time_s == 1.0
    assert snapshot.usage.intervals == 1
    state = rates(snapshot, 7)
    assert (state[100], state[101]) == (8.0, 8.0)
    assert np.isnan(state[102])


def test_neighbours_are_stored_as_runs(tmp_path):
    write(tmp_path / "p", interval(1, changes(*((1, vpn, 5.0) for vpn in range(1000, 3000)))))
    table = pq.read_table(tmp_path / "p" / "pages")
    assert table.column("pages").to_pylist() == [2000]
    assert len(ProfileReader(tmp_path / "p").snapshot().pages) == 2000


def test_every_part_says_what_it_is_and_how_to_read_it(tmp_path):
    write(tmp_path / "p", *everything(), end=RunEnd(2.0, "complete"))
    folders = {path.parent.name for path in (tmp_path / "p").glob("*/part-*.parquet")}
    assert folders == {"pages", "vmas", "processes", "armed", "cleared", "nodes", "intervals", "run"}
    for path in (tmp_path / "p").glob("*/part-*.parquet"):
        stated = pq.read_schema(path).metadata
        assert stated[b"format"] == b"hotpage-profile"
        assert stated[b"format_version"] == b"2"
        assert b"latest time_s" in stated[b"readme"]


def test_an_unfinished_session_is_readable(tmp_path):
    snapshot = ProfileReader(write(tmp_path / "p", *everything())).snapshot()
    assert snapshot.end is None
    assert snapshot.usage.intervals == 2


def test_file_names_that_are_not_utf8_are_kept_as_escapes(tmp_path):
    data = interval(1, changes((1, 1, 1.0)), vmas={1: [vma(1, 2, None, path="/tmp/\udcff.so")]})
    snapshot = ProfileReader(write(tmp_path / "p", data)).snapshot()
    assert snapshot.vmas[1][0].vma.path == "/tmp/\\udcff.so"


@pytest.fixture
def stored(tmp_path) -> Path:
    steps = [interval(n, changes((1, 10 * n, float(n)))) for n in range(1, 4)]
    return write(tmp_path / "p", *steps, end=RunEnd(3.0, "complete"))


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8:24] = bytes(16)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (corrupt, "damaged"),
        (lambda path: path.write_text("hello"), "damaged"),
        (lambda path: pq.write_table(pa.table({"a": [1]}), path), "not a hotpage part"),
        (lambda path: shutil.copy(path.parents[1] / "run" / "part-000001.parquet", path), "another table"),
    ],
)
def test_a_bad_part_is_named_and_the_rest_is_read(stored, damage, said):
    damage(stored / "pages" / "part-000002.parquet")
    snapshot = ProfileReader(stored).snapshot()
    assert rates(snapshot, 1) == {10: 1.0, 30: 3.0}
    assert len(snapshot.problems) == 1
    assert snapshot.problems[0].startswith("pages/part-000002.parquet: ")
    assert said in snapshot.problems[0]


def test_runs_of_nonsense_length_are_not_expanded(stored):
    path = stored / "pages" / "part-000002.parquet"
    table = pq.read_table(path)
    column = table.schema.get_field_index("start_vpn")
    broken = table.set_column(column, table.schema.field("start_vpn"), pa.array([-5], pa.int64()))
    path.write_bytes(parts.encode(broken, "pages", 2, 2))
    assert "out of range" in ProfileReader(stored).snapshot().problems[0]


def test_a_newer_format_is_refused_by_name(stored, monkeypatch):
    monkeypatch.setattr("hotpage.profile.disk.schema.FORMAT_VERSION", 3)
    with pytest.raises(ProfileError, match="format version 2, this hotpage reads 3"):
        ProfileReader(stored).snapshot()


def test_foreign_files_beside_the_parts_are_named(stored):
    shutil.copy(stored / "pages" / "part-000001.parquet", stored / "pages" / "mine.parquet")
    (stored / "pages" / ".part-000004.parquet.tmp").write_bytes(b"half")
    snapshot = ProfileReader(stored).snapshot()
    assert [problem.split(":")[0] for problem in snapshot.problems] == ["pages/mine.parquet"]


def test_without_run_metadata_the_pages_are_still_read(stored):
    for part in (stored / "run").iterdir():
        part.write_bytes(b"")
    snapshot = ProfileReader(stored).snapshot()
    assert len(snapshot.pages) == 3
    assert len(snapshot.problems) == 3


def test_missing_strange_and_empty_directories(tmp_path):
    with pytest.raises(ProfileError, match="does not exist"):
        ProfileReader(tmp_path / "none")
    with pytest.raises(ProfileError, match="not a hotpage profile"):
        ProfileReader(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ProfileError, match="not a directory"):
        ProfileReader(tmp_path / "file")
    ProfileWriter(tmp_path / "p", run_info())
    with pytest.raises(ProfileError, match="empty profile") as caught:
        ProfileReader(tmp_path / "p").snapshot()
    assert caught.value.exit_status == 1


def test_an_occupied_or_impossible_directory_is_refused(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "something").write_text("")
    with pytest.raises(ProfileError, match=r"not empty.*-o"):
        ProfileWriter(tmp_path / "used", run_info())
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["something"]
    with pytest.raises(ProfileError, match=r"Not a directory.*-o"):
        ProfileWriter(tmp_path / "used" / "something" / "p", run_info())


def test_a_full_disk_costs_only_the_interval_being_written(tmp_path, monkeypatch):
    writer = ProfileWriter(tmp_path / "p", run_info())
    writer.interval(interval(1, changes((1, 10, 1.0))))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(
            ProfileError, match=r"No space left on device; the first 1.0 s are kept"
        ) as caught:
            writer.interval(interval(2, changes((1, 20, 2.0))))
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "p").glob("*/.*")) == []
    assert rates(ProfileReader(tmp_path / "p").snapshot(), 1) == {10: 1.0}


def test_small_parts_are_merged_and_read_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MERGE_PARTS", 4)
    steps = [interval(n, changes((1, n, float(n)))) for n in range(1, 23)]
    write(tmp_path / "p", *steps)
    names = sorted(path.name for path in (tmp_path / "p" / "pages").iterdir())
    assert names == [f"part-{number:06d}.parquet" for number in (1, 17, 21, 22)]
    snapshot = ProfileReader(tmp_path / "p").snapshot()
    assert rates(snapshot, 1) == {n: float(n) for n in range(1, 23)}
    assert snapshot.usage.intervals == 22


def test_a_merge_that_fails_loses_nothing(tmp_path, monkeypatch):
    def no_room(self, found):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parts, "MERGE_PARTS", 4)
    monkeypatch.setattr(parts.PartWriter, "_merge", no_room)
    write(tmp_path / "p", *(interval(n, changes((1, n, float(n)))) for n in range(1, 10)))
    assert ProfileReader(tmp_path / "p").snapshot().usage.intervals == 9


def test_a_merge_cut_short_counts_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MERGE_PARTS", 4)
    monkeypatch.setattr(Path, "unlink", lambda path: None)
    write(tmp_path / "p", *(interval(n, changes((1, n, float(n)))) for n in range(1, 6)))
    assert len(list((tmp_path / "p" / "intervals").iterdir())) == 5
    assert ProfileReader(tmp_path / "p").snapshot().usage.intervals == 5


def test_reading_while_parts_are_merged_away(stored, monkeypatch):
    read = pq.ParquetFile
    vanished = []

    def vanish_once(path, **options):
        if not vanished:
            vanished.append(path)
            raise FileNotFoundError(path)
        return read(path, **options)

    monkeypatch.setattr(pq, "ParquetFile", vanish_once)
    assert len(ProfileReader(stored).snapshot().pages) == 3
    assert vanished


def test_ten_minutes_over_64_gib_stay_below_300_mb(tmp_path):
    """25,000 updates/s in random order over all of 64 GiB, nothing to join: the worst case that the target
    names.
    """
    random = np.random.default_rng(1)
    page_octaves = random.normal(0, 3, 16 << 20).astype(np.float32)
    writer = ProfileWriter(tmp_path / "p", run_info())
    updates = 0
    for second in range(1, 11):
        page = np.unique(random.integers(0, 16 << 20, 25_000))
        rate_hz = np.exp2(page_octaves[page] + random.normal(0, 0.5, len(page))).astype(np.float32)
        short_hz = (rate_hz * np.exp2(random.normal(0, 1, len(page)))).astype(np.float32)
        error = (1 / np.sqrt(random.gamma(3, 4, len(page)) + 0.5)).astype(np.float32)
        process_of = np.zeros(len(page), np.int32)
        writer.interval(interval(second, Changes(process_of, page + 0x7F0000000, rate_hz, short_hz, error)))
        updates += len(page)
    written_bytes = sum(part.stat().st_size for part in (tmp_path / "p" / "pages").iterdir())
    assert written_bytes / updates * 25_000 * 600 < 300e6


def test_a_killed_recorder_leaves_whole_intervals(tmp_path):
    code = (
        "import sys, itertools, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from profiles import *; from hotpage.profile.disk.store import ProfileWriter\n"
        "writer = ProfileWriter(pathlib.Path(sys.argv[2]), run_info())\n"
        "for n in itertools.count(1):\n"
        "    writer.interval(interval(n, changes((1, n, float(n)))))\n"
        "    print(n, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "p")]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    ) as recorder:
        assert recorder.stdout is not None
        for line in recorder.stdout:
            if int(line) == 40:  # past a merge
                recorder.kill()
                break
        done = max([40, *map(int, recorder.stdout.read().split())])
    snapshot = ProfileReader(tmp_path / "p").snapshot()
    assert snapshot.problems == ()
    assert snapshot.end is None
    assert done <= snapshot.usage.intervals <= done + 1
    assert done <= len(snapshot.pages) <= done + 1


def test_the_latest_set_of_mappings_and_armed_ranges_replaces_all_before(tmp_path):
    steps = [
        interval(
            1,
            changes((1, 1, 1.0)),
            vmas={1: [vma(1, 2, {0: 4096}), vma(5, 9, {0: 4096})], 2: [vma(7, 8, None)]},
            armed={1: armed(1, 9), 2: armed(7, 8)},
            nodes=[node(0), node(1)],
        ),
        interval(2, changes(), vmas={1: [vma(5, 10, {0: 8192})]}, armed={1: armed(0, 0)}, nodes=[node(0)]),
    ]
    write(tmp_path / "p", *steps)
    last = ProfileReader(tmp_path / "p").snapshot()
    assert {index: [record.vma.end >> 12 for record in records] for index, records in last.vmas.items()} == {
        1: [10],
        2: [8],
    }
    assert {index: ranges.end_vpn.tolist() for index, ranges in last.armed.items()} == {1: [], 2: [8]}
    assert [entry.node for entry in last.nodes] == [0]
    first = ProfileReader(tmp_path / "p").snapshot(at_s=1.0)
    assert [record.vma.end >> 12 for record in first.vmas[1]] == [2, 9]
    assert first.armed[1].end_vpn.tolist() == [9]
    assert len(first.nodes) == 2


def test_free_memory_is_written_when_it_has_changed_noticeably(tmp_path):
    free = [1 << 30, (1 << 30) + (1 << 20), 2 << 30, 2 << 30]
    steps = [
        interval(number, changes(), nodes=[replace(node(0), free_bytes=count)])
        for number, count in enumerate(free, 1)
    ]
    write(tmp_path / "p", *steps)
    assert pq.read_table(tmp_path / "p/nodes")["time_s"].to_pylist() == [1.0, 3.0]
    (last,) = ProfileReader(tmp_path / "p").snapshot().nodes
    assert last.free_bytes == 2 << 30


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    directory = write(tmp_path / "p", interval(1, changes(*((1, 3 * page, 1.5**page) for page in range(60)))))
    path = directory / "pages" / "part-000001.parquet"
    content = path.read_bytes()
    before = ProfileReader(directory).snapshot().pages
    for place in range(0, len(content), 17):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        after = ProfileReader(directory).snapshot()
        if not after.problems:  # in what hotpage does not read, such as the statistics
            for ours, theirs in zip(after.pages.columns(), before.columns(), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_names_that_are_not_utf8_are_kept_as_escapes_in_the_run_as_well(tmp_path):
    """The kernel cuts a process's name at 15 bytes, wherever that is."""
    run = run_info(target="process 7 (na\udcc3)", command_line=("hotpage", "record", "--", "./b\udce9"))
    ProfileWriter(tmp_path / "p", run).interval(interval(1, changes((1, 1, 1.0))))
    stored = ProfileReader(tmp_path / "p").snapshot().run
    assert (stored.target, stored.command_line[-1]) == ("process 7 (na\\udcc3)", "./b\\udce9")


def test_what_was_unmapped_stays_so_however_many_pages_there_are(tmp_path, monkeypatch):
    steps = [
        interval(1, changes((1, 10, 1.0), (1, 11, 1.0))),
        interval(2, changes((1, 12, 1.0), (1, 20, 1.0))),
        interval(3, changes((1, 11, 2.0)), cleared=[ClearedRange(1, 10, 13)]),
        interval(4, changes((1, 13, 1.0)), cleared=[ClearedRange(1, 20, 21)]),
    ]
    write(tmp_path / "p", *steps)
    for batch_rows in (1, 3, 1000):
        monkeypatch.setattr(fold, "_BATCH_ROWS", batch_rows)
        reader = ProfileReader(tmp_path / "p")
        assert rates(reader.snapshot(), 1) == {11: 2.0, 13: 1.0}
        assert rates(reader.snapshot(at_s=3.0), 1) == {11: 2.0, 20: 1.0}


def test_a_profile_of_another_user(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(ProfileError, match="cannot be read"):
        ProfileReader(tmp_path)
