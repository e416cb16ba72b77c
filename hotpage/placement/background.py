# SPDX-License-Identifier: Apache-2.0
"""Plans and moves in a thread of its own, for a view that goes on meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum, auto

from hotpage.errors import HotpageError
from hotpage.machine.folios import PAGE_BYTES
from hotpage.placement.chosen import Proposal, Wish
from hotpage.placement.movelog import MoveLog
from hotpage.placement.movers import MoveProgress, Mover
from hotpage.placement.outcome import Outcome


class Stage(Enum):
    """How far a job is."""

    PLANNING = auto()
    PROPOSED = auto()
    MOVING = auto()
    DONE = auto()
    FAILED = auto()


class MoveJob:
    """A wish on its way. The mover's thread writes, everybody reads; ``problem``: why it failed."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.stage = Stage.PLANNING
        self.proposal: Proposal | None = None
        self.progress: MoveProgress | None = None
        self.outcome: Outcome | None = None
        self.problem = ""
        self.is_cancelled = False

    @property
    def is_moving(self) -> bool:
        """Whether pages are on their way."""
        return self.stage is Stage.MOVING

    def cancel(self) -> None:
        """Stop: no further call is made, and what has moved stays where it is."""
        self.is_cancelled = True


class BackgroundMover:
    """One job at a time, in the order of their coming; ``log`` gets what became of them.

    ``prepare`` is called first in the thread: the place to drop the privileges that moving does not need.
    """

    def __init__(
        self,
        propose: Callable[[Wish], Proposal],
        open_mover: Callable[[], Mover],
        log: MoveLog,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self._propose = propose
        self._open_mover = open_mover
        self.log = log
        self._mover: Mover | None = None
        self._jobs: list[MoveJob] = []
        self._pool = ThreadPoolExecutor(1, "mover", prepare)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The thread starts here, with the privileges of this one; on leaving, no page is on its way."""
        with self._pool:
            self._pool.submit(lambda: None).result()
            try:
                yield
            finally:
                for job in self._jobs:
                    job.cancel()

    def propose(self, wish: Wish) -> MoveJob:
        """Begin to plan, and to try it without moving anything."""
        job = MoveJob(wish)
        self._jobs = [one for one in self._jobs if one.is_moving] + [job]
        self._pool.submit(self._guarded, job, self._plan)
        return job

    def carry_out(self, job: MoveJob) -> None:
        """Begin to move what was proposed."""
        if job.stage is Stage.PROPOSED:
            job.stage = Stage.MOVING
            self._pool.submit(self._guarded, job, self._move)

    def _guarded(self, job: MoveJob, work: Callable[[MoveJob], None]) -> None:
        try:
            if not job.is_cancelled or job.is_moving:
                work(job)
        except (HotpageError, OSError) as error:
            job.problem = str(error)
        except BaseException as error:
            job.problem = f"{type(error).__name__}: {error}"
            raise
        finally:
            if job.problem:
                job.stage = Stage.FAILED

    def _plan(self, job: MoveJob) -> None:
        job.proposal = self._propose(job.wish)
        job.stage = Stage.PROPOSED

    def _move(self, job: MoveJob) -> None:
        assert job.proposal is not None
        if self._mover is None:
            self._mover = self._open_mover()

        def on_progress(progress: MoveProgress) -> None:
            before = job.progress.moved_bytes if job.progress is not None else 0
            job.progress = progress
            self.log.note_moved(job.wish.process, (progress.moved_bytes - before) // PAGE_BYTES)

        plan, processes = job.proposal.plan, job.proposal.processes
        job.outcome = self._mover.run(plan, processes, lambda: job.is_cancelled, on_progress)
        self.log.note(job.outcome)
        job.stage = Stage.DONE
