# SPDX-License-Identifier: Apache-2.0
"""What the service is made of: where pages are, what outlives it, whom it tells what."""

import json
import os
import socket
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from serviceworld import BASE, FAST, PAGE, SLOW, World

from hotpage.errors import HotpageError, KnobError, SessionConflictError, TargetError, UsageError
from hotpage.heat.results import Folios
from hotpage.placement.outcome import MoveOutcome, Outcome, Result
from hotpage.placement.plan import Move
from hotpage.recording.session import Progress
from hotpage.service import control as control_module
from hotpage.service import learned
from hotpage.service.configuration import ConfigError
from hotpage.service.control import Control, ask
from hotpage.service.decisions import RecentMoves, explain, lines
from hotpage.service.figures import DECADES, fast_share, heat_by_tier
from hotpage.service.metrics import Exporter, ServiceMetrics
from hotpage.service.nodemap import NodeMap
from hotpage.service.notify import Notifier
from hotpage.service.reporting import Reporter, parts_of

# Where pages are

_VPNS = st.lists(st.integers(0, 3000), unique=True, max_size=60).map(sorted)


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "put", "doubt", "move"]), _VPNS, st.integers(0, 3)), max_size=12
    )
)
def test_a_node_map_is_a_dictionary(steps: list[tuple[str, list[int], int]]) -> None:
    truth: dict[int, int] = {}
    known: dict[int, int] = {}
    chunks: set[int] = set()
    nodes = NodeMap()
    for what, vpns, node in steps:
        vpn = np.array(vpns, np.int64)
        if what == "move":  # behind its back
            truth.update(dict.fromkeys(vpns, node))
        elif what == "put":
            nodes.put(vpn, node)
            known |= {one: node for one in vpns if one >> 9 in chunks}
        elif what == "doubt":
            nodes.doubt(vpn)
            known = {one: where for one, where in known.items() if one not in vpns}
        else:
            asked: list[int] = []

            def query(some: Any, asked: list[int] = asked, truth: dict[int, int] = truth) -> Any:
                asked += some.tolist()
                return np.array([truth.get(one, -2) for one in some.tolist()], np.int32)

            found = nodes.nodes(vpn, query).tolist()
            assert set(asked) >= set(vpns) - known.keys()
            for one, where in zip(vpns, found, strict=True):
                assert where == (truth.get(one, -1) if one in asked else known[one])
            chunks = {one >> 9 for one in vpns}
            known = {one: where for one, where in known.items() if one >> 9 in chunks}
            known |= dict(zip(vpns, found, strict=True))


def test_within_a_whole_age_every_page_is_asked_about_again() -> None:
    nodes, vpn = NodeMap(), np.arange(0, 20_000, 3)
    asked: list[int] = []

    def query(some: Any) -> Any:
        asked.extend(some.tolist())
        return np.zeros(some.size, np.int32)

    nodes.nodes(vpn, query)
    asked.clear()
    for _ in range(11):
        nodes.age(0.1)
        before = len(asked)
        nodes.nodes(vpn, query)
        assert len(asked) - before <= vpn.size / 5
    assert set(asked) == set(vpn.tolist())
    assert nodes.nbytes < 2 * 20_000 + 1000


# What outlives the service


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def saved(tmp_path: Path, **changed: object) -> World:
    world = World()
    world.rate[:10] = np.nan
    world.rate[10:20] = 500.0
    picture = world.picture()
    run = SimpleNamespace(boot_id=changed.get("boot_id", boot_id()))
    learned.save(tmp_path, SimpleNamespace(**{**vars(picture), "run": run}))  # type: ignore[arg-type]
    return world


def test_rates_are_taken_up_by_the_next_service(tmp_path: Path) -> None:
    world = saved(tmp_path)
    before = learned.load(tmp_path)
    assert before is not None and 0 <= before.age_s < 60
    process = world.picture().processes[0].process
    nothing = np.empty(0, np.float32)
    empty = Folios(np.empty(0, np.int64), np.empty(0, np.int32), nothing, nothing, nothing)
    found = before.fill(process, empty, 1.0)
    assert found.vpn.tolist() == world.vpn[10:].tolist()
    assert (found.rate_hz[:10] == 500.0).all() and (found.relative_error >= 0.5).all()
    # What is known now counts; what is not known yet is taken from before; what nobody knew stays unknown.
    rate = np.array([7.0, np.nan, np.nan], np.float32)
    now = Folios(world.vpn[[12, 13, 3]][[2, 0, 1]], np.ones(3, np.int32), rate[[2, 0, 1]], rate, rate)
    found = before.fill(process, now, 1.0)
    by_vpn = dict(zip(found.vpn.tolist(), found.rate_hz.tolist(), strict=True))
    assert len(by_vpn) == len(found) == world.vpn.size - 9
    assert by_vpn[BASE + 12] == 7.0 and by_vpn[BASE + 13] == 500.0 and np.isnan(by_vpn[BASE + 3])
    assert before.fill(process, now, learned.TRUSTED_S + 1) is now, "too old by now"
    stranger = SimpleNamespace(pid=process.pid, start_time_ticks=process.start_time_ticks + 1)
    assert before.fill(stranger, now, 1.0) is now  # type: ignore[arg-type]


