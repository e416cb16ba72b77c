# SPDX-License-Identifier: Apache-2.0
"""The road of one access has one direction (hotpage/__init__.py): who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hotpage

PACKAGE = Path(hotpage.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

GROUND = {"errors", "arrays", "machine"}
MAY_IMPORT = {
    "errors": set(),
    "arrays": set(),
    "bpfsources": {"errors"},
    "machine": {"errors", "arrays"},
    "exerciser": {"errors"},
    "heat": {"errors", "arrays"},
    "capture": {"bpfsources", *GROUND},
    "profile": {"heat", *GROUND},
    "recording": {"capture", "heat", "profile", *GROUND},
    "views": {"profile", "heat.estimator", "placement", *GROUND},
    "placement": {"heat", "profile", *GROUND},
    "service": {"heat", "placement", "profile", "recording", "views", *GROUND},
    "cli": {
        "bpfsources",
        "capture",
        "exerciser",
        "heat",
        "placement",
        "profile",
        "recording",
        "service",
        "views",
        *GROUND,
    },
    "__main__": {"cli"},
    "__init__": set(),
}

# Scripts that other interpreters run, where hotpage need not be installed.
ALONE = ("capture/_loader_child.py", "machine/_holdchild.py", "exerciser/exerciser.py")


def imported_modules(source: str, package: str) -> Iterator[str]:
    """Yield the full names of all that the source imports; ``package`` resolves the relative ones."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: 1 - node.level or None]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def offences(room: str, modules: Iterator[str]) -> list[str]:
    """Return those of ``modules`` that the room may not import."""
    allowed = {f"hotpage.{name}" for name in (*MAY_IMPORT[room], room)} | {"hotpage.__version__"}
    return [
        module
        for module in modules
        if module.startswith("hotpage.") and not any(f"{module}.".startswith(f"{name}.") for name in allowed)
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_only_what_lies_before_it(file: Path) -> None:
    package = ".".join(("hotpage", *file.relative_to(PACKAGE).parts[:-1]))
    assert offences(room_of(file), imported_modules(file.read_text(), package)) == []


def test_every_room_has_its_rule() -> None:
    assert {room_of(file) for file in FILES} <= MAY_IMPORT.keys()


def test_only_the_loader_child_imports_bcc() -> None:
    importers = {
        str(file.relative_to(PACKAGE))
        for file in FILES
        if any(module.split(".")[0] == "bcc" for module in imported_modules(file.read_text(), "hotpage"))
    }
    assert importers == {"capture/_loader_child.py"}


@pytest.mark.parametrize("name", ALONE)
def test_scripts_for_other_interpreters_stand_alone(name: str) -> None:
    modules = imported_modules((PACKAGE / name).read_text(), "hotpage")
    assert [module for module in modules if module.startswith("hotpage")] == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("heat", "import hotpage.capture.ring"),
        ("heat", "from hotpage.profile import store"),
        ("profile", "from hotpage import capture"),
        ("views", "from hotpage.heat import table"),
        ("machine", "def f():\n    from hotpage.heat.estimator import rate_hz"),
        ("machine", "from ..heat import estimator"),
        ("errors", "from hotpage import machine"),
    ],
)
def test_a_step_back_is_found(room: str, source: str) -> None:
    assert len(offences(room, imported_modules(source, f"hotpage.{room}"))) == 1
