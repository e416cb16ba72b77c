# SPDX-License-Identifier: Apache-2.0
"""Redis under its own benchmark, for guest_auto.py: which page holds which value, and how many ask for it.

Two redis-benchmarks draw their keys evenly: one all keys, the other only the first, which makes them hot. The
one sends SUBSTR, the other GETRANGE, which does the same: so the server's counts of commands tell how many
requests each has made. They ask for the first 64 bytes of each value: what is not copied makes more requests.
The keys are set in random order: hot values lie scattered among the others. With its header and closing zero
a value is an allocation of 4096 bytes, which jemalloc gives a page of its own.

Not counted are the server's other accesses: a request goes to its tables, objects, buffers and code as well.
"""

import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

PAGE = 4096
HOT_SHARE = 5 / 24
"""Of the keys: 20 MiB of 96. 4 of the 24 that fit are left for what is not counted."""
HOT_CLIENTS, ALL_CLIENTS = 8, 1
PIPELINE, ENDLESS = 32, 2_000_000_000
COMMANDS_AT_ONCE = 1024
TIMEOUT_S = 180.0
_SDS_HEADER, _SDS_END = 5, 1  # sds.h: the header of strings of 256 bytes to 64 KiB
VALUE_BYTES = PAGE - _SDS_HEADER - _SDS_END
_POINTER = struct.Struct("<8xQ")  # object.h: type, encoding and age; reference count; where the string is


def server_program() -> str | None:
    """Of Debian's names for one program, which goes by its name; the first one's package starts a service."""
    return shutil.which("redis-server") or shutil.which("redis-check-rdb")


class Client:
    """A connection: commands and their replies. Raises OSError for a reply that is an error."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._replies = connected.makefile("rb")

    def __call__(self, *command: str) -> str:
        return self.each([command])[0]

    def each(self, commands: Iterable[tuple[str, ...]]) -> list[str]:
        """The replies, in order."""
        rest, replies = iter(commands), []
        while some := list(islice(rest, COMMANDS_AT_ONCE)):
            self._socket.sendall(b"".join(map(encoded, some)))
            replies += [self._reply() for _ in some]
        return replies

    def _reply(self) -> str:
        line = self._replies.readline().decode().rstrip("\r\n")
        if line.startswith("-"):
            raise OSError(f"redis-server: {line[1:]}")
        if not line.startswith("$"):
            return line
        return self._replies.read(int(line[1:]) + 2)[:-2].decode()


def encoded(command: tuple[str, ...]) -> bytes:
    """A command in Redis's protocol."""
    words = (f"${len(word)}\r\n{word}\r\n" for word in command)
    return f"*{len(command)}\r\n{''.join(words)}".encode()


def key_of(number: int) -> str:
    """As redis-benchmark names it."""
    return f"key:{number:012}"


def value_of(number: int) -> str:
    """Another for each key."""
    return key_of(number).ljust(VALUE_BYTES, ".")


def calls(statistics: str) -> dict[str, int]:
    """How often each command was called, from INFO commandstats."""
    lines = (line.split(":", 1) for line in statistics.splitlines() if line.startswith("cmdstat_"))
    return {name.removeprefix("cmdstat_"): int(rest.split(",")[0].split("=")[1]) for name, rest in lines}


def shares_of(keys: int, hot_keys: int, hot_calls: int, every_calls: int) -> npt.NDArray[np.float64]:
    """Each key's share of the requests: float64[keys]."""
    share = np.full(keys, every_calls / keys)
    share[:hot_keys] += hot_calls / hot_keys
    return share / max(hot_calls + every_calls, 1)