def test_what_is_old_foreign_or_damaged_is_worth_nothing(tmp_path: Path) -> None:
    assert learned.load(tmp_path) is None
    saved(tmp_path)
    assert learned.load(tmp_path, time.time() + learned.TRUSTED_S + 10) is None
    assert learned.load(tmp_path, time.time() - 1000) is None, "written in the future"
    file = tmp_path / "rates.npz"
    whole = file.read_bytes()
    for cut in range(0, len(whole), 997):
        file.write_bytes(whole[:cut])
        with pytest.raises(learned.DamagedError, match=r"rates\.npz is damaged \(.+\)$"):
            learned.load(tmp_path)
    directory = whole.rindex(b"PK\x01\x02", 0, whole.rindex(b"header.npy"))
    # The version that it takes to unpack, "encrypted", how it is packed, and by deflate, which it is not.
    for place, value in ((6, 99), (8, 1), (10, 99), (10, 8)):
        file.write_bytes(whole[: directory + place] + bytes([value]) + whole[directory + place + 1 :])
        with pytest.raises(learned.DamagedError, match="is damaged"):
            learned.load(tmp_path)
    saved(tmp_path, boot_id="another")
    assert learned.load(tmp_path) is None


def test_a_write_that_is_cut_off_leaves_the_one_before(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "rates.npz.new").write_bytes(b"half of it")
    assert learned.load(tmp_path) is not None


# Whom it tells what


def test_systemd_is_told(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name)
        systemd.settimeout(10)
        now = [0.0]
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"}, lambda: now[0])
        notifier.ready("runs")
        assert systemd.recv(200) == b"READY=1\nSTATUS=runs"
        for now[0] in (0.0, 5.0, 9.9, 10.0, 11.0):
            notifier.alive()
        notifier.stopping()
        assert [systemd.recv(200) for _ in range(3)] == [b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]
        notifier.reloading()
        assert systemd.recv(200).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        notifier.status("\udcff")
        assert systemd.recv(200) == b"STATUS=?"


def test_nobody_listens() -> None:
    Notifier({}).ready("runs")
    Notifier({}).alive()
    Notifier({"NOTIFY_SOCKET": "/nowhere/at/all"}).stopping()


def test_a_question_is_answered(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)  # sockets' addresses are short
    with Control(directory) as control:

        def answer() -> None:
            question = control.questions.get(timeout=60)
            question.reply({"pid": question.pid, "address": question.address})

        thread = threading.Thread(target=answer)
        thread.start()
        assert ask(directory, 7, 0x7F0000001000) == {"pid": 7, "address": 0x7F0000001000}
        thread.join()
        assert (directory / "auto.sock").stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as rude:  # nonsense ends the connection, not the service
            fd = os.open(directory, os.O_PATH)
            rude.connect(f"/proc/self/fd/{fd}/auto.sock")
            os.close(fd)
            rude.sendall(b"nonsense\n")
            assert rude.recv(10) == b""
        with pytest.raises(SessionConflictError, match="another hotpage auto runs"), Control(directory):
            pass
    with pytest.raises(TargetError, match="no hotpage auto answers"):
        ask(directory, 7, 0)


