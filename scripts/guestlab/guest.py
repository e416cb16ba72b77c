# SPDX-License-Identifier: Apache-2.0
"""One emulated machine: virtme-ng boots it from the host's own files, it runs one command, it is gone."""

import os
import py_compile
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import virtme

from guestlab.acceleration import has_kvm
from guestlab.errors import GuestError, LabError
from guestlab.topology import Topology

CHECKOUT: Final = Path(__file__).resolve().parents[2]
_HERE: Final = Path(__file__).resolve().parent

_NO_AVX: Final = [f"{name}=off" for name in ("avx", "avx2", "fma", "f16c", "vaes", "vpclmulqdq")]
"""QEMU emulates AVX since 7.2 only, and Pythons in busy guests have died of segmentation faults, in numpy:
it does without."""
BOOT_LIMIT_S: Final = 300.0
"""Until the command starts. 7 to 25 s were seen without KVM, and some machines are busier."""
_POLL_S: Final = 0.1
_CONSOLE_TAIL_LINES: Final = 60
# Without what costs an emulated CPU much and a test nothing.
_KERNEL_OPTIONS: Final = ("loglevel=7", "mitigations=off", "init_on_alloc=0", "apparmor=0", "audit=0")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Guest:
    """A guest that runs one command; ``with`` ends it however the block is left.

    ``image``: a kernel image, with its modules in lib/modules beside or above it. ``command``: words, run in
    ``directory`` with the guest's own environment and ``environment``, the virtualenv's programs first.
    ``kernel``: what it is called there. ``output`` is called with the bytes it writes to standard output (1)
    and standard error (2), from threads; with ``terminal`` it talks to the socket ``terminal_path`` instead.
    ``systemd``: the host's is the guest's init, and the command one of its units.

    Start it in a thread that lives as long as the guest shall: the kernel ends the guest with that thread.
    """

    def __init__(
        self,
        image: Path,
        topology: Topology,
        command: Sequence[str],
        *,
        kernel: str,
        output: Callable[[int, bytes], None],
        directory: Path = CHECKOUT,
        environment: Mapping[str, str] | None = None,
        terminal: bool = False,
        systemd: bool = False,
    ) -> None:
        if not shutil.which("qemu-system-x86_64"):
            raise LabError("qemu-system-x86_64 is missing: sudo apt install qemu-system-x86")
        self._image = image
        self._topology = topology
        self._systemd = systemd
        self._output = output
        self._console = bytearray()
        self._started = time.monotonic()
        self._home = tempfile.TemporaryDirectory(prefix="hotpage-lab-", dir="/tmp")
        self.exchange = Path(self._home.name) / "lab"
        """/run/lab in the guest; what either side writes there, the other one sees at once."""
        self.exchange.mkdir()
        self.terminal_path = Path(self._home.name) / "terminal" if terminal else None
        if terminal:
            (self.exchange / "terminal").touch()
        told = {"HOTPAGE_LAB_KERNEL": kernel, "HOTPAGE_LAB_TOPOLOGY": topology.name}
        if systemd:
            told["HOTPAGE_LAB_SYSTEMD"] = "1"
            shutil.copytree(_HERE / "systemd", self.exchange / "systemd")
        self._write_settings(command, directory, {**(environment or {}), **told})
        self._bytecode = Path(self._home.name) / "bytecode"
        _compile(CHECKOUT / "hotpage", self._bytecode / "hotpage")
        self._pumps: list[threading.Thread] = []
        pipes = {number: os.pipe() for number in (0, 1, 2)}  # 0: the console
        writing = {number: pipe[1] for number, pipe in pipes.items()}
        try:
            self._process = self._start(writing)
        except BaseException:
            self._home.cleanup()
            raise
        finally:
            for pipe in writing.values():
                os.close(pipe)
        for number, (reading, _) in pipes.items():
            self._pumps.append(threading.Thread(target=self._pump, args=(number, reading), daemon=True))
            self._pumps[-1].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def console(self) -> str:
        """What QEMU, the guest's kernel and guest.sh have printed so far, the last lines of it."""
        text = bytes(self._console)
        with suppress(OSError):
            text += (self.exchange / "messages").read_bytes()
        lines = text.decode(errors="replace").replace("\r", "").splitlines()
        return "\n".join(lines[-_CONSOLE_TAIL_LINES:])

    def wait_for_boot(self, limit_s: float = BOOT_LIMIT_S) -> None:
        """Until the command starts. Raises GuestError if it does not."""
        deadline = self._started + limit_s
        while not self._has_booted():
            if self._process.poll() is not None and not self._has_booted():
                raise self.failure("the guest did not boot")
            if time.monotonic() > deadline:
                raise self.failure(f"the guest did not boot within {limit_s:.0f} s")
            time.sleep(_POLL_S)

    def wait(self, limit_s: float | None = None) -> int:
        """The command's exit status. Raises GuestError if the guest dies, or is not done in time."""
        self.wait_for_boot()
        deadline = time.monotonic() + limit_s if limit_s is not None else None
        while self._process.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise self.failure(f"the command did not end within {limit_s:.0f} s")
            time.sleep(_POLL_S)
        for pump in self._pumps:
            pump.join()
        try:
            return int((self.exchange / "status").read_text())
        except (OSError, ValueError):
            raise self.failure("the guest died before the command ended") from None

    def is_running(self) -> bool:
        """Whether it may still write anything."""
        return self._process.poll() is None

    def failure(self, message: str) -> GuestError:
        """End the guest; return the error to raise, with its console."""
        self._kill()
        return GuestError(message, self.console)

    def close(self) -> None:
        """End the guest at once, whatever it does."""
        self._kill()
        for pump in self._pumps:
            pump.join()
        self._home.cleanup()

    def _has_booted(self) -> bool:
        return (self.exchange / "booted").exists()

    def _kill(self) -> None:
        if self._process.poll() is None:
            # QEMU is in the group as well, and dies with the parent in any case.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _pump(self, number: int, pipe: int) -> None:
        try:
            while block := os.read(pipe, 65536):
                if number:
                    self._output(number, block)
                else:
                    self._console += block
        finally:
            os.close(pipe)

    def _write_settings(
        self, command: Sequence[str], directory: Path, environment: Mapping[str, str]
    ) -> None:
        venv = Path(sys.prefix)
        settings = {
            "checkout": CHECKOUT,
            "venv": "" if venv.is_relative_to(CHECKOUT) else venv,
            "directory": directory,
        }
        lines = [f"{name}={shlex.quote(str(value))}" for name, value in settings.items()]
        (self.exchange / "settings").write_text("\n".join(lines) + "\n")
        environment = {"PATH": f"{venv}/bin:{_PATH}", "HOME": "/root", "TMPDIR": "/tmp", **environment}
        exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        (self.exchange / "command").write_text("\n".join([*exports, f"exec {shlex.join(command)}"]) + "\n")
        shutil.copyfile(_HERE / "guest.sh", self.exchange / "guest.sh")

    def _start(self, pipes: dict[int, int]) -> subprocess.Popen[bytes]:
        bootstrap = (
            "mkdir -p /run/lab && mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 lab /run/lab && "
            "echo booted >/run/lab/booted && exec busybox sh /run/lab/guest.sh 2>/run/lab/messages"
        )
        # Its files are named on the guest's command line, which cannot hold a space.
        packages = Path(self._home.name) / "packages"
        packages.symlink_to(Path(virtme.__file__).resolve().parents[1])
        command = [sys.executable, "-m", "virtme.commands.run", "--kimg", str(self._image), "--mods", "auto"]
        # A home to write in; and it loads overlayfs, which guest.sh needs as well.
        command += ["--overlay-rwdir", "/root"]
        command += ["--qemu-bin", str(_HERE / "qemu"), "--force-9p", "--disable-microvm"]
        command += [] if has_kvm(self._image) else ["--disable-kvm"]
        command += ["--memory", f"{self._topology.memory_mib}M", "--cpus", str(self._topology.cpus)]
        for option in _KERNEL_OPTIONS:
            command += ["--kopt", option]
        command += [
            "--show-boot-console",
            "--script-sh",
            bootstrap,
            "--qemu-opts",
            *self._qemu_options(pipes),
        ]
        # virtme-ng is killed rather than asked to go: what it leaves goes with this directory.
        environment = os.environ | {"PYTHONPATH": str(packages), "TMPDIR": self._home.name}
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=pipes[0],
            stderr=pipes[0],
            start_new_session=True,
            pass_fds=tuple(pipes.values()),
        )

    def _qemu_options(self, pipes: dict[int, int]) -> list[str]:
        """What virtme-ng has no words for."""
        options = ["-device", "virtio-serial-pci,id=lab.serial"]
        for number in (1, 2):
            options += ["-chardev", f"file,id=lab.{number},path=/proc/self/fd/{pipes[number]}"]
            options += ["-device", f"virtserialport,bus=lab.serial.0,chardev=lab.{number},name=lab.{number}"]
        if not has_kvm(self._image):
            # One thread for all CPUs: with one each, a CPU may still run an instruction that another has just
            # patched, and a kernel that flips a static key (kernel.numa_balancing) dies of "Oops: int3".
            options += ["-accel", "tcg,thread=single", "-cpu", ",".join(["max", "la57=off", *_NO_AVX])]
        if self.terminal_path:
            options += [
                "-chardev",
                f"socket,id=lab.terminal,path={_quoted(self.terminal_path)},server=on,wait=off",
            ]
            options += ["-device", "virtconsole,bus=lab.serial.0,chardev=lab.terminal"]
        if self._systemd:
            # In place of virtme-ng's line: the last one counts.
            line = ("console=ttyS0", "panic=-1", *_KERNEL_OPTIONS, f"init={self.exchange}/systemd/init")
            options += ["-append", " ".join(line)]
        # The guest's own way to QEMU's control socket: to plug memory in, which only the outside can.
        control = f"path={_quoted(Path(self._home.name) / 'control')}"
        options += ["-chardev", f"socket,id=lab.monitor,{control},server=on,wait=off"]
        options += ["-device", "virtserialport,bus=lab.serial.0,chardev=lab.monitor,name=lab.monitor"]
        options += ["-chardev", f"socket,id=lab.qmp,{control}", "-mon", "chardev=lab.qmp,mode=control"]
        options += numa_options(self._topology)
        venv = Path(sys.prefix)
        shares = {"lab.usr": Path("/usr"), "lab.checkout": CHECKOUT, "lab.bytecode": self._bytecode}
        if not venv.is_relative_to(CHECKOUT):
            shares["lab.venv"] = venv
        for tag, path in shares.items():
            options += _share(tag, path, "readonly=on")
        return options + _share("lab", self.exchange, "readonly=off")


