# SPDX-License-Identifier: Apache-2.0
"""Reading /proc/PID without tracebacks: a process may vanish between any two reads."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hotpage.errors import PrivilegeError

PROC: Final = Path("/proc")
COMM_BYTES: Final = 15
"""The longest command name: TASK_COMM_LEN of linux/sched.h, without the terminating zero."""
PID_LIMIT: Final = 1 << 22
"""PID_MAX_LIMIT of linux/threads.h: every pid is below it."""

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PF_KTHREAD: Final = 0x00200000
_GONE: Final = (errno.ENOENT, errno.ESRCH, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class Stat:
    """What hotpage uses of /proc/PID/stat, proc_pid_stat(5)."""

    comm: str
    state: str
    parent_pid: int
    cpu_s: float
    """User and system time of all threads, dead ones included."""
    threads: int
    start_time_ticks: int
    start_code: int
    start_stack: int
    is_kernel_thread: bool

    @property
    def has_ended(self) -> bool:
        """A zombie without threads; a zombie leader whose threads still run has not ended."""
        return self.state in "ZX" and self.threads <= 1

    @property
    def image(self) -> tuple[int, int]:
        """Changes with exec: with address space randomisation no two images start at the same addresses."""
        return self.start_code, self.start_stack


def read_bytes(path: Path) -> bytes | None:
    """The file's content, or None when its process has gone.

    Raises PrivilegeError where the kernel refuses.
    """
    try:
        # Unbuffered: one read(2) per chunk of a file that the kernel makes up while it is read.
        with path.open("rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        if error.errno in _GONE:
            return None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise PrivilegeError(f"{path} may not be read", "run hotpage as root") from error
        raise


def read_lines(path: Path) -> list[bytes]:
    """The file's lines that are not empty; none when its process has gone.

    A line ends at a newline only, which the kernel escapes in names: whatever else ends a line elsewhere
    (``splitlines``) may be part of one. Raises PrivilegeError where the kernel refuses.
    """
    return [line for line in (read_bytes(path) or b"").split(b"\n") if line]


def parse_stat(text: bytes) -> Stat:
    """Parse /proc/PID/stat; the command name may itself hold spaces and parentheses."""
    name_start, name_end = text.index(b"("), text.rindex(b")")
    fields = text[name_end + 2 :].split()  # fields[0] is field 3 of proc_pid_stat(5)
    return Stat(
        comm=text[name_start + 1 : name_end].decode(errors="surrogateescape"),
        state=fields[0].decode(),
        parent_pid=int(fields[1]),
        cpu_s=(int(fields[11]) + int(fields[12])) * _TICK_S,
        threads=int(fields[17]),
        start_time_ticks=int(fields[19]),
        start_code=int(fields[23]),
        start_stack=int(fields[25]),
        is_kernel_thread=bool(int(fields[6]) & _PF_KTHREAD),
    )


def read_stat(pid: int, proc_root: Path = PROC) -> Stat | None:
    """The process's stat, or None when it has gone; a zombie's as long as there is one."""
    text = read_bytes(proc_root / str(pid) / "stat")
    return parse_stat(text) if text else None


def read_living(pid: int, proc_root: Path = PROC, start_time_ticks: int | None = None) -> Stat | None:
    """The stat of a process that lives; None if it has ended, or began at another time than is given."""
    stat = read_stat(pid, proc_root)
    if stat is None or stat.has_ended or start_time_ticks not in (None, stat.start_time_ticks):
        return None
    return stat


def boot_id() -> str | None:
    """What tells this boot of the machine from all others; None where the kernel does not tell."""
    text = read_bytes(PROC / "sys/kernel/random/boot_id")
    return None if text is None else text.decode().strip()


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes escaped: names come from strangers."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