class Redis:
    """A server with its clients, from the start to ``stop``; the clients are halted until it is sent SIGCONT.

    ``pid`` of the server; ``vpn``: int64[keys], the page of each key's value; ``ask`` it anything.
    """

    def __init__(self, mib: int, seed: int) -> None:
        self.keys = mib * (1 << 20) // PAGE
        self.hot_keys = round(self.keys * HOT_SHARE)
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hotpage-redis-")))
            self._path = directory / "socket"
            self._server = _started(stack, self._server_command(directory), server_program())
            self.pid = self._server.pid
            self.ask = Client(self._connected(stack))
            self._fill(seed)
            self.vpn = self._pages()
            self._loads: list[subprocess.Popen[bytes]] = []
            self._calls: dict[str, int] = {}
            self._is_halted = False
            self._stack = stack.pop_all()

    def load(self) -> None:
        """Start the clients, halted like the server from now on."""
        self.send(signal.SIGSTOP)
        common = ["redis-benchmark", "-s", str(self._path), "-n", str(ENDLESS), "-P", str(PIPELINE)]
        hot = ["-c", str(HOT_CLIENTS), "-r", str(self.hot_keys), "getrange"]
        every = ["-c", str(ALL_CLIENTS), "-r", str(self.keys), "substr"]
        for words in (hot, every):
            self._loads.append(_started(self._stack, [*common, *words, "key:__rand_int__", "0", "63"]))
            self._loads[-1].send_signal(signal.SIGSTOP)

    @property
    def pids(self) -> list[int]:
        """Of the server and its clients."""
        return [self.pid, *(load.pid for load in self._loads)]

    def send(self, number: signal.Signals) -> None:
        """To all of them. Halted, the server tells no more what it has done: it is asked before."""
        if number == signal.SIGSTOP:
            self._requests()
        self._is_halted = number == signal.SIGSTOP
        for pid in self.pids:
            os.kill(pid, number)

    @property
    def page_shares(self) -> npt.NDArray[np.float64]:
        """The share of the requests so far that each page of ``vpn`` got: float64[keys]."""
        hot, every = self._requests()
        return shares_of(self.keys, self.hot_keys, hot, every)

    def accesses(self) -> int:
        """Requests so far."""
        return sum(self._requests())

    def stop(self) -> None:
        self._stack.close()

    def _requests(self) -> tuple[int, int]:
        """So far: for hot keys, for every key."""
        if not self._is_halted:
            self._calls = calls(self.ask("INFO", "commandstats"))
        return self._calls.get("getrange", 0), self._calls.get("substr", 0)

    def _server_command(self, directory: Path) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._path),
            "save": "",
            "dir": str(directory),
            "rdbcompression": "no",  # which DEBUG OBJECT would try
            "enable-debug-command": "yes",
            "loglevel": "warning",
        }
        return ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _connected(self, stack: ExitStack) -> socket.socket:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(TIMEOUT_S)
        deadline_s = time.monotonic() + TIMEOUT_S
        while connection.connect_ex(str(self._path)):
            assert self._server.poll() is None, "redis-server has ended"
            assert time.monotonic() < deadline_s, "redis-server does not listen"
            time.sleep(0.05)
        return connection

    def _fill(self, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(self.keys).tolist()
        self.ask.each(("SET", key_of(number), value_of(number)) for number in order)

    def _pages(self) -> npt.NDArray[np.int64]:
        """Where the values are. The server tells where their objects are; what these point to is compared."""
        pages = np.empty(self.keys, np.int64)
        told = self.ask.each(("DEBUG", "OBJECT", key_of(number)) for number in range(self.keys))
        with Path(f"/proc/{self.pid}/mem").open("rb", buffering=0) as memory:
            for number, words in enumerate(told):
                at = int(words.partition("Value at:")[2].split()[0], 16)
                (start,) = _POINTER.unpack(os.pread(memory.fileno(), _POINTER.size, at))
                found = os.pread(memory.fileno(), VALUE_BYTES, start).decode("ascii", "replace")
                assert found == value_of(number), "this Redis keeps its values elsewhere"
                assert start % PAGE == _SDS_HEADER, "a value lies on two pages"
                pages[number] = start // PAGE
        return pages


def _started(stack: ExitStack, command: list[str], program: str | None = None) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command, executable=program, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process
