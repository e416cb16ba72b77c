# SPDX-License-Identifier: Apache-2.0
"""The recorder: opens everything that a session needs, runs it, and leaves the system as it was."""

from __future__ import annotations

import contextlib
import platform
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec

from hotpage import __version__
from hotpage.capture.capture import DEFAULT_RING_BYTES, Capture
from hotpage.capture.choice import choose_rungs
from hotpage.capture.kernel import Kernel
from hotpage.errors import UnsupportedError
from hotpage.heat.estimator import ALPHA, BETA_S
from hotpage.machine.capabilities import Capability, keep_only
from hotpage.machine.knobs import KnobSession
from hotpage.machine.proc import boot_id
from hotpage.machine.procevents import open_process_events
from hotpage.machine.tiering import arms_slow_only
from hotpage.profile.snapshot import RunEnd, RunInfo
from hotpage.recording.arming import Arming, balancing_mode
from hotpage.recording.budget import ArmingAccount, measure_fault_cost_s
from hotpage.recording.command import Command
from hotpage.recording.largefolios import enabled_folio_kb
from hotpage.recording.nodes import NodeWatch
from hotpage.recording.selection import Selection
from hotpage.recording.session import ProfileSink, Progress, Session

P = ParamSpec("P")

HORIZONS_S = (2.0, 20.0)
"""Half-lives of the short and the long rate (heat.table)."""
DEFAULT_BUDGET_PERCENT = 2.0
DEFAULT_INTERVAL_S = 2.0
_NEEDED_WHILE_RUNNING = (
    Capability.DAC_OVERRIDE,
    Capability.DAC_READ_SEARCH,
    Capability.KILL,
    Capability.SYS_PTRACE,
    Capability.PERFMON,
    Capability.BPF,
)
_NEEDED_TO_ARM = (Capability.SYS_ADMIN,)  # the numa_balancing sysctl demands it at every write


@dataclass(frozen=True)
class Options:
    """What to record and how."""

    selection: Selection | None
    """None with a ``command``: then that is the target."""
    command: tuple[str, ...] = ()
    duration_s: float | None = None
    sources: tuple[str, ...] = ("hint", "fault")
    forced_rungs: Mapping[str, str] = field(default_factory=dict)
    arm: bool = False
    arm_with: str = "record with --arm"
    """What the user would have to do for ``arm``, in words."""
    budget_percent: float = DEFAULT_BUDGET_PERCENT
    interval_s: float = DEFAULT_INTERVAL_S
    command_line: tuple[str, ...] = ()
    keep_latencies: bool = False
    """For a live view: hand over each access's latency with its interval."""
    ring_bytes: int = DEFAULT_RING_BYTES
    """Of each ring; twice as much is resident. An event takes 40 bytes, for a tenth of a second at most."""
    keep_changes: bool = True
    """Hand over the pages whose rate changed; not for a sink that reads all rates when it wants them."""


@contextlib.contextmanager
def _opening(
    open_capture: Callable[P, Capture], *args: P.args, **kwargs: P.kwargs
) -> Iterator[Future[Capture]]:
    """Open a capture in another thread, which is gone afterwards; should the caller fail, the capture is
    closed.
    """
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_capture, *args, **kwargs)
        try:
            yield opening
        except BaseException:
            if opening.exception() is None:
                opening.result().close()
            raise


