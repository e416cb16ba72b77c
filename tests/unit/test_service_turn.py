# SPDX-License-Identifier: Apache-2.0
"""Silent memory of which a plan may look at a part only: the plans go round."""

import numpy as np
from profiles import armed

from hotpage.arrays import Int64s
from hotpage.placement.silent import SilentMemory
from hotpage.service.nodemap import NodeMap
from hotpage.service.turn import Turn

BASE, PAGES = 0x7F000000, 20_000
FAST = frozenset({0})
NONE = np.empty(0, np.int64)


def memory(pages: int = PAGES, tracked: Int64s = NONE) -> SilentMemory:
    return SilentMemory(armed(BASE, BASE + pages), [(0, 1 << 40)], tracked, np.ones(tracked.size, np.int32))


class Plans:
    """Plans of one process, of which only the pages in ``fast`` are on the fast node."""

    def __init__(self, fast: list[int], most_pages: int, new_pages: int) -> None:
        self.fast = BASE + np.array(fast)
        self.nodes, self.turn = NodeMap(), Turn(most_pages, new_pages)
        self.asked = 0

    def _where(self, vpn: Int64s) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        self.asked += vpn.size
        return np.where(np.isin(vpn, self.fast), 0, 1).astype(np.int32)

    def next(self, of: SilentMemory) -> list[int]:
        vpn = self.turn.take(of, self.nodes, FAST)
        assert (np.diff(vpn) > 0).all()
        self.nodes.nodes(vpn, self._where)
        return (vpn - BASE).tolist()


def test_what_one_plan_may_look_at_is_looked_at_whole() -> None:
    plans = Plans([5, 900], 1000, 100)
    for _ in range(3):
        assert plans.next(memory(999)) == [*range(999)]
    assert plans.asked == 999


def test_every_page_has_its_turn_and_those_in_fast_memory_stay() -> None:
    fast = [3, 2000, 2001, 9000, 19_999]
    plans = Plans(fast, 8000, 1000)
    assert plans.next(memory()) == [*range(8000)]
    assert plans.next(memory()) == [3, 2000, 2001, *range(8000, 9000)]
    seen = [plans.next(memory()) for _ in range(11)]
    assert seen[0] == [3, 2000, 2001, *range(9000, 10_000)]
    assert seen[-1] == [3, 2000, 2001, 9000, *range(19_000, 20_000)]
    assert plans.next(memory()) == [*range(1000), 2000, 2001, 9000, 19_999], "from the lowest address on"
    plans.nodes.put(np.array([BASE + 9000]), 1)
    assert plans.next(memory()) == [3, *range(1000, 2000), 2000, 2001, 19_999]


def test_of_too_many_in_fast_memory_the_latest_stay() -> None:
    plans = Plans([*range(PAGES)], 4000, 1000)
    for number in range(17):
        assert plans.next(memory()) == [*range(number * 1000, number * 1000 + 4000)]
    assert plans.next(memory()) == [*range(1000), *range(17_000, PAGES)]


def test_pages_with_a_row_do_not_count() -> None:
    tracked = BASE + np.arange(19_500)
    assert Plans([], 1000, 100).next(memory(tracked=tracked)) == [*range(19_500, PAGES)]
    plans = Plans([*range(PAGES)], 1000, 100)
    plans.next(memory())
    assert plans.next(memory(tracked=BASE + np.arange(500, 900))) == [*range(500), *range(900, 1100)]
