# SPDX-License-Identifier: Apache-2.0
"""The host's side of tests/guest: boots a guest for each kernel and topology, and takes its reports over.

An emulated machine keeps one processor busy: where there are two, the next guest is at work already while the
tests of one are reported.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
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


class GuestRunner:
    """A pytest plugin: takes the running of marked tests over."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._run: _Run | None = None
        self._next: _Run | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Tests of one guest in a row, the others before them and as they were."""
        for item in items:
            if machine := _machine_of(item):
                item.add_marker(pytest.mark.needs("emulator", f"Linux {machine.kernel}"))
        order = {
            str(machine): number for number, machine in enumerate(dict.fromkeys(map(_machine_of, items)))
        }
        items.sort(key=lambda item: order[str(_machine_of(item))] if _machine_of(item) else -1)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not _can_run(item):
            return None  # what is missing skips it, by the ordinary way
        machine = _machine_of(item)
        if self._run is None or self._run.machine != machine:
            self._go_on(item, machine)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self) -> None:
        for run in (self._run, self._next):
            if run is not None:
                run.close()

    def _go_on(self, item: pytest.Item, machine: Any) -> None:
        """To the guest of this item, the first that runs there; and begin with the next one."""
        if self._run is not None:
            self._run.close()
        items = [other for other in item.session.items if _can_run(other)]
        machines = list(dict.fromkeys(map(_machine_of, items)))
        ready, self._next = self._next, None
        self._run = ready if ready is not None and ready.machine == machine else _run_of(machine, items)
        following = machines[machines.index(machine) + 1 :]
        if following and (os.cpu_count() or 1) > 1:
            self._next = _run_of(following[0], items)
            self._next.begin()

    def _reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        assert self._run is not None
        try:
            for document in self._run.documents(item.nodeid, _limit_s(item)):
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
        self._nodeids = nodeids
        self._guest: Guest | None = None
        self._failure: LabError | None = None
        self._output = bytearray()
        self._seen = 0
        self._reports: dict[str, list[dict[str, Any]]] = {nodeid: [] for nodeid in nodeids}

    def begin(self) -> None:
        """Start the guest; what goes wrong is told to who asks for its reports."""
        with contextlib.suppress(LabError):
            self._guest = self._start()

    def documents(self, nodeid: str, limit_s: float) -> list[dict[str, Any]]:
        """All reports of a test. Raises LabError if the guest will not tell."""
        if self._failure:
            raise LabError(f"not run: in this guest an earlier test failed so: {self._failure}")
        try:
            if self._guest is None:
                self._guest = self._start()
            self._guest.wait_for_boot()
            return self._wait(self._guest, nodeid, limit_s)
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
            output=lambda _, block: self._output.extend(block),
            environment=environment
            | {"HOTPAGE_LAB_REPORTS": "/run/lab/reports", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            # Threads of numpy's would have the kernel arm pytest's own memory.
            | {"OPENBLAS_NUM_THREADS": "1"},
        )
        (guest.exchange / "tests").write_text("".join(f"{nodeid}\n" for nodeid in self._nodeids))
        return guest

    def _wait(self, guest: Guest, nodeid: str, limit_s: float) -> list[dict[str, Any]]:
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


def _run_of(machine: Any, items: list[pytest.Item]) -> _Run:
    return _Run(machine, [item.nodeid for item in items if _machine_of(item) == machine])


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
