# SPDX-License-Identifier: Apache-2.0
"""For every test: a skip says why and how to force it, and CI skips only what its machine cannot do."""

import os
import signal
from collections.abc import Generator

import pytest
from requirements import REQUIREMENTS, why_missing

_MAY_SKIP = pytest.StashKey[bool]()


def pytest_configure() -> None:
    """Ctrl-C reaches what tests start, also where a shell began all of it in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            reason = why_missing(name)
            if reason is not None:
                item.stash[_MAY_SKIP] = REQUIREMENTS[name].may_lack
                pytest.skip(f"{reason} (HOTPAGE_FORCE='{name}' runs it anyway)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _judge_skip(report, may_skip=item.stash.get(_MAY_SKIP, False))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _judge_skip(report, may_skip=False)
    return report


def _judge_skip(report: pytest.TestReport | pytest.CollectReport, *, may_skip: bool) -> None:
    """Turn a skip into a failure when it cannot be forced, or when CI could have run the test."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if "HOTPAGE_FORCE" not in reason:
        problem = "skipped without saying how to force it; use @pytest.mark.needs"
    elif os.environ.get("CI") == "true" and not may_skip:
        problem = "skipped in CI, where it has to run"
    else:
        return
    report.outcome = "failed"
    report.longrepr = f"{problem}: {reason}"
