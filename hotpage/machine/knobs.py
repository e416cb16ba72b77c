# SPDX-License-Identifier: Apache-2.0
"""Kernel settings that hotpage changes for a session, and puts back whatever happens.

The old value is in a state file before the first write. The last session that relies on a knob restores it;
after a kill, the next session or ``restore()`` does. A knob that somebody else has set meanwhile is left
alone.
"""

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from hotpage.errors import KnobError
from hotpage.machine.knobstate import KnobState, Owner, SavedKnob

NUMA_BALANCING: Final = Path("/proc/sys/kernel/numa_balancing")

# Some sysfs files show all choices and mark the one in force: "always [madvise] never".
_CHOSEN: Final = re.compile(r"\[(\S+)\]")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one knob when its last session left."""

    path: str
    saved: str
    found: str
    result: Literal["restored", "unchanged", "foreign", "failed"]
    reason: str = ""

    def __str__(self) -> str:
        match self.result:
            case "restored":
                return f"{self.path}: restored to {self.saved} (was {self.found})"
            case "unchanged":
                return f"{self.path}: already {self.saved}"
            case "foreign":
                return f"{self.path}: left at {self.found}, set by somebody else (it was {self.saved} before)"
            case "failed":
                return f"{self.path}: not restored to {self.saved}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Pending:
    """A knob that is not at its old value yet; ``pids`` are the living sessions that rely on it."""

    path: str
    saved: str
    pids: tuple[int, ...]


def read_knob(path: Path) -> str:
    """The setting's value without white space at the ends; the chosen word where the file lists all choices.

    Raises KnobError.
    """
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise _refused(path, error, "read") from error
    chosen = _CHOSEN.search(text)
    return chosen[1] if chosen else text


class Knob:
    """One setting on behalf of a session; made by ``KnobSession.knob``."""

    def __init__(self, path: Path, state: KnobState, owner: Owner) -> None:
        self.path = path
        self._state = state
        self._owner = owner
        self._steering = False
        self._known: set[str] = set()
        try:
            # Kept open: setting a value stays possible after capabilities are dropped, and is cheap.
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _refused(path, error, "written") from error
        try:
            self._saved = self._register()
        except BaseException:
            self.close()
            raise

    @property
    def steering(self) -> bool:
        """Whether this session, and no other, sets the knob."""
        return self._steering

    def try_steer(self) -> bool:
        """Take the knob over if the session that steered it has gone; True if this session steers it."""
        if not self._steering:
            with self._state.locked() as knobs:
                self._look(self.entry_in(knobs))
        return self._steering

    def set(self, value: str | int) -> bool:
        """Set the knob; False if another session steers it, which leaves it as it is.

        The first use of a value costs a state file update, all others one write(2). Raises KnobError.
        """
        text = str(value)
        if not self.try_steer():
            return False
        if text in self._known:
            self._put(text)
            return True
        self._remember(text)
        self._put(text)
        # The kernel may spell the value its own way ("1" -> "Y").
        self._remember(read_knob(self.path))
        self._known.add(text)
        return True

    def close(self) -> None:
        """Stop using the file; the value stays."""
        os.close(self._fd)

    def entry_in(self, knobs: dict[str, SavedKnob]) -> SavedKnob:
        """The knob's entry in the locked state; made again if somebody has removed the state file."""
        return knobs.setdefault(str(self.path), SavedKnob(self._saved, sorted(self._known), [self._owner]))

    def _register(self) -> str:
        with self._state.locked() as knobs:
            if str(self.path) not in knobs:
                knobs[str(self.path)] = SavedKnob(read_knob(self.path))
            entry = knobs[str(self.path)]
            entry.owners.append(self._owner)
            self._look(entry)
            return entry.saved

    def _look(self, entry: SavedKnob) -> None:
        entry.drop_dead()
        self._steering = entry.owners[0] == self._owner
        self._known = set(entry.written)

    def _remember(self, value: str) -> None:
        if value not in self._known:
            with self._state.locked() as knobs:
                self.entry_in(knobs).written.append(value)
            self._known.add(value)

    def _put(self, value: str) -> None:
        try:
            os.ftruncate(self._fd, 0)  # as O_TRUNC would, which sysctl and debugfs files accept
            self._write(value.encode() + b"\n")
        except OSError as error:
            raise _refused(self.path, error, f"set to {value}") from error

    def _write(self, text: bytes) -> None:
        try:
            os.pwrite(self._fd, text, 0)
        except OSError as error:
            if error.errno != errno.ESPIPE:
                raise
            os.write(self._fd, text)  # files of debugfs have no position


