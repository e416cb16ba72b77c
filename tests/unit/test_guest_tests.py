# SPDX-License-Identifier: Apache-2.0
"""tests/guest on the host: what pytest in a guest tells becomes the outcome here; so does its silence."""

from pathlib import Path

import pytest
from innertests import run_tests

TESTS = Path(__file__).parents[1]

# In place of an emulated machine: the same command as a process of this machine.
FAKE_GUEST = """
import os, subprocess, sys, tempfile
from pathlib import Path
from guestlab import guest
from guestlab.errors import GuestError

WHEN_TOLD = 'until [ -s "$0" ]; do sleep 0.01; done; exec "$@"'

class FakeGuest:
    def __init__(self, image, topology, command, *, kernel, systemd, output, environment):
        self.exchange = Path(tempfile.mkdtemp())
        print("BOOT", kernel, topology.name)
        Path(f"booted-{kernel}").touch()
        self.command = [word.replace("/run/lab", str(self.exchange)) for word in command]
        self.environment = {k: v.replace("/run/lab", str(self.exchange)) for k, v in environment.items()}
        self.environment |= {"HOTPAGE_LAB_KERNEL": kernel, "HOTPAGE_LAB_TOPOLOGY": topology.name}
        self.environment |= {"HOTPAGE_LAB_SYSTEMD": "1"} if systemd else {}
        self.output, self.process = output, None
        if os.environ.get("FAKE") == "no boot":
            return
        self.command[0] = sys.executable
        self.process = subprocess.Popen(
            ["sh", "-c", WHEN_TOLD, self.exchange / "tests", *self.command],
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def wait_for_boot(self):
        if self.process is None:
            raise GuestError("the guest did not boot", "Kernel panic - not syncing")

    def is_running(self):
        if self.process is None:
            return False
        running = self.process.poll() is None
        if not running:
            self.output(1, self.process.stdout.read())
        return running

    def wait(self):
        if self.process.returncode > 128 or self.process.returncode < 0:
            raise self.failure("the guest died before the command ended")
        return self.process.returncode

    def failure(self, message):
        self.process.kill()
        return GuestError(message, "BUG: soft lockup")

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()

import guestrun
guestrun.Guest = FakeGuest
guestrun.kernels.fetch = lambda kernel: type("Image", (), {"image": None})
guestrun.why_missing = lambda name: None
guestrun.os.cpu_count = lambda: int(os.environ.get("FAKE_CPUS", "1"))
"""


@pytest.fixture
def run(tmp_path: Path):
    """Return a function that runs guest tests under this project's plugins: (status, output)."""
    for name in ("conftest.py", "requirements.py"):
        (tmp_path / name).symlink_to(TESTS / name)
    (tmp_path / "guest").mkdir()
    for name in ("conftest.py", "guestrun.py", "shells.py"):
        (tmp_path / "guest" / name).write_text((TESTS / "guest" / name).read_text())
    (tmp_path / "fake.py").write_text(FAKE_GUEST)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = . guest\nmarkers =\n needs\n guest\n"
        "addopts = -p no:cacheprovider --import-mode=importlib -ra\n"
    )

    def run(body: str, *options: str, **environment: str) -> tuple[int, str]:
        (tmp_path / "guest" / "test_it.py").write_text(f"import os, time\nimport pytest\n{body}\n")
        (tmp_path / "guest" / "test_fake.py").write_text(
            "import os\nif 'HOTPAGE_LAB_KERNEL' not in os.environ: import fake\n"
        )
        return run_tests(tmp_path, "-s", *options, tmp_path / "guest", **environment)

    return run


def marked(body: str, mark: str = "topology='cxl', kernels=('6.1', '7.3')") -> str:
    return f"@pytest.mark.guest({mark})\n{body}\n"


def test_each_runs_once_a_machine_and_shares_its_boot(run) -> None:
    bodies = marked("def test_a(machine): assert machine.topology == 'cxl'") + marked("def test_b(): pass")
    status, output = run(bodies)
    assert status == 0
    assert "4 passed" in output
    assert [line for line in output.splitlines() if "BOOT" in line] != []
    assert output.count("BOOT") == 2


