# SPDX-License-Identifier: Apache-2.0
"""The file in which knob sessions remember what to put back: one JSON document under a lock.

It lives on a tmpfs by default, is replaced whole by a rename, and is worthless after a reboot, which resets
the knobs themselves: so it carries the boot id, and needs no fsync.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from hotpage.errors import KnobError
from hotpage.machine.proc import boot_id, read_living, read_stat

DEFAULT_DIRECTORY: Final = Path("/run/hotpage")
_MAGIC: Final = "hotpage-knobs"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Owner:
    """A session that relies on a knob; the start time tells it from a later process of the same pid."""

    pid: int
    start_time_ticks: int
    serial: str

    @classmethod
    def here(cls) -> Self:
        """A new owner in this process."""
        stat = read_stat(os.getpid())
        if stat is None:
            raise KnobError("this process is not in /proc", "mount the /proc of its pid namespace")
        return cls(os.getpid(), stat.start_time_ticks, os.urandom(4).hex())

    @property
    def is_alive(self) -> bool:
        """Whether that very process still runs."""
        return read_living(self.pid, start_time_ticks=self.start_time_ticks) is not None


@dataclass(slots=True)
class SavedKnob:
    """One knob's old value, the values that sessions gave it, and those sessions: the first one steers."""

    saved: str
    written: list[str] = field(default_factory=list)
    owners: list[Owner] = field(default_factory=list)

    def drop_dead(self) -> None:
        """Forget the sessions that have ended without leaving."""
        self.owners = [owner for owner in self.owners if owner.is_alive]


class KnobState:
    """The saved knobs by path; ``locked()`` gives the only way to change them."""

    def __init__(self, directory: Path | None = None) -> None:
        """``directory``: by default $HOTPAGE_STATE_DIR, else /run/hotpage."""
        self.directory = directory or Path(os.environ.get("HOTPAGE_STATE_DIR") or DEFAULT_DIRECTORY)
        self._file = self.directory / "knobs.json"

    def read(self) -> dict[str, SavedKnob]:
        """The saved knobs of this boot (a consistent view: the file is only ever replaced whole).

        Raises KnobError if the file is damaged or foreign.
        """
        try:
            document = json.loads(self._file.read_text())
            if (document["magic"], document["version"]) != (_MAGIC, _VERSION):
                raise ValueError(document["magic"], document["version"])
            if document["boot_id"] != boot_id():
                return {}
            return {path: _saved_knob(**entry) for path, entry in document["knobs"].items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise KnobError(f"{self._file} cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"{self._file} is damaged or of another version"
            raise KnobError(problem, "check the settings yourself, then remove it") from error

    @contextmanager
    def locked(self) -> Iterator[dict[str, SavedKnob]]:
        """The saved knobs, alone with them; changes are stored by ``store`` and at the end of the block.

        Raises KnobError if the directory cannot be written.
        """
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KnobError(
                f"{self.directory} cannot be written ({error.strerror})", "run hotpage as root"
            ) from error
        try:
            os.fchmod(lock, 0o600)  # who can open it can lock it, and have everybody wait
            fcntl.flock(lock, fcntl.LOCK_EX)
            knobs = self.read()
            yield knobs
            self.store(knobs)
        finally:
            os.close(lock)

    def store(self, knobs: dict[str, SavedKnob]) -> None:
        """Replace the file; without knobs, remove it. Only for a holder of the lock."""
        if not knobs:
            self._file.unlink(missing_ok=True)
            return
        this_boot = boot_id()
        if this_boot is None:  # or what is saved would not be believed, and never be put back
            raise KnobError("the kernel does not tell the boot id", "mount a /proc with all of /proc/sys")
        document = {
            "magic": _MAGIC,
            "version": _VERSION,
            "boot_id": this_boot,
            "knobs": {path: asdict(knob) for path, knob in knobs.items()},
        }
        new = self._file.with_suffix(".new")
        try:
            new.write_text(json.dumps(document, indent=1))
            new.replace(self._file)
        except OSError as error:
            raise KnobError(f"{self._file} cannot be written ({error.strerror})") from error


def _saved_knob(saved: str, written: list[str], owners: list[dict[str, Any]]) -> SavedKnob:
    return SavedKnob(saved, written, [Owner(**owner) for owner in owners])
