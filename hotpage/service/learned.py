# SPDX-License-Identifier: Apache-2.0
"""Rates that outlive the service: written while it runs, and taken up by the next one if they are recent.

One file, replaced whole by a rename. It belongs to a boot and to processes by pid and start time, and has no
worth after either: so it needs no fsync. What was learned stands in for pages without a rate of their own,
for ``TRUSTED_S`` at most.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hotpage.errors import HotpageError
from hotpage.heat.results import Folios
from hotpage.machine.proc import boot_id
from hotpage.machine.processes import Process
from hotpage.service.heatfeed import Picture

TRUSTED_S = 300.0
"""From when it was written."""
MOST_ROWS = 1 << 22
_FILE = "rates.npz"
_MAGIC, _VERSION = "hotpage-rates", 1
_LEAST_ERROR = 0.5
"""A rate from before is not surer than that."""

Identity = tuple[int, int]


class DamagedError(HotpageError):
    """What an earlier service left cannot be read."""


@dataclass(frozen=True)
class Learned:
    """Rates by process, (pid, start time in ticks), of which the newest was ``age_s`` old at the start."""

    folios: Mapping[Identity, Folios]
    age_s: float

    def is_over(self, time_s: float) -> bool:
        """Whether all of it is too old, so many seconds into the session."""
        return self.age_s + time_s > TRUSTED_S

    def fill(self, process: Process, now: Folios, time_s: float) -> Folios:
        """``now`` with what was learned before of pages that have no rate yet."""
        before = self.folios.get((process.pid, process.start_time_ticks))
        if before is None or self.is_over(time_s):
            return now
        known = now.vpn[~np.isnan(now.rate_hz)]
        use = ~np.isin(before.vpn, known)
        kept = ~(np.isnan(now.rate_hz) & np.isin(now.vpn, before.vpn[use]))
        vpn = np.concatenate((now.vpn[kept], before.vpn[use]))
        order = np.argsort(vpn, kind="stable")
        error = np.maximum(before.relative_error[use], np.float32(_LEAST_ERROR))
        return Folios(
            vpn[order],
            np.concatenate((now.pages[kept], before.pages[use]))[order],
            np.concatenate((now.rate_hz[kept], before.rate_hz[use]))[order],
            np.concatenate((now.rate_short_hz[kept], before.rate_hz[use]))[order],
            np.concatenate((now.relative_error[kept], error))[order],
        )


def save(directory: Path, picture: Picture) -> None:
    """Write what the picture knows. Raises OSError."""
    identities, parts, room = [], [], MOST_ROWS
    for index, folios in sorted(picture.folios.items(), key=lambda item: -len(item[1])):
        known = np.flatnonzero(~np.isnan(folios.rate_hz))[:room]
        if not known.size:
            continue
        room -= known.size
        process = picture.processes[index].process
        identities.append((process.pid, process.start_time_ticks, known.size))
        parts.append(
            [column[known] for column in (folios.vpn, folios.pages, folios.rate_hz, folios.relative_error)]
        )
    header = {"magic": _MAGIC, "version": _VERSION, "boot_id": picture.run.boot_id}
    header["saved_unix_s"] = time.time()
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] or [np.empty(0)] * 4
    new = directory / (_FILE + ".new")
    with new.open("wb") as file:
        np.savez(
            file,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            identity=np.array(identities, np.int64).reshape(-1, 3),
            vpn=columns[0],
            pages=columns[1],
            rate_hz=columns[2],
            relative_error=columns[3],
        )
    new.replace(directory / _FILE)


def load(directory: Path, now_unix_s: float | None = None) -> Learned | None:
    """What an earlier service left; None without any, or if it is too old or of another boot.

    Raises DamagedError.
    """
    path = directory / _FILE
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            header = json.loads(bytes(file["header"]))
            if (header["magic"], header["version"]) != (_MAGIC, _VERSION):
                return None
            age_s = (time.time() if now_unix_s is None else now_unix_s) - float(header["saved_unix_s"])
            if header["boot_id"] != (boot_id() or "") or not 0 <= age_s <= TRUSTED_S:
                return None
            columns = [file[name] for name in ("vpn", "pages", "rate_hz", "relative_error")]
            folios, low = {}, 0
            for pid, start_time_ticks, count in file["identity"].tolist():
                vpn, pages, rate_hz, error = (column[low : low + count] for column in columns)
                if {vpn.size, pages.size, rate_hz.size, error.size} != {count}:
                    raise ValueError("columns of different lengths")
                folios[pid, start_time_ticks] = Folios(vpn, pages, rate_hz, rate_hz, error)
                low += count
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, zlib and numpy raise whatever a damaged file leads them to
        raise DamagedError(
            f"{path} is damaged ({' '.join(str(error).split()) or type(error).__name__})"
        ) from error
    return Learned(folios, age_s)
