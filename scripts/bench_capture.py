# SPDX-License-Identifier: Apache-2.0
"""Measure capture: decoding and filtering against bcc's callback per record, and how soon ``record`` sees.

*Decode and filter.* Page faults of a first-touch storm fill a ring, of the size that ``record`` uses, while
nobody reads. Then the storm is
halted, and the CPU time is taken of reading the ring and of what recording does first with a batch: which
process is it, and which records are accesses. bcc reads rings of the same size, filled by the same program
and the same storm, in a process of its own, in turn: once with a callback that does the same, once with one
that only counts.

*First event.* From the start of ``python -m hotpage record -- CMD`` to the moment the recorder has CMD's
first page faults in hand, as it notes in the profile. CMD reads how much memory its parent, the recorder, has
resident.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hotpage.bpfsources import bpf_source_directory
from hotpage.capture import loader
from hotpage.capture.capture import DEFAULT_RING_BYTES, Capture
from hotpage.capture.events import CONFIG_DTYPE, EVENT_DTYPE, Events, EventSource, TargetKind, select
from hotpage.capture.ring import RECORD_BYTES
from hotpage.capture.sources.pagefault import TRACEPOINTS
from hotpage.capture.target import Target
from hotpage.errors import HotpageError
from hotpage.exerciser import Exerciser
from hotpage.machine.processes import ProcessTable
from hotpage.profile.disk.reader import ProfileReader

RING_BYTES = DEFAULT_RING_BYTES
ROUNDS = 25
STARTS = 5
_RECORDS = RING_BYTES // RECORD_BYTES
_SETTLE_S = 0.1
_PEER = Path(__file__).with_name("bcc_callback.py")
_TELL_PARENTS_MEMORY = 'read all resident rest </proc/$PPID/statm; echo "$resident"; sleep 0.3'


class BenchError(HotpageError):
    """A measurement that did not come about."""


def run() -> dict[str, float]:
    """All figures; rates in million events per CPU second."""
    return {**_decoding(), **_starting()}


@dataclass(frozen=True)
class Consumption:
    """What emptying a ring took."""

    events: int
    cpu_s: float

    @property
    def million_events_per_cpu_s(self) -> float:
        return self.events / self.cpu_s / 1e6


class Ours:
    """hotpage's way."""

    def __init__(self, storm: Exerciser) -> None:
        self._pid = storm.pid
        self._processes = ProcessTable()
        self._processes.add(storm.pid)
        self._capture = Capture(
            ("fault",), forced_rungs={"fault": "tracepoint"}, ring_bytes=RING_BYTES, shards=1
        )

    def fill(self) -> None:
        self._capture.set_target(Target.processes([self._pid]))

    def consume(self) -> Consumption:
        self._capture.set_target(Target.nothing())
        time.sleep(_SETTLE_S)
        begun_s = time.process_time()
        events = self._capture.read()
        kept = self._filter(events)
        cpu_s = time.process_time() - begun_s
        if len(kept) != len(events):
            raise BenchError(f"the filter kept {len(kept)} of {len(events)} page faults")
        return Consumption(len(events), cpu_s)

    def _filter(self, events: Events) -> Events:
        """As recording.observer does first."""
        process = self._processes.indices_of(events["tgid"])
        known = process >= 0
        if not known.all():
            events, process = select(events, known), process[known]
        accesses = np.isin(events["source"], (EventSource.HINT_FAULT, EventSource.PAGE_FAULT))
        events, process = select(events, accesses), process[accesses]
        return events

    def close(self) -> None:
        self._capture.close()


