# SPDX-License-Identifier: Apache-2.0
"""What holds for every test on this kernel: it needs root, and it leaves the machine as it was."""

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from recordings import Recording
from toucher import nothing_stays_loaded, toucher  # noqa: F401 (fixtures)

_HERE = Path(__file__).parent
_BALANCING = Path("/proc/sys/kernel/numa_balancing")
_LOCK = Path("/run/hotpage-tests.lock")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.needs("root"))


@pytest.fixture(autouse=True)
def alone_on_this_kernel() -> Iterator[None]:
    """One test at a time has its settings and programs: another checkout's tests wait, test by test."""
    with _LOCK.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True)
def balancing_is_put_back(alone_on_this_kernel: None) -> Iterator[None]:
    """Fail the test that leaves kernel.numa_balancing other than it found it."""
    before = _BALANCING.read_text() if _BALANCING.exists() else None
    yield
    after = _BALANCING.read_text() if _BALANCING.exists() else None
    assert after == before, "kernel.numa_balancing was not restored"


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Callable[..., Recording]]:
    """``hotpage record`` with these options, in the background; killed at the end if it still runs."""
    started: list[Recording] = []

    def start(*options: str) -> Recording:
        started.append(Recording(tmp_path / f"profile{len(started)}", *options))
        return started[-1]

    yield start
    for recording in started:
        # With the command that it may have begun, which holds the pipes open otherwise.
        with suppress(ProcessLookupError):
            os.killpg(recording.process.pid, signal.SIGKILL)
        recording.process.communicate()
