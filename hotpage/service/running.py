# SPDX-License-Identifier: Apache-2.0
"""From what the command line says to a service that runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from hotpage.machine.capabilities import keep_only
from hotpage.machine.signals import STOP_SIGNALS, Orders, heeding_signals
from hotpage.service.configuration import Configuration, load, named_targets
from hotpage.service.loop import NEEDED, Service
from hotpage.service.reporting import Reporter


@dataclass(frozen=True)
class Given:
    """What the command line says. ``config``: the file's path; ``targets``: a document of that section, which
    replaces the file's; ``once_after_s``: one round after so long a look, and no more.
    """

    config: str | None = None
    targets: dict[str, Any] | None = None
    dry_run: bool = False
    once_after_s: float | None = None
    explain: int | None = None

    def read(self) -> Configuration:
        """The configuration as it is now. Raises ConfigError and UsageError."""
        configuration = Configuration() if self.config is None else load(Path(self.config))
        if self.targets is not None:
            targets = named_targets(self.targets)
            cgroups = [
                next((known for known in configuration.targets.cgroups if known.path == group.path), group)
                for group in targets.cgroups
            ]
            configuration = replace(configuration, targets=replace(targets, cgroups=cgroups))
        return replace(configuration, dry_run=True) if self.dry_run else configuration


def become(given: Given) -> NoReturn:
    """Go on as another program in this process: one that has not read a command line.

    What that takes (typer, pydantic) would be a fifth of the resident memory, for good.
    """
    words = [sys.executable, "-P", "-m", "hotpage.service", json.dumps(asdict(given))]
    sys.stdout.flush()
    # numpy's linear algebra would start a thread per CPU that nobody needs.
    os.execve(sys.executable, words, os.environ | {"OPENBLAS_NUM_THREADS": "1"})


def run(given: Given, configuration: Configuration) -> None:
    """Run until a signal says otherwise; root, with all capabilities but the needed ones dropped.

    ``configuration``: what ``given`` has said first.
    """
    keep_only(NEEDED)
    with _orders(heeds_hang_up=given.config is not None) as orders:
        reporter = Reporter(_say, given.explain, is_once=given.once_after_s is not None)
        service = Service(configuration, orders, given.read, _say, reporter.step, reporter.reconfigure)
        with reporter.serving(service, given.once_after_s is None):
            service.run(given.once_after_s)


def _say(text: str) -> None:
    """A line, with the time of day; the journal has its own."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@contextmanager
def _orders(heeds_hang_up: bool) -> Iterator[Orders]:
    """SIGTERM and SIGINT end in good order, a second one of the same kind at once; SIGHUP reads the
    configuration again, or without a file ends as well.
    """
    orders = Orders()

    def note(number: signal.Signals) -> bool:
        if number == signal.SIGHUP and heeds_hang_up:
            orders.reload = True
            return True
        orders.stop = f"ended by {number.name}"
        return False

    # What nohup and the shell had ignored stays so.
    heeded = [
        number for number in STOP_SIGNALS if heeds_hang_up or signal.getsignal(number) is not signal.SIG_IGN
    ]
    with heeding_signals(heeded, note):
        yield orders