def _compile(package: Path, target: Path) -> None:
    """Byte code of a package as the guest looks for it: it would take many times as long to compile it."""
    for source in package.rglob("*.py"):
        cache = target / source.relative_to(package).parent / "__pycache__"
        with suppress(py_compile.PyCompileError, OSError):  # the guest says it better, if it comes to that
            py_compile.compile(
                str(source), str(cache / f"{source.stem}.{sys.implementation.cache_tag}.pyc"), doraise=True
            )


def _share(tag: str, path: Path, access: str) -> list[str]:
    file_system = f"local,id={tag},path={_quoted(path)},security_model=none,multidevs=remap,{access}"
    return ["-fsdev", file_system, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


def numa_options(topology: Topology) -> list[str]:
    """QEMU's options for the nodes, their distances, and the HMAT if any speed is told."""
    nodes, distances = list(topology.nodes), [list(row) for row in topology.distances]
    options = []
    if topology.plug_mib:
        options += ["-m", f"{topology.memory_mib}M,slots=4,maxmem={topology.memory_mib + topology.plug_mib}M"]
        nodes.append(replace(nodes[-1], memory_mib=0, cpus=0))
        distances.append([*distances[-1][:-1], 20, 10])
        for row, back in zip(distances[:-1], distances[-1], strict=False):
            row.append(back)
    told = any(node.latency_ns for node in nodes)
    options += ["-machine", "hmat=on"] if told else []
    first_cpu = 0
    for number, node in enumerate(nodes):
        words = [f"node,nodeid={number}"]
        if node.memory_mib:
            options += ["-object", f"memory-backend-ram,id=lab.memory{number},size={node.memory_mib}M"]
            words.append(f"memdev=lab.memory{number}")
        if node.cpus:
            words.append(f"cpus={first_cpu}-{first_cpu + node.cpus - 1}")
            first_cpu += node.cpus
        if told:
            words.append(f"initiator={node.nearest}")
        options += ["-numa", ",".join(words)]
    for source, row in enumerate(distances):
        for target, distance in enumerate(row):
            if source != target:
                options += ["-numa", f"dist,src={source},dst={target},val={distance}"]
    for number, node in enumerate(nodes):
        pair = f"hmat-lb,initiator={node.nearest},target={number},hierarchy=memory"
        if node.latency_ns:
            options += ["-numa", f"{pair},data-type=access-latency,latency={node.latency_ns}"]
        if node.bandwidth_mbps:
            options += ["-numa", f"{pair},data-type=access-bandwidth,bandwidth={node.bandwidth_mbps}M"]
    return options
