# SPDX-License-Identifier: Apache-2.0
"""Where events come from. A source is one file here with a ``LADDER``.

A source walks a ladder of rungs, best first. A rung names the programs it needs and where they attach, and
can say, by trying, why it does not work here. Capture compiles the chosen rungs of all sources as one unit.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol

from hotpage.capture.events import EventSource
from hotpage.capture.kernel import Kernel
from hotpage.capture.perf import PerfEvent
from hotpage.errors import HotpageError


@dataclass(frozen=True)
class Attachment:
    """One program and its hook. ``kind``: raw_tracepoint, fentry, kprobe, or perf_event: ``event`` on every
    CPU that has it.
    """

    kind: str
    hook: str
    function: str
    optional: bool = False
    """Without it the rung still works, only less exactly."""
    event: PerfEvent | None = None


@dataclass(frozen=True)
class Rung:
    """One way to get a source's events: what to compile, what to attach."""

    name: str
    files: tuple[str, ...]
    attachments: tuple[Attachment, ...]
    defines: dict[str, int] = field(default_factory=dict)
    walks_page_tables: bool = False
    """The programs must find the direct map first (capture.calibration)."""
    only_by_name: bool = False
    """Taken when insisted on, never chosen: for tests."""
    samples_page_faults: bool = False
    """Memory samples that are page faults, which the self-test can cause."""
    at_addresses: Callable[[tuple[int, ...]], Rung] | None = None
    """Makes the rung that watches these addresses, ``NAME:ADDRESS:ADDRESS...``; raises UsageError."""

    def clashes_with(self, other: Rung) -> bool:
        """Whether one fault would be emitted twice: programs of one file, attached to different hooks."""
        share_files = set(self.files) & set(other.files)
        return bool(share_files) and not set(self.attachments) & set(other.attachments)


class RungFailed(HotpageError):
    """A rung whose hooks could be tried did not work after all; ``sources`` have chosen it."""

    def __init__(self, sources: Iterable[str], problem: str, remedy: str | None = None) -> None:
        super().__init__(problem, remedy)
        self.sources = tuple(sources)


class Ladder(Protocol):
    """A source of events."""

    name: str
    """As in ``--source NAME``."""
    events: EventSource
    """What its records are."""

    def rungs(self, kernel: Kernel) -> list[Rung]:
        """All rungs, best first, whether they work here or not."""

    def refusal(self, rung: Rung, kernel: Kernel) -> str | None:
        """Why the rung cannot work here, found out by trying; None if it can."""


def ladders() -> dict[str, Ladder]:
    """All sources by name."""
    found: list[Ladder] = [
        import_module(f"{__name__}.{module.name}").LADDER for module in pkgutil.iter_modules(__path__)
    ]
    return {ladder.name: ladder for ladder in sorted(found, key=lambda ladder: ladder.name)}


def refusal_of_attachments(attachments: Iterable[Attachment], kernel: Kernel) -> str | None:
    """Try every hook that a rung cannot do without; the first refusal."""
    for attachment in attachments:
        if attachment.optional:
            continue
        problem = kernel.refusal(attachment.kind, attachment.hook, attachment.event)
        if problem is not None:
            return f"{attachment.kind.replace('_', ' ')} {attachment.hook}: {problem}"
    return None
