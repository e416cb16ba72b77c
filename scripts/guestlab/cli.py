# SPDX-License-Identifier: Apache-2.0
"""scripts/lab: run a command in a guest, or in each there is; open a shell in one; list the kernels."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

from guestlab import kernels, terminal, topology
from guestlab.errors import GuestError, LabError
from guestlab.guest import CHECKOUT, Guest

_LIMIT_S: Final = 600.0
_USAGE: Final = """\
scripts/lab [--kernel NAME|PATH] [--topology NAME] [--systemd] [--limit S] [-- CMD ...]
       scripts/lab matrix [-- CMD ...]
       scripts/lab kernels [--fetch]"""
_DEFAULT_MATRIX_COMMAND: Final = ("hotpage", "tiers")


class _Ended(BaseException):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(words: Sequence[str]) -> int:
    """Run the command line; return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)
    options, command = _parse(words)
    try:
        if options.verb == "kernels":
            return _kernels(fetch=options.fetch)
        if options.verb == "matrix":
            return _matrix(command or _DEFAULT_MATRIX_COMMAND, options.limit)
        machine = topology.Topology.load(options.topology)
        image = _image(options.kernel)
        if command:
            return _run(image, options.kernel, machine, command, options.limit, systemd=options.systemd)
        return terminal.shell(image, options.kernel, machine, _directory())
    except GuestError as error:
        _say(f"{error}; its console, the end last:")
        print(error.console, file=sys.stderr)
        return 1
    except LabError as error:
        _say(str(error))
        return 1
    except _Ended as ended:
        return 128 + ended.number


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, tuple[str, ...]]:
    words = list(words)
    end = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="scripts/lab", usage=_USAGE, description=__doc__)
    parser.add_argument(
        "verb", nargs="?", choices=("matrix", "kernels"), help="in every guest; what is cached"
    )
    newest = kernels.SUPPORTED_KERNELS[-1].name
    parser.add_argument(
        "--kernel", default=newest, help=f"a supported kernel or an image (default: {newest})"
    )
    parser.add_argument("--topology", default="cxl", help=f"{', '.join(topology.names())} (default: cxl)")
    parser.add_argument(
        "--limit", type=float, default=_LIMIT_S, help=f"seconds a command may take (default: {_LIMIT_S:.0f})"
    )
    parser.add_argument("--systemd", action="store_true", help="the host's systemd is its init")
    parser.add_argument("--fetch", action="store_true", help="with kernels: fetch those that are not cached")
    options = parser.parse_args(words[:end])
    command = tuple(words[end + 1 :])
    if command and options.verb == "kernels":
        parser.error("kernels takes no command")
    if options.fetch and options.verb != "kernels":
        parser.error("--fetch goes with kernels")
    if options.systemd and not (command and options.verb is None):
        parser.error("--systemd goes with a command")
    return options, command


def _image(kernel: str) -> Path:
    path = Path(kernel).absolute()
    if "/" in kernel or path.is_file():
        if not path.is_file():
            raise LabError(f"there is no kernel image {kernel}")
        return path
    return _fetch(kernels.supported(kernel)).image


def _fetch(kernel: kernels.SupportedKernel) -> kernels.CachedKernel:
    found = kernels.cached(kernel)
    if found is None:
        _say(f"fetching Linux {kernel}, once, into {kernels.cache_directory()}")
        found = kernels.fetch(kernel)
    return found


def _run(
    image: Path,
    kernel: str,
    machine: topology.Topology,
    command: Sequence[str],
    limit_s: float,
    *,
    systemd: bool = False,
) -> int:
    guest = Guest(
        image, machine, command, kernel=kernel, output=_write, directory=_directory(), systemd=systemd
    )
    with guest:
        return guest.wait(limit_s)


def _directory() -> Path:
    """Where the user is, if a guest has that as well."""
    where = Path.cwd()
    return where if where.is_relative_to(CHECKOUT) else CHECKOUT


def _write(number: int, block: bytes) -> None:
    while block:
        block = block[os.write(number, block) :]


def _matrix(command: Sequence[str], limit_s: float) -> int:
    """Status 0 if it was 0 everywhere."""
    failed = False
    for kernel in kernels.SUPPORTED_KERNELS:
        image = _fetch(kernel).image
        for name in topology.names():
            print(f"--- Linux {kernel}, {name}", flush=True)
            started = time.monotonic()
            try:
                status = _run(image, kernel.name, topology.Topology.load(name), command, limit_s)
                outcome = f"status {status}"
            except GuestError as error:
                print(error.console, file=sys.stderr)
                status, outcome = 1, str(error)
            print(f"--- {outcome}, {time.monotonic() - started:.0f} s", flush=True)
            failed = failed or status != 0
    return int(failed)


def _kernels(*, fetch: bool) -> int:
    for kernel in kernels.SUPPORTED_KERNELS:
        found = _fetch(kernel) if fetch else kernels.cached(kernel)
        if found is None:
            print(f"{kernel.name:6} not cached; it comes from {kernel.suite}")
            continue
        versions = sorted(set(found.packages.values()))
        print(
            f"{kernel.name:6} {found.release}  {found.suite} {', '.join(versions)}, fetched {found.fetched}"
        )
        print(f"       {found.image}")
    return 0


def _end(number: int, _frame: FrameType | None) -> None:
    # Once: what follows is the way out.
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise _Ended(number)


def _say(text: str) -> None:
    with suppress(OSError):
        print(f"hotpage: {text}", file=sys.stderr)
