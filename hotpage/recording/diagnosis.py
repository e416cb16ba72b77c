# SPDX-License-Identifier: Apache-2.0
"""What works on this machine, what does not, why, and what to do about it: every source and its rungs tried,
the chosen ones loaded and tested for real.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from hotpage.capture.capture import Capture
from hotpage.capture.findbcc import find_bcc
from hotpage.capture.kernel import Kernel
from hotpage.capture.perf import PAGE_FAULTS, PerfEvent
from hotpage.capture.sources import Ladder, Rung, ladders
from hotpage.errors import HotpageError, MissingDependencyError, PrivilegeError, UnsupportedError
from hotpage.machine.topology import Topology
from hotpage.recording import checks
from hotpage.recording.checks import Check

_RATES = "hint"
"""The source that tells rates; without it a profile shows only which pages exist."""
_PURPOSES = {
    "hint": "rates of accesses, page by page (NUMA hint faults)",
    "fault": "first touches: which pages appear, and when",
    "sample": "accesses that miss the caches, sampled by the processor (PEBS, IBS)",
}
_TRACEPOINTS = {
    "page_fault_user": "page faults",
    "tlb_flush": "the time of arming",
    "sched_process_fork": "children from their first instruction on",
    "sched_skip_vma_numa": "which mappings the kernel does not arm",
}
_WITHOUT_PMU = "nothing to do for rates: hint faults need no PMU (hotpage record --arm)"
# Refused to a user for being one, so that their own advice is for root only.
_ROOT_MAY_CURE = (
    "kernel symbols",
    "raw tracepoints",
    "perf event",
    "NUMA balancing",
    "holding",
    "process events",
)


@dataclass(frozen=True)
class SelfTest:
    """What came of loading the sources; for those that do not work, why and what to do."""

    rungs: dict[str, str]
    """Source to the rung that was taken and saw its test accesses."""
    problems: dict[str, HotpageError]
    duration_s: float


@dataclass(frozen=True)
class Diagnosis:
    """All checks in the order to be shown."""

    checks: list[Check]
    self_test_s: float | None = None
    """How long compiling, attaching and testing the sources took."""

    @property
    def blocker(self) -> Check | None:
        """The first thing that keeps rates from being had; None if the main job can run."""
        blockers = (check for check in self.checks if check.essential and check.state == "no")
        return next(blockers, None)


def diagnose(program: str) -> Diagnosis:
    """Try everything; ``program`` is how hotpage was called. Changes nothing on the system."""
    kernel = Kernel()
    namespace = checks.check_pid_namespace()
    tested = try_sources(kernel) if namespace.state == "ok" else _untested(namespace)
    topology = Topology.read()
    privileges = checks.check_privileges(program)
    found = [
        privileges,
        namespace,
        checks.check_lockdown(),
        check_bcc(),
        check_types(kernel),
        check_symbols(kernel),
        check_tracepoints(kernel),
        check_perf_event(kernel),
        *check_sources(kernel, tested, program),
        checks.check_balancing(len(topology.tiers)),
        checks.check_arming_pace(),
        checks.check_holding(),
        checks.check_process_events(),
        checks.check_cgroups(),
        checks.check_hotplug(),
        checks.check_pending_settings(program),
        checks.check_topology(topology),
        checks.check_memory(),
    ]
    if os.geteuid() != 0:
        found = [
            replace(check, next_step=privileges.next_step)
            if check.state != "ok" and check.name in _ROOT_MAY_CURE
            else check
            for check in found
        ]
    return Diagnosis(found, tested.duration_s if tested.rungs else None)


def check_bcc(find: Callable[[], tuple[str, str]] = find_bcc) -> Check:
    """bcc, in whichever interpreter."""
    purpose = "compile and load the BPF programs"
    try:
        interpreter, version = find()
    except HotpageError as error:
        return Check("bcc", "no", purpose, error.problem, error.remedy, essential=True)
    return Check("bcc", "ok", purpose, f"{version} in {interpreter}", essential=True)


def check_types(kernel: Kernel) -> Check:
    """BTF."""
    name, purpose = "type information", "read page tables and task names without kernel headers"
    if kernel.field_defines:
        return Check(name, "ok", purpose, f"BTF tells {len(kernel.field_defines)} struct offsets")
    return Check(
        name,
        "limited",
        purpose,
        "no /sys/kernel/btf/vmlinux: hint faults by kprobe only, --comm means names of threads",
        "boot a kernel with CONFIG_DEBUG_INFO_BTF",
    )


def check_symbols(kernel: Kernel) -> Check:
    """kallsyms with addresses."""
    name, purpose = "kernel symbols", "tell the TLB flush that ends arming from others"
    if any(kernel.arming_text):
        return Check(name, "ok", purpose, "/proc/kallsyms shows change_prot_numa")
    finding = "/proc/kallsyms hides or lacks change_prot_numa: hint faults by function hooks only"
    return Check(name, "limited", purpose, finding, "sudo sysctl kernel.kptr_restrict=1")


def check_tracepoints(kernel: Kernel) -> Check:
    """Raw tracepoints, each by attaching to it."""
    name, purpose = "raw tracepoints", "see page faults, arming and forks at the least cost"
    refused = {hook: reason for hook in _TRACEPOINTS if (reason := _refusal(kernel, "raw_tracepoint", hook))}
    if not refused:
        return Check(name, "ok", purpose, f"{', '.join(_TRACEPOINTS)} can be attached to")
    if len(refused) == len(_TRACEPOINTS):
        return Check(name, "no", purpose, f"none can be attached to ({refused['page_fault_user']})")
    finding = "; ".join(f"no {hook} ({_TRACEPOINTS[hook]}): {reason}" for hook, reason in refused.items())
    return Check(name, "limited", purpose, finding)


def check_perf_event(kernel: Kernel) -> Check:
    """The software page-fault event with a program, by attaching one."""
    name, purpose = "perf event", "page faults where the tracepoints are missing"
    reason = _refusal(kernel, "perf_event", "page-faults", PAGE_FAULTS)
    return Check(name, "limited" if reason else "ok", purpose, reason or "page-faults can be attached to")


def _refusal(kernel: Kernel, kind: str, hook: str, event: PerfEvent | None = None) -> str | None:
    try:
        return kernel.refusal(kind, hook, event)
    except HotpageError as error:
        return error.problem


def try_sources(kernel: Kernel, open_capture: Callable[..., Capture] = Capture) -> SelfTest:
    """Load all sources as a session does, which tests them; those that fail together are tried alone."""
    begun = time.perf_counter()
    rungs: dict[str, str] = {}
    problems: dict[str, HotpageError] = {}
    attempts: list[tuple[str, ...]] = [tuple(ladders())]
    while attempts:
        names = attempts.pop()
        try:
            with open_capture(names, kernel=kernel) as capture:
                rungs |= {name: rung.name for name, rung in capture.rungs.items()}
                problems |= {name: UnsupportedError(why) for name, why in capture.refused.items()}
        except HotpageError as error:
            problems |= dict.fromkeys(names, error)
            if len(names) > 1 and not isinstance(error, (PrivilegeError, MissingDependencyError)):
                attempts = [(name,) for name in names]
    failed = {name: problem for name, problem in problems.items() if name not in rungs}
    return SelfTest(rungs, failed, time.perf_counter() - begun)


def _untested(reason: Check) -> SelfTest:
    """For where a self-test could but fail: it looks for events of its own pid."""
    problem = UnsupportedError(f"not tested, for want of the right {reason.name}", reason.next_step)
    return SelfTest({}, dict.fromkeys(ladders(), problem), 0.0)


def check_sources(kernel: Kernel, tested: SelfTest, program: str) -> Iterator[Check]:
    """Every source, the one that tells rates first, each followed by its rungs, best first."""
    for name, ladder in sorted(ladders().items(), key=lambda item: item[0] != _RATES):
        rungs = ladder.rungs(kernel)
        for_tests = {rung.name for rung in rungs if rung.only_by_name}
        refusals = {rung.name: _refusal_of_rung(ladder, rung, kernel) for rung in rungs}
        taken = tested.rungs.get(name)
        if taken is not None:
            finding = f"by {taken}: compiled, attached and saw its test accesses"
            yield Check(f"source {name}", "ok", _purpose(name), finding, essential=name == _RATES)
        else:
            choice = {rung: reason for rung, reason in refusals.items() if rung not in for_tests}
            yield _failed_source(name, tested.problems[name], choice, program)
        for rung, reason in refusals.items():
            finding = reason or ("taken" if rung == taken else "can be attached")
            if rung in for_tests and not reason:
                finding += "; taken only when it is named, for tests"
            yield Check(f"{name}/{rung}", "no" if reason else "ok", f"a way to source {name}", finding)


def _failed_source(
    name: str, problem: HotpageError, refusals: Mapping[str, str | None], program: str
) -> Check:
    """``refusals``: of the rungs that could have been chosen."""
    finding, next_step = problem.problem, problem.remedy
    if isinstance(problem, PrivilegeError):
        next_step = f"sudo {program} doctor"
    elif None not in refusals.values():
        reasons = set(refusals.values())
        finding = reasons.pop() or "" if len(reasons) == 1 else "none of the ways below works here"
        next_step = _WITHOUT_PMU if name == "sample" else None
    return Check(f"source {name}", "no", _purpose(name), finding, next_step, essential=name == _RATES)


def _purpose(source: str) -> str:
    return _PURPOSES.get(source, "accesses")


def _refusal_of_rung(ladder: Ladder, rung: Rung, kernel: Kernel) -> str | None:
    try:
        return ladder.refusal(rung, kernel)
    except HotpageError as error:
        return error.problem
