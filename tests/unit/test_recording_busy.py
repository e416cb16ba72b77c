# SPDX-License-Identifier: Apache-2.0
"""Which processes run, by what /proc says of their CPU time."""

from hotpage.recording.busy import BusyProcesses


class World:
    def __init__(self, count: int) -> None:
        self.cpu_s = dict.fromkeys(range(1, count + 1), 1.0)
        self.read: list[int] = []
        self.busy = BusyProcesses(lambda: sorted(self.cpu_s), self.cpu_of)
        self.now_s = 0.0

    def cpu_of(self, pid: int) -> float | None:
        self.read.append(pid)
        return self.cpu_s.get(pid)

    def looks(self, ticks: int, known: tuple[int, ...] = (), tick_s: float = 0.125) -> list[int]:
        found: list[int] = []
        for _ in range(ticks):
            found += self.busy.look(self.now_s, lambda pid: pid in known)
            self.now_s += tick_s
        return found


def test_those_that_ran_since_the_round_before() -> None:
    world = World(5)
    assert world.looks(20) == [], "nobody is known to run by the first look"
    world.cpu_s[3] += 0.01
    assert world.looks(20) == [3]
    assert world.looks(40) == []
    world.cpu_s[4] += 1
    assert world.looks(40, known=(4,)) == []


def test_of_thousands_a_few_are_read_at_a_time() -> None:
    world = World(1000)
    world.looks(1)
    assert 0 < len(world.read) <= 50
    world.looks(60)
    assert set(world.read) == set(world.cpu_s)
    world.cpu_s[900] += 1
    assert world.looks(60) == [900]


def test_they_are_not_read_more_often_where_ticks_are_short() -> None:
    world = World(1000)
    world.looks(64, tick_s=1 / 64)
    assert 300 < len(world.read) <= 400


def test_those_that_go_and_come_are_not_busy_for_that() -> None:
    world = World(3)
    world.looks(20)
    del world.cpu_s[2]
    world.cpu_s[4] = 7.0
    assert world.looks(40) == []
    world.cpu_s[2] = 0.5
    assert world.looks(40) == []
