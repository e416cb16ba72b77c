# SPDX-License-Identifier: Apache-2.0
"""A workload whose hot pages are known: ``with Exerciser.start(threads=2) as exerciser: ...``.

The work is done by another process: exerciser.c, compiled on the spot, or exerciser.py where there is no
compiler. Which pages are hot is chosen here and handed to it, so the truth has one source.
"""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from hotpage.errors import HotpageError

Pattern = Literal["hot", "steady", "storm", "sweep"]
Layout = Literal["block", "scattered"]

_HERE = Path(__file__).resolve().parent
_PAGES_PER_MIB = 256
_COUNTER_STRIDE = 8  # 64-bit words; one cache line per thread
_START_TIMEOUT_S = 180.0
_DRAWS = 1 << 20
# Else numpy's linear algebra starts a thread per CPU on import, and one thread would not be one thread.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class ExerciserError(HotpageError):
    """The workload did not start."""


class Exerciser:
    """A running workload: from ``start`` to ``stop``, the end of the ``with``, or this process's death.

    ``pid``; ``base``: address of its memory (0 for a storm); ``pages``: 4 KiB pages; ``page_shares``: the
    truth, float64[pages], each page's share of the accesses; ``hot_vpns``: ``address >> 12`` of the hot
    pages, int64[], sorted; ``hot_share``: their share of the accesses; ``compiled``: C or numpy.
    """

    def __init__(
        self,
        directory: Path,
        process: subprocess.Popen[bytes],
        hot_pages: NDArray[np.int64],
        hot_share: float,
        page_shares: NDArray[np.float64],
        shift_pages: int,
    ) -> None:
        self._directory = directory
        self._process = process
        first = self._first_line()
        self.pid: int = first["pid"]
        self.base: int = first["base"]
        self.pages: int = first["pages"]
        self.hot_vpns = hot_pages + (self.base >> 12)
        self.hot_share = hot_share
        self.page_shares = page_shares
        self._shift_pages = shift_pages
        self.compiled = (directory / "exerciser").exists()
        self._counters = np.memmap(directory / "counters", np.uint64, "r")[::_COUNTER_STRIDE]
        self._last = (time.monotonic(), self.accesses())

    @classmethod
    def start(
        cls,
        *,
        mib: int = 200,
        hot_fraction: float = 0.1,
        hot_share: float = 0.9,
        threads: int = 2,
        seconds: float | None = None,
        pattern: Pattern = "hot",
        layout: Layout = "block",
        page_shares: NDArray[np.float64] | None = None,
        shift_pages: int = 0,
        stride: int = 1,
        work: int = 0,
        huge: bool = False,
        seed: int = 1,
        interval_s: float = 0.1,
        compiler: str | None = "cc",
    ) -> Self:
        """Start the workload and return once all its pages are there.

        pattern: "hot" writes to random pages, ``hot_share`` of the writes to ``hot_fraction`` of the pages;
        "steady" is the same and notes its progress every ``interval_s`` (see ``intervals``); "sweep" writes
        to every ``stride``-th page in turn, over and over; "storm" maps, touches every page once and unmaps,
        again and again, and notes its progress too. layout: the hot pages are one block at a random place,
        or scattered; ``seed`` chooses them. page_shares: float64[pages], the share of the accesses that each
        page shall get, instead of hot and cold ones (see ``zipf_shares``). shift_pages: how far ``shift``
        moves every access. work: rounds of arithmetic between two accesses. huge: in huge pages. threads: 1
        means a process with one thread. seconds: None means until stopped. compiler: None means numpy. The
        calling thread must live on: the kernel kills the workload when that thread ends.

        Raises ExerciserError when it does not come up.
        """
        pages = mib * _PAGES_PER_MIB
        has_hot_pages = pattern in ("hot", "steady") and page_shares is None
        hot = choose_hot_pages(pages, hot_fraction if has_hot_pages else 0.0, layout, seed)
        directory = Path(tempfile.mkdtemp(prefix="hotpage-exerciser-"))
        hot.astype(np.uint32).tofile(directory / "hot-pages")
        options: dict[str, object] = {
            "mib": mib,
            "threads": threads,
            "seconds": seconds or 0,
            "hot-pages": directory / "hot-pages",
            "hot-share": hot_share,
            "shift": shift_pages,
            "stride": stride,
            "work": work,
            "interval": 0 if pattern in ("hot", "sweep") else interval_s,
            "counters": directory / "counters",
            "parent": os.getpid(),
        }
        if page_shares is not None:
            draws = _draws(page_shares)
            draws.tofile(directory / "draws")
            options["draws"] = directory / "draws"
            page_shares = np.bincount(draws, minlength=pages) / draws.size
        elif pattern == "sweep":
            page_shares = np.zeros(pages)
            page_shares[::stride] = 1 / len(page_shares[::stride])
        else:
            page_shares = _shares_of(pages, hot, hot_share)
        program = _compile(directory, compiler) or [sys.executable, str(_HERE / "exerciser.py")]
        flags = ["--huge"] if huge else []
        mode = pattern if pattern in ("storm", "sweep") else "access"
        with (directory / "output").open("wb") as output, (directory / "errors").open("wb") as errors:
            process = subprocess.Popen(
                [*program, mode, *(f"--{name}={value}" for name, value in options.items()), *flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=os.environ | _ONE_THREAD,
            )
        try:
            return cls(directory, process, hot, hot_share, page_shares, shift_pages)
        except BaseException:
            _end(process, directory)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def shift(self) -> None:
        """Move every access ``shift_pages`` up, around the end: the hot set is another from now on."""
        os.kill(self.pid, signal.SIGUSR1)
        self.page_shares = np.roll(self.page_shares, self._shift_pages)
        first_vpn = self.base >> 12
        self.hot_vpns = np.sort((self.hot_vpns - first_vpn + self._shift_pages) % self.pages) + first_vpn

    def accesses(self) -> int:
        """Return the number of accesses (storm: of page faults) so far."""
        return int(self._counters.sum())

    def throughput(self) -> float:
        """Return accesses (storm: page faults) per second since the last call, or since the start."""
        last_s, last_count = self._last
        self._last = (time.monotonic(), self.accesses())
        return (self._last[1] - last_count) / max(self._last[0] - last_s, 1e-9)

    def page_rates_hz(self, throughput: float) -> tuple[float, float]:
        """Return the true accesses/s of one (hot, cold) page when all pages together get ``throughput``."""
        is_hot = np.zeros(self.pages, bool)
        is_hot[self.hot_vpns - (self.base >> 12)] = True
        hot, cold = self.page_shares[is_hot], self.page_shares[~is_hot]
        return throughput * hot.sum() / max(hot.size, 1), throughput * cold.sum() / max(cold.size, 1)

    def intervals(self) -> NDArray[np.float64]:
        """Return what "steady" and "storm" noted: rows (CLOCK_MONOTONIC seconds at its end, accesses)."""
        notes = [json.loads(line) for line in self._lines()[1:]]
        totals = np.array([(note["time_s"], note["accesses"]) for note in notes], np.float64).reshape(-1, 2)
        return np.column_stack([totals[1:, 0], np.diff(totals[:, 1])])

    def stop(self) -> None:
        """End the workload and forget what it noted; a second call does nothing."""
        _end(self._process, self._directory)

    def _lines(self) -> list[str]:
        text = (self._directory / "output").read_text()
        return text[: text.rfind("\n") + 1].splitlines()

    def _first_line(self) -> dict[str, int]:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not (lines := self._lines()):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                said = (self._directory / "errors").read_text().strip().splitlines()
                raise ExerciserError("the exerciser did not start", said[-1] if said else None)
            time.sleep(0.005)
        first: dict[str, int] = json.loads(lines[0])
        return first


def choose_hot_pages(pages: int, fraction: float, layout: Layout, seed: int) -> NDArray[np.int64]:
    """Return which of ``pages`` pages are hot: sorted page numbers, the same ones for the same seed."""
    count = round(pages * fraction)
    random = np.random.default_rng(seed)
    if layout == "scattered":
        return np.sort(random.choice(pages, count, replace=False)).astype(np.int64)
    return np.arange(count, dtype=np.int64) + random.integers(0, pages - count + 1)


def zipf_shares(pages: int, exponent: float = 0.99, seed: int = 1) -> NDArray[np.float64]:
    """Shares of the accesses by Zipf's law, the ranks dealt out to the pages at random: float64[pages]."""
    share = np.arange(1, pages + 1, dtype=np.float64) ** -exponent
    shuffled: NDArray[np.float64] = np.random.default_rng(seed).permutation(share / share.sum())
    return shuffled


def _draws(page_shares: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Page numbers, each as often as its share says; shares below a draw in a million may be lost."""
    total = np.cumsum(page_shares)
    places = (np.arange(_DRAWS) + 0.5) / _DRAWS * total[-1]
    draws: NDArray[np.uint32] = np.searchsorted(total, places, side="right").astype(np.uint32)
    return draws


def _shares_of(pages: int, hot: NDArray[np.int64], hot_share: float) -> NDArray[np.float64]:
    is_hot = np.zeros(pages, bool)
    is_hot[hot] = True
    share = hot_share if 0 < hot.size < pages else float(hot.size > 0)
    return np.where(is_hot, share / max(hot.size, 1), (1 - share) / max(pages - hot.size, 1))


def _compile(directory: Path, compiler: str | None) -> list[str] | None:
    """Put exerciser.c's program into ``directory``; None where no compiler makes one that runs."""
    code = _compiled(compiler) if compiler is not None else None
    if code is None:
        return None
    program = directory / "exerciser"
    program.write_bytes(code)
    program.chmod(0o700)
    return [str(program)]


@functools.cache
def _compiled(compiler: str) -> bytes | None:
    """exerciser.c's program, which is compiled once for each process."""
    with tempfile.TemporaryDirectory(prefix="hotpage-exerciser-") as scratch:
        program = str(Path(scratch, "exerciser"))
        source = str(_HERE / "exerciser.c")
        try:
            subprocess.run(
                [compiler, "-O2", "-pthread", "-o", program, source],
                check=True,
                capture_output=True,
                timeout=60,
            )
            subprocess.run([program, "--help"], check=True, capture_output=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return Path(program).read_bytes()


def _end(process: subprocess.Popen[bytes], directory: Path) -> None:
    process.kill()
    process.wait()
    shutil.rmtree(directory, ignore_errors=True)
