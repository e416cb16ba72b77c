# SPDX-License-Identifier: Apache-2.0
"""The guest's own emulator, asked from inside (QMP over a virtio port): what only hardware could do."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Self


class Monitor:
    """A conversation with QEMU. Raises RuntimeError when it refuses."""

    def __init__(self) -> None:
        (port,) = (
            entry
            for entry in Path("/sys/class/virtio-ports").iterdir()
            if (entry / "name").read_text().strip() == "lab.monitor"
        )
        self._handle = os.open(f"/dev/{port.name}", os.O_RDWR)
        self._unread = b""
        # QEMU's greeting waits for the first one in the guest's life to ask; it refuses the others.
        with suppress(RuntimeError):
            self.ask("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command, return its answer; events on the way are skipped."""
        question = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
        os.write(self._handle, json.dumps(question).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def plug(self, mib: int, node: int) -> str:
        """Plug a memory module in; return its name, for ``unplug``."""
        name = f"dimm{len(self.ask('query-memory-devices'))}"
        self.ask(
            "object-add", **{"qom-type": "memory-backend-ram", "id": f"{name}.memory", "size": mib * 2**20}
        )
        self.ask("device_add", driver="pc-dimm", id=name, memdev=f"{name}.memory", node=node)
        return name

    def unplug(self, name: str) -> None:
        """Ask the guest's kernel to let a module go; it may refuse, or take its time."""
        self.ask("device_del", id=name)

    def _read(self) -> dict[str, Any]:
        while b"\n" not in self._unread:
            self._unread += os.read(self._handle, 65536)
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)
