# SPDX-License-Identifier: Apache-2.0
"""Control groups (version 2): from a path to the id and level that a BPF program can test."""

import contextlib
import os
import re
from pathlib import Path

from hotpage.errors import HotpageError, TargetError, UnsupportedError
from hotpage.machine.proc import PROC, read_lines

# kernfs gives the root of the hierarchy inode 1; another inode means that a container shows us a part of it.
_ROOT_INODE = 1


def unescape_octal(text: bytes) -> bytes:
    r"""Undo the kernel's ``\040`` escapes of /proc/mounts and maps."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text)


def cgroup_mount(proc_root: Path = PROC) -> Path:
    """Where the version 2 hierarchy is mounted; UnsupportedError if it is not."""
    for line in read_lines(proc_root / "mounts"):
        _device, mount_point, kind, *_ = line.split(b" ")
        if kind == b"cgroup2":
            return Path(os.fsdecode(unescape_octal(mount_point)))
    raise UnsupportedError("no cgroup v2 hierarchy is mounted", "mount -t cgroup2 none /sys/fs/cgroup")


def cgroup_directory(path: str | Path, proc_root: Path = PROC) -> Path:
    """The directory of a cgroup named by directory or as in /proc/PID/cgroup (``/system.slice/x.service``).

    Without a slash in front: by what is there below the working directory if that is a cgroup's, else below
    the mount. Only there, or by an explicit ``/``, all cgroups can be meant. Raises TargetError if there is
    none.
    """
    mount = cgroup_mount(proc_root)
    given, root = Path(path), mount.resolve()
    beside = None if given.is_absolute() else _below_working_directory(given, root)
    inside = beside or (given if given.is_relative_to(mount) else mount / str(given).lstrip("/"))
    directory = inside.resolve()
    means_all_unasked = directory == root and not given.is_absolute() and beside is None
    if (
        not str(path)  # which is the working directory to pathlib
        or means_all_unasked
        or not directory.is_relative_to(root)
        or not (directory / "cgroup.procs").exists()
    ):
        raise TargetError(f"no cgroup v2 {str(path) or repr('')}", f"look below {mount}")
    return directory


def _below_working_directory(given: Path, root: Path) -> Path | None:
    try:
        working = Path.cwd().resolve()
    except OSError:  # it is gone
        return None
    return working / given if working.is_relative_to(root) and (working / given).exists() else None


def cgroup_id(path: str | Path) -> int:
    """What ``bpf_get_current_cgroup_id()`` returns for the cgroup's tasks: its directory's inode number."""
    return cgroup_directory(path).stat().st_ino


def cgroup_level(path: str | Path) -> int:
    """Depth for ``bpf_get_current_ancestor_cgroup_id(level)``: 0 for the root of the hierarchy."""
    mount = cgroup_mount().resolve()
    if mount.stat().st_ino != _ROOT_INODE:
        raise UnsupportedError("a container hides the upper cgroups", "run hotpage on the host")
    return len(cgroup_directory(path).relative_to(mount).parts)


def memory_by_node(path: str | Path) -> dict[int, int] | None:
    """Bytes of a cgroup and all below it on each node, anonymous and page cache; None where nobody tells.

    That is memory.numa_stat of the memory controller.
    """
    try:
        text = (cgroup_directory(path) / "memory.numa_stat").read_text()
    except (OSError, HotpageError):
        return None
    sums: dict[int, int] = {}
    for line in text.splitlines():
        kind, *counts = line.split()
        if kind in ("anon", "file"):
            for node, count in (word[1:].split("=") for word in counts):
                sums[int(node)] = sums.get(int(node), 0) + int(count)
    return sums


def pids_in_cgroup(path: str | Path) -> list[int]:
    """The processes of a cgroup and of all below it, sorted; TargetError if there is no such cgroup."""
    pids: set[int] = set()
    for directory, _, _ in os.walk(cgroup_directory(path)):
        # A threaded cgroup refuses to list processes (its domain root lists them); another may vanish.
        with contextlib.suppress(OSError):
            pids.update(map(int, (Path(directory) / "cgroup.procs").read_text().split()))
    return sorted(pids - {0})  # 0: a process that our pid namespace cannot see
