# SPDX-License-Identifier: Apache-2.0
"""Everything but the call: what move_pages would be asked for, and what it would find in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hotpage.placement.movers import MoveProgress
from hotpage.placement.movers.whereabouts import Whereabouts
from hotpage.placement.outcome import MoveOutcome, Outcome, Result
from hotpage.placement.plan import Plan, ProcessFacts


class DryRunMover:
    """Asks where every page is, and moves none."""

    def __init__(self, where: Whereabouts | None = None) -> None:
        self._where = where or Whereabouts.here()

    def run(
        self,
        plan: Plan,
        processes: Mapping[int, ProcessFacts],
        should_stop: Callable[[], object] = lambda: None,
        on_progress: Callable[[MoveProgress], None] = lambda progress: None,
    ) -> Outcome:
        """As MovePagesMover.run; pages that would be asked for are PLANNED."""
        outcomes = []
        for move in plan.moves:
            results = self._where.results(move, processes[move.process], move.vpn)
            results[results == Result.UNTRIED] = Result.PLANNED
            outcomes.append(MoveOutcome(move, np.repeat(results, move.pages)))
        return Outcome(outcomes)
