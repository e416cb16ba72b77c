# SPDX-License-Identifier: Apache-2.0
"""What carries plans out, one file each: a class with ``run``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from hotpage.placement.outcome import Outcome
from hotpage.placement.plan import Plan, ProcessFacts


@dataclass(frozen=True)
class MoveProgress:
    """Bytes so far, of all moves of the plan."""

    requested_bytes: int
    settled_bytes: int
    moved_bytes: int


class Mover(Protocol):
    """Carries a plan out, in its order, and accounts for every page of it."""

    def run(
        self,
        plan: Plan,
        processes: Mapping[int, ProcessFacts],
        should_stop: Callable[[], object] = ...,
        on_progress: Callable[[MoveProgress], None] = ...,
    ) -> Outcome:
        """What became of each page; what was not tried when ``should_stop`` said so is among it."""