@pytest.mark.parametrize("cpus", ["1", "2"])
def test_the_next_guest_works_meanwhile_where_there_is_a_processor_for_it(run, cpus: str) -> None:
    """And when that has done its work, the one after it."""
    body = """
def test_a(machine):
    end = time.monotonic() + (60 if CPUS > 1 else 2)
    while machine.kernel == "6.1" and not os.path.exists("booted-7.3") and time.monotonic() < end:
        time.sleep(0.02)
    assert os.path.exists("booted-7.3") == (CPUS > 1) or machine.kernel != "6.1"
"""
    mark = "topology='cxl', kernels=('6.1', '6.12', '7.3')"
    status, output = run(f"CPUS = {cpus}\n" + marked(body, mark).replace("\n\n", "\n"), FAKE_CPUS=cpus)
    assert status == 0, output
    assert "3 passed" in output


def test_a_guest_with_systemd_is_another_one(run) -> None:
    body = "def test_{0}(machine): assert str(machine) == '6.1-flat{1}'"
    mark = "topology='flat', kernels=('6.1',)"
    bodies = marked(body.format("a", ""), mark), marked(body.format("b", "-systemd"), f"{mark}, systemd=True")
    status, output = run("".join(bodies))
    assert status == 0
    assert "2 passed" in output and output.count("BOOT") == 2


def test_only_what_is_selected_boots(run) -> None:
    status, output = run(marked("def test_a(): pass"), "-k", "7.3")
    assert status == 0
    assert "1 passed" in output
    assert output.count("BOOT") == 1


def test_a_failure_comes_with_its_own_text(run) -> None:
    status, output = run(marked("def test_a(machine):\n    assert machine.kernel == '6.1', 'another one'"))
    assert status == 1
    assert "1 failed, 1 passed" in output
    assert "another one" in output


def test_parameters_and_fixtures_work_as_ever(run) -> None:
    body = "@pytest.fixture(scope='session')\ndef once(): return []\n"
    body += marked(
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_a(n, once):\n    once.append(n)\n    assert len(once) == n",
        "topology='flat', kernels=('6.1',)",
    )
    assert "2 passed" in run(body)[1]


def test_a_skip_keeps_its_rule(run) -> None:
    status, output = run(
        marked("def test_a(): pytest.skip('not today')", "topology='flat', kernels=('6.1',)")
    )
    assert status == 1
    assert "without saying how to force it" in output


def test_a_guest_that_dies_loses_the_rest_only(run) -> None:
    bodies = "".join(
        marked(f"def test_{name}(): {body}", "topology='flat', kernels=('6.1',)")
        for name, body in (("a", "pass"), ("b", "os._exit(200)"), ("c", "pass"))
    )
    status, output = run(bodies)
    assert status == 1
    assert "2 failed, 1 passed" in output
    assert "the guest died before the command ended" in output
    assert "BUG: soft lockup" in output
    assert "not run: in this guest an earlier test failed so" in output


def test_a_guest_that_hangs_is_ended(run) -> None:
    mark = "topology='flat', kernels=('6.1',), limit_s=3"
    status, output = run(marked("def test_a(): time.sleep(600)", mark))
    assert status == 1
    assert "the test did not end within 3 s" in output
    assert "BUG: soft lockup" in output


def test_a_guest_that_does_not_boot_shows_its_console(run) -> None:
    status, output = run(marked("def test_a(): pass"), FAKE="no boot")
    assert status == 1
    assert "2 failed" in output
    assert output.count("Kernel panic - not syncing") == 2


def test_a_pytest_that_breaks_shows_its_words(run) -> None:
    body = "assert 'HOTPAGE_LAB_KERNEL' not in os.environ, 'not in here'\n"
    status, output = run(body + marked("def test_a(): pass", "topology='flat', kernels=('6.1',)"))
    assert status == 1
    assert "pytest ended in the guest with status" in output
    assert "not in here" in output


def test_a_test_without_a_mark_is_refused(run) -> None:
    status, output = run("def test_a(): pass")
    assert status != 0
    assert "a test here is marked @pytest.mark.guest(topology=...)" in output