class Peer:
    """bcc's way; ``kind``: "filter" or "empty" (see bcc_callback.py)."""

    def __init__(self, storm: Exerciser) -> None:
        self._process = subprocess.Popen(
            [_interpreter_with_bcc(), "-I", str(_PEER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "BCC_KERNEL_SOURCE": str(bpf_source_directory())},
        )
        self._say(json.dumps(peer_request(storm.pid)))
        self._answer()

    def fill(self) -> None:
        self._say("fill")

    def consume(self, kind: str) -> Consumption:
        self._say(kind)
        return Consumption(**json.loads(self._answer()))

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("bcc's side of the comparison died", "see its message above")
        return line

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def peer_request(pid: int) -> dict[str, object]:
    """What the peer needs: the same program, the same layout, the same target."""
    config = np.zeros(1, CONFIG_DTYPE)
    config["page_faults"] = config["page_fault_one_in"] = 1
    off = config.tobytes().hex()
    config["target"] = TargetKind.PIDS
    offsets = {name: EVENT_DTYPE.fields[name][1] for name in ("tgid", "source")} if EVENT_DTYPE.fields else {}
    defines = {"HOTPAGE_RING_PAGES": RING_BYTES // os.sysconf("SC_PAGE_SIZE"), "HOTPAGE_RING_SHARDS": 1}
    return {
        "source": loader.compose_source(["pagefault.bpf.c"]),
        "cflags": loader.compiler_flags(defines),
        "attach": {attachment.hook: attachment.function for attachment in TRACEPOINTS},
        "ring": "ring0",
        "tgid_offset": offsets["tgid"],
        "source_offset": offsets["source"],
        "pid": pid,
        "on": config.tobytes().hex(),
        "off": off,
    }


def _interpreter_with_bcc() -> str:
    for candidate in loader.interpreters_with_bcc():
        if not subprocess.run([candidate, "-Ic", "from bcc import BPF"], capture_output=True).returncode:
            return candidate
    raise BenchError("bcc is not installed", loader.installation_command())


@contextmanager
def _halted(storm: Exerciser) -> Iterator[None]:
    """The storm stands still."""
    os.kill(storm.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(storm.pid, signal.SIGCONT)


def _await_faults(storm: Exerciser) -> None:
    """Wait until there were enough of them to fill a ring."""
    wanted = storm.accesses() + _RECORDS + _RECORDS // 4
    while storm.accesses() < wanted:
        time.sleep(0.01)


def _decoding() -> dict[str, float]:
    """The sides take turns, so that whatever else the machine does hits all alike."""
    taken: dict[str, list[float]] = {"ours": [], "filter": [], "empty": []}
    with Exerciser.start(pattern="storm", threads=2) as storm:
        ours, peer = Ours(storm), Peer(storm)
        try:
            for _ in range(ROUNDS):
                for name, rates in taken.items():
                    side = ours if name == "ours" else peer
                    side.fill()
                    _await_faults(storm)
                    with _halted(storm):
                        done = ours.consume() if name == "ours" else peer.consume(name)
                    if done.events < 0.99 * _RECORDS:
                        raise BenchError(f"the ring held only {done.events} of {_RECORDS} events")
                    rates.append(done.million_events_per_cpu_s)
        finally:
            peer.close()
            ours.close()
    median = {name: statistics.median(rates) for name, rates in taken.items()}
    return {
        "decode_million_events_per_cpu_s": median["ours"],
        "bcc_callback_million_events_per_cpu_s": median["filter"],
        "bcc_counting_callback_million_events_per_cpu_s": median["empty"],
        "ratio": median["ours"] / median["filter"],
        "ratio_to_counting_callback": median["ours"] / median["empty"],
        "events_per_round": _RECORDS,
        "rounds": ROUNDS,
    }


def _starting() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="hotpage-bench-") as scratch:
        _start(Path(scratch), "warm-up")  # compiles the modules, as an installation does
        starts = [_start(Path(scratch), f"profile-{number}") for number in range(STARTS)]
    seconds, resident_mb = zip(*starts, strict=True)
    return {
        "first_event_s": statistics.median(seconds),
        "first_event_worst_s": max(seconds),
        "rss_mb": statistics.median(resident_mb),
        "starts": STARTS,
    }


def _start(scratch: Path, name: str) -> tuple[float, float]:
    """Record a command once: seconds to its first event, and resident MB of the recorder before."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(scratch / "bytecode")
    command = [sys.executable, "-P", "-m", "hotpage", "record", "-o", str(scratch / name)]
    begun_s = time.monotonic()
    done = subprocess.run(
        [*command, "--", "/bin/sh", "-c", _TELL_PARENTS_MEMORY],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BenchError(f"hotpage record ended with {done.returncode}: {done.stderr.strip()}")
    run = ProfileReader(scratch / name).snapshot()
    if run.end is None or run.end.first_event_s is None:
        raise BenchError("hotpage record saw no event of the command")
    resident_bytes = int(done.stdout) * os.sysconf("SC_PAGE_SIZE")
    return run.run.origin_monotonic_ns / 1e9 + run.end.first_event_s - begun_s, resident_bytes / 1e6


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
