# SPDX-License-Identifier: Apache-2.0
"""Plans and outcomes as people and programs read them."""

from dataclasses import replace

import numpy as np
from situations import PAGE, facts

from hotpage.placement.outcome import MoveOutcome, Outcome, Result
from hotpage.placement.plan import Fate, Move, Plan
from hotpage.views.moves import move_document, outcome_lines, plan_lines, why_not_moved


def plan() -> Plan:
    pages = np.array([1, 512], np.int32)
    move = Move(0, 1, 0, True, "among the hottest", np.array([7, 512]), pages, 2.5, 0.002, 90.0)
    return Plan("fit", (move,), {Fate.UNKNOWN: 3 * PAGE}, hot_hz=50.0)


def outcome(result: Result, **more: object) -> Outcome:
    results = np.full(513, result, np.uint8)
    return Outcome([MoveOutcome(plan().moves[0], results)], **more)  # type: ignore[arg-type]


def test_a_plan_says_what_moves_what_stays_and_why() -> None:
    head, row, total, stays = (text.plain for text in plan_lines(plan(), {0: facts()}))
    assert head.split() == ["PID", "COMMAND", "NODE", "SIZE", "ACC/S", "SAVES", "COSTS", "WHY"]
    assert row.split()[:4] == ["100", "worker", "1", "->"] and row.endswith("among the hottest")
    assert total == "policy fit: 2M to move; hot from 50 accesses/s a page"
    assert stays.strip() == "12K stays: never observed, so its rate is unknown"


def test_no_name_reaches_the_terminal_as_it_is() -> None:
    stranger = replace(facts(), comm=b"\xff\x1b[31m".decode(errors="surrogateescape"))
    row = list(plan_lines(plan(), {0: stranger}))[1].plain
    assert row.isprintable() and row.split()[1] == r"\udcff\x1b[31m"


def test_an_outcome_says_what_became_of_every_byte_and_what_else_happened() -> None:
    lines = [text.plain.strip() for text in outcome_lines(outcome(Result.LEFT, notes=("so it was",)))]
    assert lines == ["2M where it was: the kernel chose other pages, or put it back", "so it was"]
    moved = outcome(Result.MOVED, calls=2, call_s=0.5, elapsed_s=1.0, longest_call_s=0.3)
    assert [text.plain.strip() for text in outcome_lines(moved)] == [
        "2M moved",
        "2M asked for, in 2 calls and 1 s; 4.01M/s while moving, longest call 300.0 ms",
    ]
    assert why_not_moved(outcome(Result.PINNED)) == "pinned"


def test_programs_get_bytes() -> None:
    document = move_document(plan(), {0: facts()}, outcome(Result.MOVED, notes=("a",)))
    assert document["planned_bytes"] == 513 * PAGE and document["kept_bytes"] == {"unknown": 3 * PAGE}
    assert document["result"]["bytes"] == {"moved": 513 * PAGE}
    assert document["result"]["notes"] == ["a"]
    assert "result" not in move_document(plan(), {0: facts()}, None)
