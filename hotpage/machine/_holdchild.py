# SPDX-License-Identifier: Apache-2.0
"""The helper process of hold.py: run as a script, ``python -I -S _holdchild.py CONTROL_FD PARENT_PID``.

Each held process costs one thread here, blocked inside the kernel in a read of /proc/PID/mem: the read's
buffer is a missing page registered with userfaultfd, and nobody provides it until the process is to be
released. Meanwhile the kernel's mem_rw() holds a reference on the process's mm (mmget_not_zero), which
makes the NUMA scan treat it like a multi-threaded one.

It is a process of its own because a held mm is not freed when its process exits: whatever happens to hotpage
(killed, stopped, busy), this one must notice the exit and let go. Messages, one per datagram:

    from hotpage    hold PID START_TIME_TICKS ADDRESS · release PID
    to hotpage      ready · error ERRNO WHAT · held PID · released PID REASON · failed PID WHY
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import resource
import select
import signal
import struct
import sys
import threading
from collections import deque

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
# syscall(2) numbers; every architecture since 2012 uses the generic table.
_SYS_USERFAULTFD = {"x86_64": 323}.get(platform.machine(), 282)

# linux/userfaultfd.h: ioctl requests of type 0xAA, in the generic encoding of x86, Arm and RISC-V.
_UFFD_API = 0xAA
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_ZEROPAGE = 0xC020AA04
_UFFDIO_REGISTER_MODE_MISSING = 1
_UFFD_EVENT_PAGEFAULT = 0x12
# struct uffd_msg: event at 0; for a page fault, flags at 8 and the address at 16; 32 bytes in all.
_UFFD_MSG = struct.Struct("=B15xQ8x")

# An exec leaves no trace that a file descriptor reports: this often the process's image is compared.
_EXEC_CHECK_S = 0.25
_PROBE_BYTES = 8
_THREAD_STACK_BYTES = 128 * 1024


def process_image(stat: bytes) -> tuple[bytes, ...]:
    """Start time and what exec changes: startcode, endcode, startstack of proc_pid_stat(5)."""
    fields = stat[stat.rindex(b")") + 2 :].split()
    return fields[19], fields[23], fields[24], fields[25]


def thread_count(stat: bytes) -> int:
    return int(stat[stat.rindex(b")") + 2 :].split()[17])


class Hold:
    """One process whose mm is held, or about to be."""

    def __init__(self, uffd: int, pid: int, start_time_ticks: bytes, address: int, wake: int) -> None:
        """Raises OSError, or ValueError or RuntimeError with the reason, if the process cannot be held."""
        self.pid = pid
        self.reason = ""
        self.failure = ""
        self.done = False
        self._uffd = uffd
        self._wake = wake
        self._address = address
        with contextlib.ExitStack() as undo:
            self.pidfd = os.pidfd_open(pid)
            undo.callback(os.close, self.pidfd)
            self._stat_fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, self._stat_fd)
            stat = os.pread(self._stat_fd, 4096, 0)
            self._image = process_image(stat)
            if self._image[0] != start_time_ticks:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            if thread_count(stat) != 1:
                raise ValueError("has several threads")
            self._mem_fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, self._mem_fd)
            self._buffer = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.page = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
            register = struct.pack("=QQQQ", self.page, mmap.PAGESIZE, _UFFDIO_REGISTER_MODE_MISSING, 0)
            fcntl.ioctl(uffd, _UFFDIO_REGISTER, bytearray(register))
            threading.Thread(target=self._read, daemon=True).start()
            undo.pop_all()

    def _read(self) -> None:
        try:
            window = memoryview(self._buffer)[:_PROBE_BYTES]
            if os.preadv(self._mem_fd, [window], self._address) == 0:
                self.failure = "has no memory"
        except OSError as error:
            self.failure = error.strerror or str(error)
        self.done = True
        os.eventfd_write(self._wake, 1)

    def image_changed(self) -> bool:
        try:
            return process_image(os.pread(self._stat_fd, 4096, 0)) != self._image
        except (OSError, ValueError):
            return False  # gone: its pidfd says so

    def release(self, reason: str) -> None:
        """Provide the page, so that the read completes and drops its reference."""
        if not self.reason:
            self.reason = reason
            # EEXIST: the read has failed or not started, and the page is there or will be when it starts.
            with contextlib.suppress(FileExistsError):
                zero_page = struct.pack("=QQQq", self.page, mmap.PAGESIZE, 0, 0)
                fcntl.ioctl(self._uffd, _UFFDIO_ZEROPAGE, bytearray(zero_page))

    def close(self) -> None:
        for fd in (self.pidfd, self._stat_fd, self._mem_fd):
            os.close(fd)


class Helper:
    """The event loop: commands, process exits, page faults, completed reads."""

    def __init__(self, control: int, uffd: int) -> None:
        self._control = control
        self._uffd = uffd
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._holds: dict[int, Hold] = {}
        self._pid_of_pidfd: dict[int, int] = {}
        self._wanted: dict[int, tuple[bytes, int]] = {}
        self._outbox: deque[bytes] = deque()
        self._poll = select.poll()
        for fd in (control, uffd, self._wake):
            self._poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Until hotpage closes its end."""
        while True:
            ready = self._poll.poll(_EXEC_CHECK_S * 1000 if self._holds else None)
            for fd, _ in ready:
                if fd in self._pid_of_pidfd:
                    self._holds[self._pid_of_pidfd[fd]].release("exit")
                elif fd == self._uffd:
                    self._report_held()
                elif fd == self._wake:
                    os.eventfd_read(self._wake)
                elif fd == self._control and not self._obey():
                    return
            for hold in self._holds.values():
                if not hold.reason and hold.image_changed():
                    hold.release("exec")
            self._reap()
            self._hold_wanted()
            self._send()

    def _obey(self) -> bool:
        try:
            message = os.read(self._control, 256)
        except BlockingIOError:
            return True  # woken because the outbox may be sent
        except ConnectionError:
            return False
        if not message:
            return False
        verb, pid_text, *rest = message.split()
        pid = int(pid_text)
        if verb == b"release":
            if pid in self._holds:
                self._holds[pid].release("asked")
        else:
            self._wanted[pid] = rest[0], int(rest[1])
        return True

    def _hold_wanted(self) -> None:
        """A process whose former image is still being released waits for that."""
        for pid, (start_time_ticks, address) in list(self._wanted.items()):
            if pid not in self._holds:
                self._hold(pid, start_time_ticks, address)
            elif not self._holds[pid].reason:
                self._outbox.append(b"held %d" % pid)  # already
            else:
                continue
            del self._wanted[pid]

    def _hold(self, pid: int, start_time_ticks: bytes, address: int) -> None:
        try:
            hold = Hold(self._uffd, pid, start_time_ticks, address, self._wake)
        except (OSError, ValueError, RuntimeError) as error:  # the last: no more threads
            why = getattr(error, "strerror", None) or str(error)
            self._outbox.append(f"failed {pid} {why}".encode())
            return
        self._holds[pid] = hold
        self._pid_of_pidfd[hold.pidfd] = pid
        self._poll.register(hold.pidfd, select.POLLIN)

    def _report_held(self) -> None:
        event, page = _UFFD_MSG.unpack(os.read(self._uffd, _UFFD_MSG.size))
        if event == _UFFD_EVENT_PAGEFAULT:
            self._outbox += [b"held %d" % hold.pid for hold in self._holds.values() if hold.page == page]

    def _reap(self) -> None:
        for hold in [hold for hold in self._holds.values() if hold.done]:
            del self._holds[hold.pid]
            del self._pid_of_pidfd[hold.pidfd]
            self._poll.unregister(hold.pidfd)
            hold.close()
            end = (
                f"failed {hold.pid} {hold.failure}" if hold.failure else f"released {hold.pid} {hold.reason}"
            )
            self._outbox.append(end.encode())

    def _send(self) -> None:
        """As far as hotpage takes it: it may be stopped, which must not keep us from watching."""
        try:
            while self._outbox:
                os.write(self._control, self._outbox[0])
                self._outbox.popleft()
        except BlockingIOError:
            pass
        except ConnectionError:
            self._outbox.clear()  # the end of the connection is read next
        self._poll.modify(self._control, select.POLLIN | (select.POLLOUT if self._outbox else 0))


def open_userfaultfd(libc: ctypes.CDLL) -> int:
    """Raises OSError."""
    fd = int(libc.syscall(_SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    fcntl.ioctl(fd, _UFFDIO_API, bytearray(struct.pack("=QQQ", _UFFD_API, 0, 0)))
    return fd


def main() -> None:
    control, parent = int(sys.argv[1]), int(sys.argv[2])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NAME, b"hotpage-hold")
    if os.getppid() != parent:
        return  # it died before prctl took effect
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.stack_size(_THREAD_STACK_BYTES)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)  # three for each process
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    try:
        uffd = open_userfaultfd(libc)
    except OSError as error:
        os.write(control, f"error {error.errno} userfaultfd".encode())
        return
    os.set_blocking(control, False)
    os.write(control, b"ready")
    Helper(control, uffd).run()
    os._exit(0)  # kills the reading threads, which frees what is still held


if __name__ == "__main__":
    main()
