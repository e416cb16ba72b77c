# SPDX-License-Identifier: Apache-2.0
"""What ``hotpage auto`` is told to do: a TOML file, checked field by field.

The sections below are the reference: ``--print-config`` and docs/auto.md are made from their descriptions.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from hotpage.errors import HotpageError, UsageError
from hotpage.machine.proc import COMM_BYTES, PID_LIMIT
from hotpage.placement import policies
from hotpage.service.configtext import line_of
from hotpage.service.sections import Place, Problem, build, key, kinds_of, section_of
from hotpage.views.units import SIZE_ADVICE, parse_size

DEFAULT_FILE = Path("/etc/hotpage.toml")
SOURCES = ("hint", "fault", "sample")
_MOST_BYTES = 1e18  # no machine has as much; an infinite rate times 0 would be no number


class ConfigError(HotpageError):
    """A configuration that makes no sense; ``problems`` has a line for each field."""

    exit_status = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - 1
        rest = f" (and {more} more: hotpage auto --check lists them)" if more else ""
        super().__init__(self.problems[0] + rest)


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(parse_size(value)) if value.strip() != "0" else 0.0
    except ValueError:
        raise ValueError(f"is no size: {SIZE_ADVICE}") from None


def _absolute(path: str, subject: str = "") -> str:
    if not path.startswith("/"):
        raise ValueError(f"{subject}is no cgroup: write it as /system.slice/db.service")
    return "/" + path.strip("/")


def _all_absolute(paths: list[str]) -> list[str]:
    return [_absolute(path, f"'{path}' ") for path in paths]


def _pids(pids: list[int]) -> list[int]:
    for pid in pids:
        if not 0 < pid < PID_LIMIT:
            raise ValueError(f"{pid} is no process id: see ps -e")
    return pids


def _comms(comms: list[str]) -> list[str]:
    for comm in comms:
        if not 0 < len(comm.encode()) <= COMM_BYTES:
            raise ValueError(
                f"'{comm}' is no command name: those have 1 to {COMM_BYTES} bytes (see ps -eo comm)"
            )
    return comms


def _sources(names: list[str]) -> list[str]:
    for name in names:
        if name not in SOURCES:
            raise ValueError(f"there is no source '{name}': {_suggestion(name, SOURCES)}")
    if not names:
        raise ValueError(f"no source is named: choose from {', '.join(SOURCES)}")
    return names


def _policy(name: str) -> str:
    if name not in policies.names():
        raise ValueError(f"there is no policy '{name}': {_suggestion(name, policies.names())}")
    return name


def _address(address: str) -> str:
    if address:
        host_and_port(address)
    return address


def _directory(path: str) -> str:
    if not path:
        raise ValueError("is no directory: write it as /run/hotpage")
    return path


@dataclass(frozen=True)
class Cgroup:
    """A cgroup with its share of fast memory."""

    path: str = key(MISSING, "As in /proc/PID/cgroup; all below it belongs to it.", convert=_absolute)
    floor: float = key(
        0.0,
        "Bytes of fast memory that are never taken from it.",
        at_least=0,
        at_most=_MOST_BYTES,
        read=_size,
    )
    ceiling: float = key(float("inf"), "Bytes of fast memory that it gets at most.", at_least=0, read=_size)
    weight: float = key(
        1.0, "Its pages rank as if they were accessed so many times as often.", above=0, at_most=1e6
    )

    def check(self) -> None:
        """Raises ValueError for a floor that does not fit."""
        if self.floor > self.ceiling:
            raise ValueError("has a floor above its ceiling: lower the floor")


@dataclass(frozen=True)
class Targets:
    """Whose pages are looked after. Without pids, comms and cgroups: those of all processes."""

    all: bool = key(False, "All processes, even if some are named below.")
    pids: list[int] = key([], "Processes and their descendants.", convert=_pids)
    comms: list[str] = key([], "Command names (at most 15 bytes), present and future.", convert=_comms)
    cgroups: list[Cgroup] = key([], "Cgroups with their shares of fast memory.")
    exclude_pids: list[int] = key([], "These are left alone; descendants count by themselves.", convert=_pids)
    exclude_comms: list[str] = key([], "Processes of these command names are left alone.", convert=_comms)
    exclude_cgroups: list[str] = key(
        [], "Cgroups that are left alone, with all below them.", convert=_all_absolute
    )

    @property
    def everything(self) -> bool:
        """Whether all processes are meant."""
        return self.all or not (self.pids or self.comms or self.cgroups)


@dataclass(frozen=True)
class Observe:
    """How accesses are seen."""

    sources: list[str] = key(["hint", "fault"], "Of hint, fault and sample (PEBS, IBS).", convert=_sources)
    arm: bool = key(True, "Have the kernel arm pages; without, rates come only where it does so by itself.")


@dataclass(frozen=True)
class Budget:
    """What all this may cost."""

    cpu_percent: float = key(
        2.0,
        "Slowdown of the targets by arming, and CPU time for events (of one CPU), each.",
        above=0,
        at_most=100,
    )
    plan_percent: float = key(
        1.0, "Share of one CPU for plans: they are made as often as that allows.", above=0, at_most=100
    )
    move_rate: float = key(
        256.0 * 2**20,
        "Bytes per second that are moved to one node at most.",
        above=0,
        at_most=_MOST_BYTES,
        read=_size,
    )


@dataclass(frozen=True)
class Placement:
    """What goes where."""

    policy: str = key(
        "fit", "The policy: fit, threshold, cold or random (docs/placement.md).", convert=_policy
    )
    headroom_percent: float = key(
        2.0, "Kept free of each node above its high watermark; 50 MiB to 1 GiB, or 0.", at_least=0, at_most=50
    )
    horizon: float = key(
        60.0, "Seconds in which a move has to pay, at most; bounces shorten it.", at_least=1, at_most=3600
    )


@dataclass(frozen=True)
class Metrics:
    """For Prometheus."""

    address: str = key(
        "127.0.0.1:9753", 'HOST:PORT of the metrics, HTTP without a password; "" for none.', convert=_address
    )


@dataclass(frozen=True)
class Configuration:
    """Everything, with its defaults."""

    interval: float = key(1.0, "Seconds between two looks.", at_least=0.1, at_most=3600)
    dry_run: bool = key(False, "Plan and say so, and move nothing.")
    state_dir: str = key(
        "/run/hotpage", "For rates that were learned, the decision log, the socket.", convert=_directory
    )
    targets: Targets = Targets()
    observe: Observe = Observe()
    budget: Budget = Budget()
    placement: Placement = Placement()
    metrics: Metrics = Metrics()


def host_and_port(address: str) -> tuple[str, int]:
    """Of HOST:PORT or [IPV6]:PORT. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not (_is_host(host) and colon and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError(f"'{address}' is no address: write it as 127.0.0.1:9753")
    return host, int(port)


def _is_host(name: str) -> bool:
    try:
        return bool(name.encode("idna")) and "\0" not in name
    except UnicodeError:  # such as 127..0.1
        return False


def load(path: Path) -> Configuration:
    """The configuration of a file. Raises ConfigError for what makes no sense, UsageError without a file."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror})", "hotpage auto --print-config writes a first one"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text (byte {error.start})"]) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Configuration:
    """The configuration in a TOML text; ``name`` is what errors call it. Raises ConfigError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{name}: is no TOML: {error}"]) from None
    problems: list[Problem] = []
    made: Configuration = build(Configuration, document, (), problems)
    if problems:
        lines = sorted((line_of(text, one.place), _line(text, name, one)) for one in problems)
        raise ConfigError([line for _, line in lines])
    return made


def named_targets(document: Mapping[str, object]) -> Targets:
    """Targets of a document of their own. Raises UsageError."""
    problems: list[Problem] = []
    made: Targets = build(Targets, document, (), problems)
    if problems:
        raise UsageError(problems[0].message)
    return made


def _line(text: str, name: str, found: Problem) -> str:
    line = line_of(text, found.place)
    where = f"{name}:{line}" if line else name
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found.place).lstrip(".")
    last = str(found.place[-1]) if found.place else ""
    what = found.message
    if found.kind == "unknown":
        what = f"there is no such key: {_suggestion(last, _fields_of(found.place[:-1]))}"
    elif found.kind == "missing":
        what = f"is missing: add {last} = ..."
    elif found.kind == "type":
        what = f"{found.message}, not {found.value!r}"
    return f"{where}: {field}: {what}"


def _fields_of(place: Place) -> list[str]:
    """The keys that a section knows."""
    section: type = Configuration
    for part in place:
        if isinstance(part, str):
            section = section_of(kinds_of(section)[part]) or section
    return [one.name for one in fields(section)]


def _suggestion(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(known)}"
