# SPDX-License-Identifier: Apache-2.0
"""Everything but the call: what move_pages would be asked for, and what it would find in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hotpage.machine.identity import ProcessHandle
from hotpage.machine.numa import MovePages
from hotpage.placement.movers import MoveProgress
from hotpage.placement.movers.move_pages import Kernel
from hotpage.placement.outcome import MoveOutcome, Outcome, Result
from hotpage.placement.plan import Plan, ProcessFacts


class DryRunMover:
    """Asks where every page is, and moves none."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel or MovePages()

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
            facts = processes[move.process]
            handle = ProcessHandle.open(facts.pid, facts.start_time_ticks, facts.image)
            if handle is None:
                result = np.full(len(move.vpn), Result.GONE, np.uint8)
            else:
                with handle:
                    node = self._kernel.query(handle.pid, move.vpn)
                result = np.where(node == move.source, Result.PLANNED, Result.ELSEWHERE).astype(np.uint8)
                result[node == move.target] = Result.ALREADY
                result[node < 0] = Result.NOT_PRESENT
            outcomes.append(MoveOutcome(move, np.repeat(result, move.pages)))
        return Outcome(outcomes)