class Recorder:
    """One session. ``progress`` may be read at any time, ``run_info`` once the sink is open."""

    def __init__(
        self,
        options: Options,
        open_sink: Callable[[RunInfo], ProfileSink],
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.options = options
        self.progress = Progress()
        self._open_sink = open_sink
        self._on_progress = on_progress

    def run(self, should_stop: Callable[[], str | None]) -> RunEnd:
        """Record until the time is over, the target is gone, or ``should_stop`` gives the reason to stop.

        Whatever ends it, errors included: what was seen until then is in the sink, the kernel settings are as
        before, nothing stays attached, and a command that was started has ended.
        """
        options = self.options
        with contextlib.ExitStack() as stack:
            command = stack.enter_context(Command(options.command)) if options.command else None
            selection = options.selection or Selection(pids=frozenset({command.pid} if command else ()))
            knobs = stack.enter_context(KnobSession())
            self.progress.notes += [str(outcome) for outcome in knobs.recovered]
            mode = balancing_mode()
            kernel = Kernel()
            choose_rungs(options.sources, kernel, options.forced_rungs)  # the kernel remembers the answers
            with _opening(
                Capture,
                options.sources,
                kernel=kernel,
                forced_rungs=options.forced_rungs,
                ring_bytes=options.ring_bytes,
            ) as opening:
                # Most of that is the compiler's time, in another process: use this one's.
                nodes = stack.enter_context(NodeWatch())
                process_events = stack.enter_context(contextlib.closing(open_process_events()))
                fault_cost_s = measure_fault_cost_s()
                capture = stack.enter_context(opening.result())
            if options.arm and "hint" not in capture.rungs:
                why = capture.refused.get("hint", "left out with --source")
                raise UnsupportedError(f"--arm needs the source 'hint', which is not there ({why})")
            run = self._describe(selection, capture, mode)
            sink = self._open_sink(run)
            account = ArmingAccount(options.budget_percent, fault_cost_s)
            arming = None
            if options.arm:
                arming = stack.enter_context(contextlib.closing(Arming(knobs, nodes.topology, account)))
            try:
                capture.measure_cost(True)  # needs a privilege that goes now
            except OSError as error:
                self.progress.notes.append(f"the BPF programs' CPU time is not counted: {error.strerror}")
            keep_only((*_NEEDED_WHILE_RUNNING, *(_NEEDED_TO_ARM if arming else ())))
            session = Session(
                run,
                selection,
                command,
                capture,
                process_events,
                nodes,
                sink,
                account,
                arming,
                self.progress,
                options.keep_latencies,
                options.keep_changes,
            )
            return session.run(options.duration_s, should_stop, self._on_progress)

    def _describe(self, selection: Selection, capture: Capture, mode: int | None) -> RunInfo:
        return RunInfo(
            hotpage_version=__version__,
            command_line=self.options.command_line,
            target=f"command {self.options.command[0]}" if self.options.command else str(selection),
            started_unix_s=time.time(),
            origin_monotonic_ns=time.monotonic_ns(),
            hostname=socket.gethostname(),
            kernel_release=platform.release(),
            boot_id=boot_id() or "",
            architecture=platform.machine(),
            interval_s=self.options.interval_s,
            armed=self.options.arm,
            numa_balancing=mode,
            rungs={name: rung.name for name, rung in capture.rungs.items()},
            horizons_s=HORIZONS_S,
            prior_count=ALPHA,
            prior_exposure_s=BETA_S,
            budget_percent=self.options.budget_percent,
            advice=tuple(self._advice(capture, mode)),
        )

    def _advice(self, capture: Capture, mode: int | None) -> Iterator[str]:
        for name, reason in capture.refused.items():
            yield f"source '{name}' does not work here: {reason}"
        hint = capture.rungs.get("hint")
        if hint is not None and hint.walks_page_tables and (sizes := enabled_folio_kb()):
            yield (
                f"folios of {', '.join(map(str, sizes))} KiB are enabled (transparent_hugepage): from Linux "
                f"6.10 on each faults as a whole, of which {hint.name} tells one page: the others look cold"
            )
        if "hint" in capture.rungs and "sample" not in capture.rungs and not self.options.arm and not mode:
            yield (
                "no access rates can arrive: kernel.numa_balancing is off, so no page is armed; "
                f"{self.options.arm_with}, which turns it on for the session"
            )
        if "hint" in capture.rungs and not self.options.arm and arms_slow_only(mode):
            yield (
                f"kernel.numa_balancing is {mode}, which arms slow memory only: what does not fault is "
                "unknown in mappings with pages in fast memory; record with --arm, which takes mode 3 for "
                "the session"
            )
