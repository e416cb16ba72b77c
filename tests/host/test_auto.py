# SPDX-License-Identifier: Apache-2.0
"""``hotpage auto`` on a live workload: real events, and plans that move nothing."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patience import PATIENCE_S
from prometheus_client.parser import text_string_to_metric_families
from recordings import HOTPAGE
from toucher import wait_for
from wrongusage import check_wrong_usage

from hotpage.exerciser import Exerciser
from hotpage.machine.topology import Topology
from hotpage.service import learned

pytestmark = pytest.mark.needs("bcc")

BALANCING = Path("/proc/sys/kernel/numa_balancing")


@pytest.fixture(autouse=True)
def nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_stays_loaded: None
) -> Iterator[None]:
    """A knob state of our own; afterwards nothing is attached and no knob is pending."""
    monkeypatch.setenv("HOTPAGE_STATE_DIR", str(tmp_path / "knobs"))
    yield
    assert not (tmp_path / "knobs" / "knobs.json").exists()


@pytest.fixture
def workload() -> Iterator[Exerciser]:
    with Exerciser.start(mib=16, threads=2) as exerciser:
        yield exerciser


class Auto:
    """``hotpage auto --dry-run`` in the background, with a configuration of its own."""

    def __init__(self, directory: Path, number: int) -> None:
        self.state = directory / "state"
        self._config = directory / "auto.toml"
        self._output = directory / f"output{number}"
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, targets: str, rest: str = "", interval_s: float = 0.5) -> None:
        self._config.write_text(
            f'interval = {interval_s}\nstate_dir = "{self.state}"\n{rest}\n'
            f'[metrics]\naddress = "127.0.0.1:0"\n[targets]\n{targets}\n'
        )

    def start(self) -> "Auto":
        command = [*HOTPAGE, "auto", "--dry-run", "--config", str(self._config)]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        return self

    @property
    def said(self) -> str:
        return self._output.read_text()

    def until(self, words: str, count: int = 1) -> str:
        """Wait until it has said this so often; the last line that does."""
        deadline = time.monotonic() + PATIENCE_S
        while len(lines := [line for line in self.said.splitlines() if words in line]) < count:
            assert self.process is not None and self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)
        return lines[-1]

    def metrics(self) -> dict[str, float]:
        """What the newest address says, by name; values of several labels summed up."""
        url = self.until("metrics at ").split()[-1]
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals | None = signal.SIGTERM) -> int:
        assert self.process is not None
        if number is not None:
            self.send(number)
        return self.process.wait(2 * PATIENCE_S)


@pytest.fixture
def auto(tmp_path: Path) -> Iterator[Callable[[], Auto]]:
    made: list[Auto] = []

    def make() -> Auto:
        made.append(Auto(tmp_path, len(made)))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait()
    subprocess.run([*HOTPAGE, "restore"], check=True, capture_output=True, timeout=PATIENCE_S)


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HOTPAGE, *map(str, words)], capture_output=True, text=True, timeout=2 * PATIENCE_S
    )


def until_rates_arrive(auto: Auto, of_bytes: int) -> None:
    """So much memory has a rate, and not each one is 0."""

    def have_arrived() -> bool:
        found = auto.metrics()
        known_bytes = found.get("hotpage_page_rate_gcount", 0.0)
        return known_bytes >= of_bytes and found["hotpage_accesses_hz"] > 0

    wait_for(have_arrived, "rates arrive")


def test_a_life(auto: Callable[[], Auto], workload: Exerciser) -> None:
    service = auto()
    service.configure(f"pids = [{workload.pid}]")
    service.start()
    service.until(f"plans, and moves nothing, of process {workload.pid} (exerciser) every 0.5 s; hint by ")
    service.until("nothing to move: ")
    until_rates_arrive(service, of_bytes=16 << 20)
    found = service.metrics()
    assert found["hotpage_dry_run"] == 1 and found["hotpage_processes"] == 1
    assert found["hotpage_events_total"] > 0 and found["hotpage_plans_total"] >= 1
    assert found["hotpage_tracked_pages"] <= workload.pages + 2000

    # Why is a page where it is?
    done = run(
        "why", workload.pid, f"{int(workload.hot_vpns[0]) << 12:x}", "--state-dir", service.state, "--json"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["node"] == 0 and answer["comm"] == "exerciser" and answer["reason"]
    done = run("why", os.getpid(), "1000", "--state-dir", service.state)
    assert done.returncode == 1 and "is not looked after" in done.stderr and done.stderr.count("\n") == 1

    # A second one of that state directory is refused.
    second = run("auto", "--dry-run", "--config", service._config)
    assert second.returncode == 1 and "another hotpage auto runs" in second.stderr

    # Another configuration: refused while invalid, then taken over.
    service.configure(f"pids = [{workload.pid}]\npid = 3")
    service.send(signal.SIGHUP)
    line = service.until("the configuration stays as it was")
    assert f"{service._config}:8: targets.pid: there is no such key: did you mean 'pids'?" in line
    assert service.metrics()["hotpage_budget_cpu_ratio"] == pytest.approx(0.02)
    service.configure(f"pids = [{workload.pid}]", "[budget]\ncpu_percent = 5.0")
    service.send(signal.SIGHUP)
    service.until("the configuration was read again")
    service.until("plans, and moves nothing", count=2)  # the budget is the session's: another one began
    assert service.metrics()["hotpage_budget_cpu_ratio"] == pytest.approx(0.05)

    assert service.end() == 0, service.said
    assert "Traceback" not in service.said
    assert not (service.state / "auto.sock").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_in_good_order(
    auto: Callable[[], Auto], workload: Exerciser, number: signal.Signals
) -> None:
    service = auto()
    service.configure(f"pids = [{workload.pid}]")
    service.start().until("nothing to move")
    assert service.end(number) == 0, service.said


def test_after_a_kill_the_next_one_restores_and_goes_on(
    auto: Callable[[], Auto], workload: Exerciser
) -> None:
    before = BALANCING.read_text()
    first = auto()
    first.configure(f"pids = [{workload.pid}]")
    first.start()
    wait_for(lambda: (saved := learned.load(first.state)) and saved.folios, "rates are saved")
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert run("restore").returncode == 0
    assert BALANCING.read_text() == before
    second = auto()
    second.start()
    line = second.until("goes on with the rates of ")
    assert "of 1 processes" in line
    assert second.end() == 0, second.said


def test_several_targets_and_one_that_joins(auto: Callable[[], Auto], workload: Exerciser) -> None:
    service = auto()
    service.configure(
        f'pids = [{workload.pid}]\ncomms = ["no-such-comm"]\n[[targets.cgroups]]\npath = "/none/yet"'
    )
    service.start().until("nothing to move")
    assert service.metrics()["hotpage_processes"] == 1
    assert service.end() == 0, service.said


def test_it_ends_with_what_it_looks_after(auto: Callable[[], Auto]) -> None:
    service = auto()
    with Exerciser.start(mib=4, threads=2) as only:
        service.configure(f"pids = [{only.pid}]")
        service.start().until("nothing to move")
    assert service.end(None) == 0
    assert "all that was looked after has exited" in service.said


def test_once(tmp_path: Path, workload: Exerciser) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'state_dir = "{tmp_path / "state"}"\n')
    command = ("auto", "--once", "--dry-run", "-d", "4", "--config", config, "-p", workload.pid)
    done = run(*command, "--explain", workload.pid)
    assert done.returncode == 0, done.stderr
    assert "policy fit: 0 to move" in done.stdout
    first, last = workload.base, workload.base + (workload.pages << 12)
    parts = [line.split() for line in done.stdout.splitlines() if "-7f" in line and " node " in line]
    covered = 0
    for part in parts:
        low, high = (int(word, 16) for word in part[0].split("-"))
        covered += max(min(high, last) - max(low, first), 0)
    assert covered > 0


def test_a_machine_with_one_tier_has_nothing_to_place(tmp_path: Path, workload: Exerciser) -> None:
    if len(Topology.read().tiers) > 1:
        return  # the guests' tests are about such machines
    (tmp_path / "c.toml").write_text(f'state_dir = "{tmp_path / "state"}"\n')
    done = run("auto", "-p", workload.pid, "--config", tmp_path / "c.toml")
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr == (
        "hotpage: this machine has one tier of memory, so there is nothing to place: "
        "--dry-run shows heat and plans\n"
    )
    assert not (tmp_path / "state").exists()


WRONG = [
    (("-a", "-p", "1"), "several targets are given", 2),
    (("-p", "x"), "'x' is not a list of process ids", 2),
    (("-p", "4194303"), "there is no process 4194303", 1),
    (("--comm", "a name that is too long"), "is no command name", 2),
    (("--cgroup", "/no/such"), "no cgroup v2 /no/such", 1),
    (("--explain", "1", "-a"), "add --once", 2),
    (("-d", "0", "-a"), "a look cannot last 0.0 s", 2),
    (("--config", "/no/such.toml"), "/no/such.toml cannot be read", 2),
    (("--check", "--config", "/no/such.toml"), "/no/such.toml cannot be read", 2),
]


def test_what_makes_no_sense_is_one_line() -> None:
    check_wrong_usage(["auto"], WRONG)


def test_checking_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(run("auto", "--print-config").stdout)
    done = run("auto", "--check", "--config", file)
    assert (done.returncode, done.stdout) == (0, f"{file}: no problem found\n")
    file.write_text("interval = 0\nother = 1\n")
    done = run("auto", "--check", "--config", file)
    assert done.returncode == 2 and done.stdout == ""
    assert [line.split()[1] for line in done.stderr.splitlines()] == [f"{file}:1:", f"{file}:2:"]


def test_nobody_answers(tmp_path: Path) -> None:
    done = run("why", os.getpid(), "7f00", "--state-dir", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"hotpage: no hotpage auto answers in {tmp_path} (No such file or directory): "
        "start it, or name its --state-dir\n"
    )
