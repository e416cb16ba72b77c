# SPDX-License-Identifier: Apache-2.0
"""The configuration of ``hotpage auto``: its defaults as text, and its problems by field and line."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from hotpage.errors import UsageError
from hotpage.service.configtext import defaults_of, line_of
from hotpage.service.configuration import Cgroup, ConfigError, Configuration, host_and_port, load, parse
from hotpage.service.sections import kinds_of, section_of

DOCS = Path(__file__).parents[2] / "docs" / "auto.md"


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.toml")
    return caught.value.problems


def test_the_printed_defaults_are_the_defaults() -> None:
    text = defaults_of(Configuration)
    assert parse(text, "printed") == Configuration() == parse("", "empty")


def test_every_key_is_printed_below_its_description() -> None:
    text = defaults_of(Configuration)
    document = tomllib.loads(text)
    for one in fields(Configuration):
        assert one.name in document
        section = None if one.metadata else section_of(kinds_of(Configuration)[one.name])
        for inner in fields(section) if section else ():
            assert inner.name in document[one.name]
            assert inner.metadata["description"]
    assert all(len(line) <= 110 for line in text.splitlines())


def test_everything_can_be_said() -> None:
    configuration = parse(
        """
        interval = 2
        dry_run = true
        [targets]
        pids = [1, 2]
        comms = ["redis-server"]
        exclude_cgroups = ["/user.slice/"]
        [[targets.cgroups]]
        path = "/db.slice"
        floor = "256M"
        ceiling = "1.5G"
        weight = 4
        [[targets.cgroups]]
        path = "/web.slice"
        [budget]
        move_rate = 1048576
        [placement]
        policy = "random"
        [metrics]
        address = ""
        """,
        "f.toml",
    )
    assert configuration.interval == 2.0 and configuration.dry_run
    assert configuration.targets.cgroups[0] == Cgroup(
        path="/db.slice", floor=256 * 2**20, ceiling=1.5 * 2**30, weight=4.0
    )
    assert configuration.targets.cgroups[1].ceiling == float("inf")
    assert configuration.targets.exclude_cgroups == ["/user.slice"]
    assert not configuration.targets.everything
    assert configuration.budget.move_rate == 2**20


def test_whom_it_is_about() -> None:
    assert parse("", "f").targets.everything
    assert parse("[targets]\nexclude_pids = [3]", "f").targets.everything
    assert not parse("[targets]\ncomms = ['a']", "f").targets.everything
    assert parse("[targets]\nall = true\npids = [1]", "f").targets.everything


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\nintervall = 2", "f.toml:2: intervall: there is no such key: did you mean 'interval'?"),
        ("zzz = 1", "f.toml:1: zzz: there is no such key: choose from interval, dry_run,"),
        ("[targets]\npid = [1]", "f.toml:2: targets.pid: there is no such key: did you mean 'pids'?"),
        ("[target]\npids = [1]", "f.toml:1: target: there is no such key: did you mean 'targets'?"),
        ("interval = 0", "f.toml:1: interval: input should be greater than or equal to 0.1, not 0"),
        ('interval = "1"', "f.toml:1: interval: input should be a valid number, not '1'"),
        ("[observe]\narm = 1", "f.toml:2: observe.arm: input should be a valid boolean, not 1"),
        (
            '[observe]\nsources = ["hints"]',
            "f.toml:2: observe.sources: there is no source 'hints': did you mean",
        ),
        ("[observe]\nsources = []", "f.toml:2: observe.sources: no source is named"),
        (
            '[budget]\n\nmove_rate = "fast"',
            "f.toml:3: budget.move_rate: is no size: write it as 4096, 64M or 1.5G",
        ),
        (
            '[placement]\npolicy = "fitt"',
            "f.toml:2: placement.policy: there is no policy 'fitt': did you mean 'fit'?",
        ),
        ('[metrics]\naddress = "here"', "f.toml:2: metrics.address: 'here' is no address"),
        ("[targets]\npids = [1, -2]", "f.toml:2: targets.pids: -2 is no process id"),
        (
            '[targets]\npids = [1,\n "x"]',
            "f.toml:2: targets.pids[1]: input should be a valid integer, not 'x'",
        ),
        (
            '[targets]\ncomms = ["a name that is too long"]',
            "f.toml:2: targets.comms: 'a name that is too long' is no",
        ),
        ('[targets]\nexclude_cgroups = ["x"]', "f.toml:2: targets.exclude_cgroups: 'x' is no cgroup"),
        ("[[targets.cgroups]]\nfloor = 1", "f.toml:1: targets.cgroups[0].path: is missing: add path = ..."),
        (
            '[[targets.cgroups]]\npath="/a"\n[[targets.cgroups]]\npath="/b"\nfloor="2G"\nceiling="1G"',
            "f.toml:3: targets.cgroups[1]: has a floor above its ceiling: lower the floor",
        ),
        (
            '[[targets.cgroups]]\npath="/a"\n[[targets.cgroups]]\npath="/b"\nweigth=2',
            "f.toml:5: targets.cgroups[1].weigth: there is no such key: did you mean 'weight'?",
        ),
        ("interval = nan", "f.toml:1: interval: input should be greater than or equal to 0.1, not nan"),
        ("targets = 1", "f.toml:1: targets: input should be a table, not 1"),
        ("[targets]\npids = 1", "f.toml:2: targets.pids: input should be a valid list, not 1"),
        ("[targets]\npids = [true]", "f.toml:2: targets.pids[0]: input should be a valid integer, not True"),
        ("[placement]\nheadroom_percent = 51", "f.toml:2: placement.headroom_percent: input should be less"),
        ("[budget]\nmove_rate = 0", "f.toml:2: budget.move_rate: input should be greater than 0, not 0"),
        (
            "[budget]\nmove_rate = inf",
            "f.toml:2: budget.move_rate: input should be less than or equal to 1e+18, not inf",
        ),
        ("[budget]\nmove_rate = nan", "f.toml:2: budget.move_rate: input should be greater than 0, not nan"),
        (
            '[[targets.cgroups]]\npath = "/a"\nfloor = inf',
            "f.toml:3: targets.cgroups[0].floor: input should be less than or equal to 1e+18, not inf",
        ),
        (f"interval = 1{'0' * 400}", "f.toml:1: interval: int too large"),
        ('state_dir = ""', "f.toml:1: state_dir: is no directory"),
        ("interval = ", "f.toml: is no TOML: "),
        ("interval = 1\ninterval = 2", "f.toml: is no TOML: "),
    ],
)
def test_one_problem(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert found.startswith(problem)


def test_all_problems_are_told_in_order_of_line() -> None:
    text = "interval = 0\n[budget]\ncpu_percent = 0\nother = 1\n[metrics]\naddress = 1"
    found = problems(text)
    assert [problem.split(" ")[0] for problem in found] == [
        "f.toml:1:", "f.toml:3:", "f.toml:4:", "f.toml:6:",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"f.toml:1: interval: .* \(and 3 more: hotpage auto --check"):
        parse(text, "f.toml")


def test_lines_of_fields() -> None:
    text = 'a.b = 1\n[c]\n"d" = [\n  1,\n]\n[c.e]\nf = 2\n[[g]]\nh = 1\n[[g]]\nh = 2\n[g.i]\nj = 3\n'
    places = [("a", "b"), ("c",), ("c", "d", 0), ("c", "e", "f"), ("g", 0, "h"), ("g", 1, "h")]
    places += [("g", 1, "i", "j"), ("z",)]
    assert [line_of(text, place) for place in places] == [1, 2, 3, 7, 9, 11, 13, 0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--print-config"):
        load(tmp_path / "nothing.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(tmp_path / "latin.toml")


def test_addresses() -> None:
    assert host_and_port("127.0.0.1:9753") == ("127.0.0.1", 9753)
    assert host_and_port("[::1]:0") == ("::1", 0)
    for wrong in (
        "127.0.0.1",
        ":1",
        "[]:1",
        "a:b",
        "a:65536",
        "a:-1",
        "127..0.1:9753",
        "a\0b:1",
        "a" * 64 + ":1",
    ):
        with pytest.raises(ValueError, match="is no address"):
            host_and_port(wrong)