def test_a_state_directory_that_cannot_be_used_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    """As one: systemd is told not to start the service again."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="set another state_dir") as raised, Control(tmp_path / "file" / "x"):
        pass
    assert raised.value.exit_status == ConfigError.exit_status


def test_a_question_that_stays_open_keeps_no_other_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "ANSWER_TIMEOUT_S", 0.0)
    with (
        Control(tmp_path) as control,
        socket.socket(socket.AF_UNIX) as one,
        socket.socket(socket.AF_UNIX) as two,
    ):
        for pid, connection in ((7, one), (8, two)):
            with control_module._short_path(tmp_path) as path:
                connection.connect(path)
            connection.sendall(b'{"pid": %d, "address": 0}\n' % pid)
        assert [control.questions.get(timeout=60).pid for _ in range(2)] == [7, 8]


def test_a_question_at_the_end_gets_no_answer_but_a_word(tmp_path: Path) -> None:
    said: list[str] = []

    def question() -> None:
        try:
            ask(tmp_path, 7, 0)
        except TargetError as error:
            said.append(str(error))

    with Control(tmp_path) as control:
        thread = threading.Thread(target=question)
        thread.start()
        control.questions.get(timeout=60)
    thread.join(60)
    assert said == [f"the service in {tmp_path} ended before it answered"]


def test_a_state_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HotpageError, match="set another state_dir"), Control(tmp_path / "file" / "x"):
        pass


# Why a page is where it is


def moved_world() -> World:
    world = World()
    world.rate[:] = 0.01
    world.rate[100:300] = 1000.0
    world.refused = {BASE + 100: Result.PINNED}
    return world


def test_why() -> None:
    world = moved_world()
    first = world.step()
    answer = explain(first.situation, first.plan, world.keeper.log, world.pid, (BASE + 150) * PAGE + 17)
    assert answer["reason"] == "goes to node 0: among the hottest that fit"
    assert answer["node"] == SLOW and answer["rate_hz"] == 1000.0
    step = world.step(after_s=5.0)

    def why(vpn: int) -> tuple[dict[str, Any], list[str]]:
        found = explain(step.situation, step.plan, world.keeper.log, world.pid, vpn * PAGE)
        return json.loads(json.dumps(found)), list(lines(found))

    answer, text = why(BASE + 150)
    assert answer["reason"] == "among the hottest, and in fast memory already"
    assert answer["moves"] == [{"ago_s": 5.0, "source": SLOW, "target": FAST, "result": "moved"}]
    assert text[1:3] == [
        "where     node 0, tier 0",
        "rate      1k accesses/s, lately 1k; standard error 10 %",
    ]
    assert text[-1] == "moved     5 s ago, node 1 -> 0: moved"
    assert why(BASE + 100)[0]["reason"] == "failed to move a short while ago"
    assert why(BASE + 100)[0]["moves"][0]["result"] == "pinned"
    assert why(BASE + 700)[0]["reason"] == "a move would not gain enough"
    assert "never seen" in why(BASE + 5000)[0]["reason"]
    assert "problem" in explain(step.situation, step.plan, world.keeper.log, 1, 0)
    strange = answer | {"comm": "\udcff\x1b[31m", "cgroup": "/a\x1bc"}
    assert next(lines(strange)).endswith(rf"process {world.pid} (\udcff\x1b[31m) in /a\x1bc")


def test_every_page_has_a_part_with_a_reason() -> None:
    world = moved_world()
    step = world.step()
    text = list(parts_of(step, world.pid))
    assert [line.split()[0] for line in text] == [
        f"{(BASE + low) << 12:x}-{(BASE + high) << 12:x}" for low, high in ((0, 100), (100, 300), (300, 1024))
    ]
    assert text[1].endswith("moves") and text[0].endswith("a move would not gain enough")
    assert "not looked after" in next(parts_of(step, 1))


def test_the_log_of_moves_is_bounded_and_knows_pages_of_huge_pages() -> None:
    log = RecentMoves(most_pages=2000)
    for number in range(10):
        vpn, pages = np.array([10, 512]), np.array([1, 512], np.int32)
        results = np.full(513, Result.MOVED, np.uint8)
        results[1 + 7] = Result.BUSY
        move = Move(0, SLOW, FAST, True, "", vpn, pages, 1.0, 1.0, 1.0)
        log.note(Outcome([MoveOutcome(move, results)]), float(number))
    assert [one.time_s for one in log.of(0, 10)] == [9.0, 8.0, 7.0]
    assert next(log.of(0, 519)).result.startswith("busy")
    assert next(log.of(0, 520)).result == "moved"
    assert not list(log.of(0, 11)) and not list(log.of(1, 10)) and not list(log.of(0, 1024))


def test_the_decision_log_is_bounded(tmp_path: Path) -> None:
    world = moved_world()
    step = world.step()
    said: list[str] = []
    reporter = Reporter(said.append, None, is_once=False)
    reporter._log = tmp_path / "decisions.jsonl"
    for _ in range(3):
        reporter.step(step)
    documents = [json.loads(line) for line in reporter._log.read_text().splitlines()]
    assert [one["result"]["moved_bytes"] for one in documents] == [199 * PAGE] * 3
    line = "800K up, 0 down: moved 796K in 0.01 s, 4K not (pinned); hot from <0.01/s; 0 % of accesses to fast"
    assert said == [line + " memory"] * 3
    reporter._log.write_text("x" * (1 << 20) + "x")
    reporter.step(step)
    assert len(reporter._log.read_text().splitlines()) == 1
    assert (tmp_path / "decisions.jsonl.1").stat().st_size > 1 << 20


def test_the_same_is_not_said_again(tmp_path: Path) -> None:
    world = moved_world()
    world.rate[:] = 0.01
    said: list[str] = []
    reporter = Reporter(said.append, None, is_once=False)
    for _ in range(5):
        reporter.step(world.step())
    assert len(said) == 1 and said[0].startswith("nothing to move: ")


def test_what_keeps_a_plan_from_being_carried_out_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    world = moved_world()
    said: list[str] = []
    reporter, once = Reporter(said.append, None, False), Reporter(said.append, None, True)
    for text in ("another hotpage arms", "another hotpage arms", "no space left"):
        world.obstacle = KnobError(text)
        step = world.step()
        assert step.outcome is None and step.plan.moves
        reporter.step(step)
    assert [line.split(";")[0] for line in said] == [
        "cannot move: another hotpage arms", "cannot move: no space left",
    ]  # fmt: skip
    once.step(step)
    assert "cannot move: no space left" in capsys.readouterr().out
    world.obstacle = None
    reporter.step(world.step())
    assert "moved 796K" in said[-1]


# Metrics


def test_heat_by_tier_adds_up() -> None:
    world = moved_world()
    world.rate[:7] = np.nan
    step = world.step()
    heat = heat_by_tier(step.situation)
    assert heat[1].unknown_bytes == 7 * PAGE
    assert sum(heat[1].bytes_by_decade) == (1024 - 7) * PAGE and sum(heat[0].bytes_by_decade) == 0
    assert heat[1].bytes_by_decade[DECADES.index(3)] == 200 * PAGE
    assert fast_share(heat) == 0.0
    heat = heat_by_tier(world.step().situation)
    assert heat[0].accesses_hz == pytest.approx(199_000.0)
    assert fast_share(heat) == pytest.approx(199_000 / (200_000 + 817 * 0.01))


def served(world: World, step: Any) -> tuple[Exporter, SimpleNamespace]:
    progress = Progress(received={"hint": 5}, lost={"hint": 1}, sampled_out={"hint": 2}, tracked_pages=9)
    service = SimpleNamespace(
        configuration=world.configuration, session=SimpleNamespace(progress=progress), keeper=world.keeper
    )
    metrics = ServiceMetrics(service)  # type: ignore[arg-type]
    metrics.note(step)
    return Exporter(metrics), service


def scrape(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_served_and_add_up() -> None:
    world = moved_world()
    step = world.step()
    exporter, _ = served(world, step)
    exporter.serve("127.0.0.1:0")
    try:
        found = scrape(exporter.port)
    finally:
        exporter.close()
    assert found["hotpage_moved_bytes_total", "moved", "promotion"] == 199 * PAGE
    assert found["hotpage_moved_bytes_total", "pinned", "promotion"] == PAGE
    assert found["hotpage_events_lost_total", "hint"] == 1
    assert found["hotpage_page_rate_bucket", "+Inf", "1"] == 1024 * PAGE
    assert found["hotpage_page_rate_bucket", "1", "100"] == 824 * PAGE
    assert found["hotpage_resident_bytes",] > 1 << 20
    assert found["hotpage_plans_total",] == 1
    kept = sum(value for key, value in found.items() if key[0] == "hotpage_kept_bytes")
    assert kept + found["hotpage_planned_bytes",] == 1024 * PAGE
    with pytest.raises(OSError):
        scrape(exporter.port)


def test_an_address_in_use_is_one_line() -> None:
    world = moved_world()
    exporter, _ = served(world, world.step())
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(HotpageError, match=r"metrics cannot be served at 127.0.0.1:\d+"):
            exporter.serve(f"127.0.0.1:{other.getsockname()[1]}")
    exporter.serve("")
    exporter.close()


def test_metrics_move_to_an_address_that_the_old_one_stands_in_the_way_of() -> None:
    world = moved_world()
    exporter, _ = served(world, world.step())
    try:
        exporter.serve("127.0.0.1:0")
        port = exporter.port
        assert exporter.serve(f"0.0.0.0:{port}")
        assert exporter.port == port and scrape(port)["hotpage_plans_total",] == 1
    finally:
        exporter.close()


def test_metrics_are_served_where_they_were_if_the_new_address_cannot_be_had() -> None:
    world = moved_world()
    exporter, _ = served(world, world.step())
    exporter.serve("127.0.0.1:0")
    try:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            with pytest.raises(HotpageError, match="metrics cannot be served"):
                exporter.serve(f"127.0.0.1:{other.getsockname()[1]}")
        assert scrape(exporter.port)["hotpage_plans_total",] == 1
    finally:
        exporter.close()
