# SPDX-License-Identifier: Apache-2.0
"""What the netlink listeners share: a large receive buffer and filtering in the kernel."""

import ctypes
import socket
import struct
from typing import Final

# asm-generic/socket.h; Python names neither.
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33
# Some 15,000 queued messages: a second of heavy forking while hotpage does something else.
_RECEIVE_BUFFER_BYTES: Final = 16 << 20


def enlarge_buffer(sock: socket.socket) -> None:
    """Past the system's limit (net.core.rmem_max) where that is allowed."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)


def attach_filter(sock: socket.socket, program: bytes) -> None:
    """Hand a classic BPF program (8 bytes an instruction) to the socket."""
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and a pointer to them
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
