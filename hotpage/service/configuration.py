# SPDX-License-Identifier: Apache-2.0
"""What ``hotpage auto`` is told to do: a TOML file, checked field by field.

The models below are the reference: ``--print-config`` and docs/auto.md are made from their descriptions.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from hotpage.errors import HotpageError, UsageError
from hotpage.placement import policies
from hotpage.service.configtext import line_of
from hotpage.views.units import parse_size

DEFAULT_FILE = Path("/etc/hotpage.toml")
SOURCES = ("hint", "fault", "sample")
_LONGEST_COMM_BYTES = 15
_LARGEST_PID = 1 << 22


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
        raise ValueError("is no size: write it as 4096, 64M or 1.5G") from None


Size = Annotated[float, BeforeValidator(_size)]
"""Bytes; in the file a number or a string such as "64M"."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Cgroup(_Section):
    """A cgroup with its share of fast memory."""

    path: str = Field(description="As in /proc/PID/cgroup; all below it belongs to it.")
    floor: Size = Field(0.0, ge=0, description="Bytes of fast memory that are never taken from it.")
    ceiling: Size = Field(float("inf"), ge=0, description="Bytes of fast memory that it gets at most.")
    weight: float = Field(
        1.0, gt=0, le=1e6, description="Its pages rank as if they were accessed so many times as often."
    )

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError("is no cgroup: write it as /system.slice/db.service")
        return "/" + path.strip("/")

    @model_validator(mode="after")
    def _floor_fits(self) -> Self:
        if self.floor > self.ceiling:
            raise ValueError("has a floor above its ceiling: lower the floor")
        return self


class Targets(_Section):
    """Whose pages are looked after. Without pids, comms and cgroups: those of all processes."""

    all: bool = Field(False, description="All processes, even if some are named below.")
    pids: list[int] = Field([], description="Processes and their descendants.")
    comms: list[str] = Field([], description="Command names (at most 15 bytes), present and future.")
    cgroups: list[Cgroup] = Field([], description="Cgroups with their shares of fast memory.")
    exclude_pids: list[int] = Field([], description="These are left alone; descendants count by themselves.")
    exclude_comms: list[str] = Field([], description="Processes of these command names are left alone.")
    exclude_cgroups: list[str] = Field([], description="Cgroups that are left alone, with all below them.")

    @field_validator("pids", "exclude_pids")
    @classmethod
    def _are_pids(cls, pids: list[int]) -> list[int]:
        for pid in pids:
            if not 0 < pid <= _LARGEST_PID:
                raise ValueError(f"{pid} is no process id: see ps -e")
        return pids

    @field_validator("comms", "exclude_comms")
    @classmethod
    def _are_comms(cls, comms: list[str]) -> list[str]:
        for comm in comms:
            if not 0 < len(comm.encode()) <= _LONGEST_COMM_BYTES:
                raise ValueError(f"'{comm}' is no command name: those have 1 to 15 bytes (see ps -eo comm)")
        return comms

    @field_validator("exclude_cgroups")
    @classmethod
    def _are_cgroups(cls, paths: list[str]) -> list[str]:
        for path in paths:
            if not path.startswith("/"):
                raise ValueError(f"'{path}' is no cgroup: write it as /system.slice/db.service")
        return ["/" + path.strip("/") for path in paths]

    @property
    def everything(self) -> bool:
        """Whether all processes are meant."""
        return self.all or not (self.pids or self.comms or self.cgroups)


class Observe(_Section):
    """How accesses are seen."""

    sources: list[str] = Field(["hint", "fault"], description="Of hint, fault and sample (PEBS, IBS).")
    arm: bool = Field(
        True, description="Have the kernel arm pages; without, rates come only where it does so by itself."
    )

    @field_validator("sources")
    @classmethod
    def _are_sources(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in SOURCES:
                raise ValueError(f"there is no source '{name}': {_suggestion(name, SOURCES)}")
        if not names:
            raise ValueError(f"no source is named: choose from {', '.join(SOURCES)}")
        return names


class Budget(_Section):
    """What all this may cost."""

    cpu_percent: float = Field(
        2.0, gt=0, le=100, description="Slowdown of the targets, and hotpage's own CPU time, each."
    )
    plan_percent: float = Field(
        1.0, gt=0, le=100, description="Share of one CPU for plans: they are made as often as that allows."
    )
    move_rate: Size = Field(
        256.0 * 2**20, gt=0, description="Bytes per second that are moved to one node at most."
    )


class Placement(_Section):
    """What goes where."""

    policy: str = Field("fit", description="The policy: fit, threshold, cold or random (docs/placement.md).")
    headroom_percent: float = Field(
        2.0, ge=0, le=50, description="Kept free of each node above its high watermark; 50 MiB to 1 GiB."
    )
    horizon: float = Field(
        60.0, ge=1, le=3600, description="Seconds in which a move has to pay, at most; bounces shorten it."
    )

    @field_validator("policy")
    @classmethod
    def _is_policy(cls, name: str) -> str:
        if name not in policies.names():
            raise ValueError(f"there is no policy '{name}': {_suggestion(name, policies.names())}")
        return name


class Metrics(_Section):
    """For Prometheus."""

    address: str = Field(
        "127.0.0.1:9753", description='HOST:PORT of the metrics, HTTP without a password; "" for none.'
    )

    @field_validator("address")
    @classmethod
    def _is_address(cls, address: str) -> str:
        if address:
            host_and_port(address)
        return address


class Configuration(_Section):
    """Everything, with its defaults."""

    interval: float = Field(1.0, ge=0.1, le=3600, description="Seconds between two looks.")
    dry_run: bool = Field(False, description="Plan and say so, and move nothing.")
    state_dir: str = Field(
        "/run/hotpage", min_length=1, description="For rates that were learned, the decision log, the socket."
    )
    targets: Targets = Targets()
    observe: Observe = Observe()
    budget: Budget = Budget()
    placement: Placement = Placement()
    metrics: Metrics = Metrics()


def host_and_port(address: str) -> tuple[str, int]:
    """Of HOST:PORT or [IPV6]:PORT. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError(f"'{address}' is no address: write it as 127.0.0.1:9753")
    return host.strip("[]"), int(port)


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
    try:
        return Configuration.model_validate(document)
    except ValidationError as error:
        problems = sorted(_problem(text, name, found) for found in error.errors(include_url=False))
        raise ConfigError([problem for _, problem in problems]) from None


def _problem(text: str, name: str, found: Any) -> tuple[int, str]:
    """A line for one error, after the number of the line it is about (0: nobody knows)."""
    place: tuple[str | int, ...] = found["loc"]
    line = line_of(text, place)
    where = f"{name}:{line}" if line else name
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    kind, message = found["type"], found["msg"]
    if kind == "extra_forbidden":
        known = _fields_of(place[:-1])
        what = f"{field}: there is no such key: {_suggestion(str(place[-1]), known)}"
    elif kind == "missing":
        what = f"{field}: is missing: add {place[-1]} = ..."
    elif kind == "value_error":
        what = f"{field}: {message.removeprefix('Value error, ')}"
    else:
        what = f"{field}: {message[:1].lower()}{message[1:]}, not {found['input']!r}"
    return line, f"{where}: {what}"


def _fields_of(place: tuple[str | int, ...]) -> list[str]:
    """The keys that a section knows."""
    model: type[BaseModel] = Configuration
    for part in place:
        if part == "cgroups":
            model = Cgroup
        elif isinstance(part, str) and part in model.model_fields:
            kind = model.model_fields[part].annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
    return list(model.model_fields)


def _suggestion(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(known)}"
