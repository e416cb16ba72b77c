# SPDX-License-Identifier: Apache-2.0
"""A /proc of our own making."""

from pathlib import Path


class FakeProc:
    """A directory that looks like /proc as far as it is read."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(
        self, pid: int, start: int = 100, comm: str = "work", parent: int = 1, state: str = "S",
        threads: int = 1, flags: int = 0, image: int = 4096,
    ) -> None:  # fmt: skip
        directory = self.root / str(pid)
        directory.mkdir(exist_ok=True)
        fields = ["0"] * 49
        fields[0], fields[1], fields[6], fields[17], fields[19] = (
            state,
            str(parent),
            str(flags),
            str(threads),
            str(start),
        )
        fields[23] = fields[25] = str(image)
        (directory / "stat").write_text(f"{pid} ({comm}) {' '.join(fields)}\n")
        (directory / "cmdline").write_bytes(b"/bin/" + comm.encode() + b"\0--fast\0a b\0")
        (directory / "cgroup").write_text("4:memory:/old\n0::/system.slice/x.service\n")
        (directory / "exe").unlink(missing_ok=True)
        (directory / "exe").symlink_to(f"/bin/{comm}")

    def remove(self, pid: int) -> None:
        for entry in (self.root / str(pid)).iterdir():
            entry.unlink()
        (self.root / str(pid)).rmdir()
