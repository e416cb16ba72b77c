# SPDX-License-Identifier: Apache-2.0
"""tests/conftest.py: a skip is forced, or has its reason; CI does not skip what it can run."""

import shutil
from pathlib import Path

import pytest
from innertests import run_tests

TESTS = Path(__file__).parents[1]

REQUIREMENTS = """
import requirements
from requirements import REQUIREMENTS, Requirement
REQUIREMENTS["the moon"] = Requirement(lambda: "there is no moon here", may_lack=True)
REQUIREMENTS["a spoon"] = Requirement(lambda: "there is no spoon")
REQUIREMENTS["air"] = Requirement(lambda: None)
"""


@pytest.fixture
def run(tmp_path: Path):
    """Return a function that runs one test under this project's conftest: (status, output)."""
    shutil.copy(TESTS / "conftest.py", tmp_path / "conftest.py")
    shutil.copy(TESTS / "requirements.py", tmp_path)
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\npythonpath = . {TESTS.parent / 'scripts'}\nmarkers = needs\naddopts = -p no:cacheprovider"
    )

    def run(body: str, **environment: str) -> tuple[int, str]:
        (tmp_path / "test_it.py").write_text(f"import pytest\n{REQUIREMENTS}\n{body}\n")
        return run_tests(tmp_path, "-ra", tmp_path, **environment)

    return run


def needing(name: str) -> str:
    return f"@pytest.mark.needs('air', '{name}')\ndef test_it(): pass"


def test_what_is_there_runs(run) -> None:
    assert run("@pytest.mark.needs('air')\ndef test_it(): pass", CI="true")[0] == 0


@pytest.mark.parametrize(("name", "ci_status"), [("the moon", 0), ("a spoon", 1)])
def test_ci_skips_only_what_a_machine_may_lack(run, name: str, ci_status: int) -> None:
    status, output = run(needing(name))
    assert status == 0
    assert f"HOTPAGE_FORCE='{name}'" in output
    assert run(needing(name), CI="true")[0] == ci_status


@pytest.mark.parametrize("forced", ["the moon", "air,the moon", "all"])
def test_force_runs_it(run, forced: str) -> None:
    status, output = run(needing("the moon"), HOTPAGE_FORCE=forced)
    assert status == 0
    assert "1 passed" in output


@pytest.mark.parametrize(
    "body",
    [
        "def test_it(): pytest.skip('not today')",
        "@pytest.mark.skip(reason='never')\ndef test_it(): pass",
        "pytest.skip('no module', allow_module_level=True)",
        "pytest.importorskip('no_such_module_here')",
    ],
)
def test_a_skip_that_cannot_be_forced_fails(run, body: str) -> None:
    status, output = run(body)
    assert status in (1, 2)
    assert "without saying how to force it" in output


def test_an_expected_failure_is_no_skip(run) -> None:
    assert run("@pytest.mark.xfail(reason='known')\ndef test_it(): assert 0", CI="true")[0] == 0
