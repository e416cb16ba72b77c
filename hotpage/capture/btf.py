# SPDX-License-Identifier: Apache-2.0
"""Offsets of kernel struct fields, from the running kernel's own type information (BTF).

Reads /sys/kernel/btf/vmlinux: a header, a section of variable-length type records and a section of names
(Documentation/bpf/btf.rst). Only structs are looked into; the records of all kinds have to be stepped over to
number them, which takes about 50 ms for a whole kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from hotpage.errors import UnsupportedError

_MAGIC = 0xEB9F
_STRUCT, _UNION, _FUNC = 4, 5, 12
# 32-bit words behind the 3-word record head, by kind: once per record, and per element of the record's vlen.
_WORDS = [0] * 32
_WORDS_PER_ELEMENT = [0] * 32
_WORDS[1] = _WORDS[14] = _WORDS[17] = 1  # INT, VAR, DECL_TAG
_WORDS[3] = 3  # ARRAY
_WORDS_PER_ELEMENT[_STRUCT] = _WORDS_PER_ELEMENT[_UNION] = 3
_WORDS_PER_ELEMENT[6] = 2  # ENUM
_WORDS_PER_ELEMENT[13] = 2  # FUNC_PROTO
_WORDS_PER_ELEMENT[15] = 3  # DATASEC
_WORDS_PER_ELEMENT[19] = 3  # ENUM64


class Btf:
    """The kernel's types; raises UnsupportedError where it carries none that this reader understands."""

    def __init__(self, path: Path = Path("/sys/kernel/btf/vmlinux")) -> None:
        self._found: dict[tuple[str, int], int] = {}
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UnsupportedError(f"no kernel type information at {path} ({error.strerror})") from error
        try:
            magic, _, _, head, types, types_bytes, names, names_bytes = struct.unpack_from("=HBBIIIII", data)
        except struct.error as error:
            raise UnsupportedError(f"{path} is not BTF") from error
        if magic != _MAGIC:
            raise UnsupportedError(f"{path} is not BTF of this machine's byte order")
        self._names = data[head + names : head + names + names_bytes]
        try:
            self._words = memoryview(data)[head + types : head + types + types_bytes].cast("I")
            self._positions = self._index()
        except (TypeError, IndexError) as error:
            raise UnsupportedError(f"{path} is damaged") from error

    def _index(self) -> list[int]:
        """Word position of every type, by type id (id 0 is void)."""
        positions = [0]
        append, words = positions.append, self._words
        position, end = 0, len(words)
        while position < end:
            append(position)
            info = words[position + 1]
            kind = (info >> 24) & 31
            position += 3 + _WORDS[kind] + _WORDS_PER_ELEMENT[kind] * (info & 0xFFFF)
        return positions

    def _find(self, name: str, kind: int) -> int:
        """Type id of the named type; raises KeyError."""
        found = self._found.get((name, kind))
        if found is not None:
            return found
        start = self._names.find(b"\0" + name.encode() + b"\0") + 1
        if start:
            for type_id, position in enumerate(self._positions[1:], 1):
                if self._words[position] == start and (self._words[position + 1] >> 24) & 31 == kind:
                    self._found[name, kind] = type_id
                    return type_id
        raise KeyError(name)

    def _members(self, type_id: int) -> Iterator[tuple[str, int, int]]:
        position = self._positions[type_id]
        info = self._words[position + 1]
        has_bitfields = info >> 31
        for at in range(position + 3, position + 3 + 3 * (info & 0xFFFF), 3):
            name, member_type, bits = self._words[at : at + 3]
            end = self._names.index(b"\0", name)
            yield (
                self._names[name:end].decode(),
                member_type,
                (bits & 0xFFFFFF if has_bitfields else bits) // 8,
            )

    def _offset(self, type_id: int, field: str) -> int | None:
        for name, member_type, offset in self._members(type_id):
            if name == field:
                return offset
            if not name and (self._words[self._positions[member_type] + 1] >> 24) & 31 in (_STRUCT, _UNION):
                inner = self._offset(member_type, field)
                if inner is not None:
                    return offset + inner
        return None

    def offset(self, structure: str, field: str) -> int:
        """Byte offset of a field, looking into anonymous members; raises KeyError if there is none."""
        found = self._offset(self._find(structure, _STRUCT), field)
        if found is None:
            raise KeyError(f"{structure}.{field}")
        return found

    def function_id(self, name: str) -> int:
        """Type id of a kernel function, as attach_btf_id wants it; raises KeyError."""
        return self._find(name, _FUNC)
