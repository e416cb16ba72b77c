# SPDX-License-Identifier: Apache-2.0
"""The host's side of tests/guest: boots a guest for each kernel and topology, and takes its reports over.

An emulated machine keeps one processor busy: where there are two, the next guests are at work already while
the tests of one are reported.
"""

import contextlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guestlab import kernels
from guestlab.errors import GuestError, LabError
from guestlab.guest import Guest
from guestlab.topology import Topology
from requirements import why_missing

_LIMIT_S = 600.0
"""For one test, unless its mark says another; start-up of the first one included."""
_POLL_S = 0.1
_PASSED_ON = ("CI", "HOTPAGE_FORCE")
_OUTPUT_TAIL_BYTES = 4000
_MOST_AT_ONCE = 2
"""Guests; as many gigabytes as they have would be too much for many machines otherwise."""


class GuestRunner:
    """A pytest plugin: takes the running of marked tests over."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._runs: list[_Run] | None = None
        """In the order of their tests; those before the present one's are gone."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Tests of one guest in a row, the longest guests first; the others before them and as they were."""
        tests = Counter(machine for item in items if (machine := _machine_of(item)))
        for item in items:
            if machine := _machine_of(item):
                item.add_marker(pytest.mark.needs("emulator", f"Linux {machine.kernel}"))
                if machine.systemd:
                    item.add_marker(pytest.mark.needs("systemd"))
        # Many tests take long, and so does a machine's whole life with systemd, though it is a single one.
        longest_first = sorted(tests, key=lambda machine: (not machine.systemd, -tests[machine]))
        order: dict[Any, int] = {machine: number for number, machine in enumerate(longest_first)}
        items.sort(key=lambda item: order.get(_machine_of(item), -1))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not _can_run(item):
            return None  # what is missing skips it, by the ordinary way
        run = self._run_of(item)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(run, item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self) -> None:
        for run in self._runs or ():
            run.close()

    def _run_of(self, item: pytest.Item) -> "_Run":
        """Go on to the guest in which it runs."""
        if self._runs is None:
            nodeids: dict[Any, list[str]] = {}
            for other in filter(_can_run, item.session.items):
                nodeids.setdefault(_machine_of(other), []).append(other.nodeid)
            self._runs = list(itertools.starmap(_Run, nodeids.items()))
        while self._runs[0].machine != _machine_of(item):
            self._runs.pop(0).close()
        return self._runs[0]

    def _begin_more(self) -> None:
        """Keep as many guests at work as there are processors for."""
        runs = self._runs or []
        free = min(os.cpu_count() or 1, _MOST_AT_ONCE) - sum(run.is_at_work for run in runs)
        for run in [run for run in runs if not run.has_begun][: max(free, 0)]:
            run.begin()

    def _reports(self, run: "_Run", item: pytest.Item) -> Iterator[pytest.TestReport]:
        try:
            for document in run.documents(item.nodeid, _limit_s(item), self._begin_more):
                yield self._config.hook.pytest_report_from_serializable(config=self._config, data=document)
        except LabError as error:
            console = f"\n\n{error.console}" if isinstance(error, GuestError) else ""
            yield pytest.TestReport(
                item.nodeid, item.location, dict(item.keywords), "failed", f"{error}{console}", "call"
            )


class _Run:
    """One guest, in which a pytest runs these tests."""

    def __init__(self, machine: Any, nodeids: list[str]) -> None:
        self.machine = machine
        self.has_begun = False
        self._nodeids = nodeids
        self._guest: Guest | None = None
        self._failure: LabError | None = None
        self._output = bytearray()
        self._seen = 0
        self._reports: dict[str, list[dict[str, Any]]] = {nodeid: [] for nodeid in nodeids}

    @property
    def is_at_work(self) -> bool:
        """Whether its guest runs."""
        return self._guest is not None and self._guest.is_running()

    def begin(self) -> None:
        """Start the guest; what goes wrong is told to who asks for its reports."""
        self.has_begun = True
        with contextlib.suppress(LabError):
            self._guest = self._start()

    def documents(self, nodeid: str, limit_s: float, meanwhile: Callable[[], None]) -> list[dict[str, Any]]:
        """All reports of a test. Raises LabError if the guest will not tell."""
        if self._failure:
            raise LabError(f"not run: in this guest an earlier test failed so: {self._failure}")
        try:
            if self._guest is None:
                self.has_begun = True
                self._guest = self._start()
            meanwhile()
            self._guest.wait_for_boot()
            return self._wait(self._guest, nodeid, limit_s, meanwhile)
        except LabError as error:
            self._failure = error
            self.close()
            raise

    def close(self) -> None:
        if self._guest:
            self._guest.close()

    def _start(self) -> Guest:
        image = kernels.fetch(kernels.supported(self.machine.kernel)).image
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        guest = Guest(
            image,
            Topology.load(self.machine.topology),
            ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "@/run/lab/tests"],
            kernel=self.machine.kernel,
            systemd=self.machine.systemd,
            output=lambda _, block: self._output.extend(block),
            environment=environment
            | {"HOTPAGE_LAB_REPORTS": "/run/lab/reports", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            # Threads of numpy's would have the kernel arm pytest's own memory.
            | {"OPENBLAS_NUM_THREADS": "1"},
        )
        (guest.exchange / "tests").write_text("".join(f"{nodeid}\n" for nodeid in self._nodeids))
        return guest

    def _wait(
        self, guest: Guest, nodeid: str, limit_s: float, meanwhile: Callable[[], None]
    ) -> list[dict[str, Any]]:
        deadline = time.monotonic() + limit_s
        reports = self._reports[nodeid]
        while not reports or reports[-1]["when"] != "teardown":
            running = guest.is_running()
            self._read(guest.exchange / "reports")
            if reports and reports[-1]["when"] == "teardown":
                break
            if not running:
                status = guest.wait()  # raises if there is none
                raise GuestError(f"pytest ended in the guest with status {status}", self._tail())
            if time.monotonic() > deadline:
                raise guest.failure(f"the test did not end within {limit_s:.0f} s")
            meanwhile()
            time.sleep(_POLL_S)
        return reports

    def _read(self, path: Path) -> None:
        """Take over what was written since the last time."""
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._seen)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._seen += len(line)
                document = json.loads(line)
                if "started" not in document:
                    self._reports[document["nodeid"]].append(document)

    def _tail(self) -> str:
        return self._output[-_OUTPUT_TAIL_BYTES:].decode(errors="replace")


def _can_run(item: pytest.Item) -> bool:
    """Whether it runs in a guest, and one can be had."""
    return _machine_of(item) is not None and not any(
        why_missing(name) for mark in _needs(item) for name in mark
    )


def _machine_of(item: pytest.Item) -> Any:
    if item.get_closest_marker("guest") is None or not isinstance(item, pytest.Function):
        return None
    return item.callspec.params["machine"]


def _needs(item: pytest.Item) -> Iterator[tuple[str, ...]]:
    """What the host must have; the guest looks after the rest itself."""
    for mark in item.iter_markers("needs"):
        yield tuple(name for name in mark.args if name == "emulator" or name.startswith("Linux "))


def _limit_s(item: pytest.Item) -> float:
    mark = item.get_closest_marker("guest")
    return mark.kwargs.get("limit_s") or _LIMIT_S
