# SPDX-License-Identifier: Apache-2.0
"""The peer of scripts/bench_capture.py: hotpage's BPF program read with bcc's callback per record.

Runs in an interpreter that can import bcc, and imports nothing of hotpage. The first line on standard input
is a JSON object,

    {"source": C text, "cflags": [...], "attach": {tracepoint: function}, "ring": map name, "record_bytes": n,
     "tgid_offset": n, "source_offset": n, "pid": n, "on": config in hex, "off": config in hex}

answered with "ready" once attached. Then each line is a command: "fill" lets the program write records;
"filter" or "empty" stops that, consumes the ring through a callback of that kind, and prints
{"events": n, "cpu_s": CPU seconds}.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any

from bcc import BPF, lib

PAGE_FAULT = 2


class Peer:
    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.unit = BPF(text=request["source"], cflags=request["cflags"])
        self.events = 0
        self.kept = 0
        self.callback = self.empty
        self.write_map("targets", request["pid"], (1).to_bytes(4, "little"))
        self.unit[request["ring"]].open_ring_buffer(lambda *record: self.callback(*record))
        self.record_type: Any = type("Record", (ctypes.Structure,), {"_fields_": self.fields()})
        for hook, function in request["attach"].items():
            self.unit.attach_raw_tracepoint(tp=hook.encode(), fn_name=function.encode())

    def fields(self) -> list[tuple[str, Any]]:
        """The two fields that the filter looks at; the rest is padding."""
        request = self.request
        gap = request["source_offset"] - request["tgid_offset"] - 4
        return [
            ("before", ctypes.c_byte * request["tgid_offset"]),
            ("tgid", ctypes.c_uint32),
            ("between", ctypes.c_byte * gap),
            ("source", ctypes.c_uint8),
        ]

    def write_map(self, name: str, key: int, value: bytes) -> None:
        key_buffer = ctypes.create_string_buffer(key.to_bytes(4, "little"), 4)
        value_buffer = ctypes.create_string_buffer(value, len(value))
        if lib.bpf_update_elem(self.unit[name].map_fd, key_buffer, value_buffer, 0) < 0:
            raise OSError(f"cannot write the map {name}")

    def configure(self, which: str) -> None:
        self.write_map("config", 0, bytes.fromhex(self.request[which]))

    def empty(self, _context: int, _data: int, _size: int) -> None:
        self.events += 1

    def filter(self, _context: int, data: int, _size: int) -> None:
        """What a bcc tool does first with a record."""
        record = ctypes.cast(data, ctypes.POINTER(self.record_type)).contents
        self.events += 1
        if record.tgid == self.request["pid"] and record.source == PAGE_FAULT:
            self.kept += 1

    def consume(self, kind: str) -> dict[str, float]:
        self.configure("off")
        time.sleep(0.1)
        self.events, self.kept, self.callback = 0, 0, getattr(self, kind)
        begun_s = time.process_time()
        self.unit.ring_buffer_consume()
        return {"events": self.events, "cpu_s": time.process_time() - begun_s}


def main() -> None:
    peer = Peer(json.loads(sys.stdin.readline()))
    print("ready", flush=True)
    for line in sys.stdin:
        command = line.strip()
        if command == "fill":
            peer.configure("on")
        else:
            print(json.dumps(peer.consume(command)), flush=True)


main()