class KnobSession:
    """Context in which knobs may be changed; leaving it puts back those that no other session relies on.

    Nothing is written, not even the state file, before a knob is asked for. Entering restores what dead
    sessions have left.
    """

    def __init__(self, state_directory: Path | None = None) -> None:
        """``state_directory``: by default $HOTPAGE_STATE_DIR, else /run/hotpage."""
        self._state = KnobState(state_directory)
        self._owner = Owner.here()
        self._knobs: dict[Path, Knob] = {}
        self.recovered: list[Outcome] = []
        """What earlier sessions had left behind and was put back on entering."""

    def __enter__(self) -> Self:
        if self._state.read():
            self.recovered = restore(self._state.directory)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failed = [outcome for outcome in self.close() if outcome.result == "failed"]
        if failed and error is None:
            raise KnobError(str(failed[0]), "hotpage restore tries again")

    def knob(self, path: Path | str) -> Knob:
        """Save the setting's value and rely on it until the session ends. Raises KnobError."""
        key = Path(path)
        if key not in self._knobs:
            self._knobs[key] = Knob(key, self._state, self._owner)
        return self._knobs[key]

    def write(self, path: Path | str, value: str | int) -> bool:
        """Save the setting and set it; False if another session steers it. Raises KnobError."""
        return self.knob(path).set(value)

    def close(self) -> list[Outcome]:
        """Leave: restore the knobs that no other living session relies on."""
        knobs, self._knobs = self._knobs, {}
        if not knobs:
            return []
        for knob in knobs.values():
            knob.close()
        with self._state.locked() as saved:
            for knob in knobs.values():
                knob.entry_in(saved).owners.remove(self._owner)
            return _restore_unused(saved)


def restore(state_directory: Path | None = None) -> list[Outcome]:
    """Put back every knob whose sessions have all ended; empty if there is none. Raises KnobError.

    What could not be restored stays pending.
    """
    state = KnobState(state_directory)
    if not state.read():
        return []
    with state.locked() as saved:
        return _restore_unused(saved)


def pending(state_directory: Path | None = None) -> list[Pending]:
    """The knobs that are saved and not restored yet, with the living sessions that rely on them."""
    found = []
    for path, entry in KnobState(state_directory).read().items():
        entry.drop_dead()
        found.append(Pending(path, entry.saved, tuple(owner.pid for owner in entry.owners)))
    return found


def _restore_unused(saved: dict[str, SavedKnob]) -> list[Outcome]:
    outcomes = []
    # What was set last goes back first: no promotion without its limit, however short.
    for path, entry in reversed(list(saved.items())):
        entry.drop_dead()
        if entry.owners:
            continue
        outcome = _restore_one(path, entry)
        outcomes.append(outcome)
        if outcome.result != "failed":
            del saved[path]
    return outcomes


def _restore_one(path: str, entry: SavedKnob) -> Outcome:
    found = ""
    try:
        found = read_knob(Path(path))
        if found == entry.saved:
            return Outcome(path, entry.saved, found, "unchanged")
        if found not in entry.written:
            return Outcome(path, entry.saved, found, "foreign")
        _write(Path(path), entry.saved)
    except KnobError as error:
        return Outcome(path, entry.saved, found, "failed", str(error))
    return Outcome(path, entry.saved, found, "restored")


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value + "\n")
    except OSError as error:
        raise _refused(path, error, f"set to {value}") from error


def _refused(path: Path, error: OSError, verb: str) -> KnobError:
    if error.errno == errno.ENOENT:
        return KnobError(f"this kernel has no {path}")
    if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        remedy = (
            "run hotpage as root"
            if os.geteuid() != 0
            else "the kernel is locked down, or a container sees its settings read-only"
        )
        return KnobError(f"{path} cannot be {verb} ({error.strerror})", remedy)
    return KnobError(f"{path} cannot be {verb} ({error.strerror})")
