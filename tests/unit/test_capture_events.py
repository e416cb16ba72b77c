# SPDX-License-Identifier: Apache-2.0
"""hotpage.h as Python reads it, against what a C compiler makes of it."""

import enum
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hotpage.bpfsources import bpf_source_directory
from hotpage.capture import events
from hotpage.capture.events import (
    CONFIG_DTYPE,
    COUNTERS_DTYPE,
    EVENT_DTYPE,
    EventFlag,
    EventSource,
    TargetKind,
    layout_assertions,
    parse_enum,
    parse_struct,
)

STRUCTS = {
    "hotpage_event": EVENT_DTYPE,
    "hotpage_config": CONFIG_DTYPE,
    "hotpage_counters": COUNTERS_DTYPE,
}
ENUMS: dict[type[enum.IntEnum] | type[enum.IntFlag], str] = {
    EventSource: "HOTPAGE_",
    EventFlag: "HOTPAGE_",
    TargetKind: "HOTPAGE_TARGET_",
}


def compiled(tmp_path: Path, statements: str) -> list[int]:
    """Numbers that a C program with hotpage.h prints."""
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <linux/types.h>\n#include <stddef.h>\n#include <stdio.h>\n"
        f'#include "hotpage.h"\nint main(void) {{\n{statements}return 0;\n}}\n'
    )
    program = tmp_path / "layout"
    command = ["cc", "-Wall", "-Werror", f"-I{bpf_source_directory()}", "-o", program, source]
    subprocess.run(command, check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return list(map(int, printed.split()))


def print_of(expression: str) -> str:
    return f'printf("%lld\\n", (long long)({expression}));\n'


@pytest.mark.needs("compiler")
@pytest.mark.parametrize("name", STRUCTS)
def test_every_field_lies_where_the_compiler_puts_it(name: str, tmp_path: Path) -> None:
    dtype = STRUCTS[name]
    assert dtype.fields is not None and dtype.names is not None
    sizes = {field: layout[0].itemsize for field, layout in dtype.fields.items()}
    offsets = {field: layout[1] for field, layout in dtype.fields.items()}
    statements = print_of(f"sizeof(struct {name})")
    for field in dtype.names:
        statements += print_of(f"offsetof(struct {name}, {field})")
        statements += print_of(f"sizeof(((struct {name} *)0)->{field})")
    size, *numbers = compiled(tmp_path, statements)
    assert size == dtype.itemsize
    assert dict(zip(dtype.names, numbers[::2], strict=True)) == offsets
    assert dict(zip(dtype.names, numbers[1::2], strict=True)) == sizes


@pytest.mark.needs("compiler")
def test_every_number_is_the_compilers(tmp_path: Path) -> None:
    names = [f"{prefix}{member.name}" for kind, prefix in ENUMS.items() for member in kind]
    values = [int(member) for kind in ENUMS for member in kind]
    names.append("HOTPAGE_UNKNOWN_NODE")
    values.append(events.UNKNOWN_NODE)
    assert compiled(tmp_path, "".join(map(print_of, names))) == values


@pytest.mark.parametrize(
    ("kind", "name", "prefix"),
    [
        (EventSource, "hotpage_source", ""),
        (EventFlag, "hotpage_flag", ""),
        (TargetKind, "hotpage_target", "TARGET_"),
    ],
)
def test_no_member_of_the_header_is_missing(kind: type[enum.Enum], name: str, prefix: str) -> None:
    header = events._without_comments((bpf_source_directory() / "hotpage.h").read_text())
    assert {f"{prefix}{member.name}": member.value for member in kind} == parse_enum(header, name)


def test_an_event_is_32_bytes_and_shares_the_length_with_the_period() -> None:
    assert EVENT_DTYPE.itemsize == 32
    event = np.zeros(1, EVENT_DTYPE)
    event["pages"] = 77
    assert event["period"][0] == 77


@pytest.mark.needs("compiler")
def test_the_checks_at_load_time_find_a_moved_field(tmp_path: Path) -> None:
    header = (bpf_source_directory() / "hotpage.h").read_text()
    moved = header.replace("\t__u32 tid;\n", "").replace("\t__u64 time_ns;", "\t__u32 tid;\n\t__u64 time_ns;")
    assert moved != header

    def compiles(text: str) -> bool:
        source = tmp_path / "checked.c"
        source.write_text("#include <linux/types.h>\n" + text + layout_assertions())
        return subprocess.run(["cc", "-fsyntax-only", source], capture_output=True).returncode == 0

    assert compiles(header)
    assert not compiles(moved)


def test_alignment_arrays_and_unions() -> None:
    header = """struct all {
	__u8 a;
	__u32 b[3];
	union {
		__u16 c;
		__u64 d;
	};
	char name[5];
};
"""
    assert parse_struct(header, "all") == np.dtype(
        {
            "names": ["a", "b", "c", "d", "name"],
            "formats": ["u1", ("<u4", (3,)), "<u2", "<u8", "S5"],
            "offsets": [0, 4, 16, 16, 24],
            "itemsize": 32,
        }
    )


@pytest.mark.parametrize("field", ["int a;", "__u32 a : 3;", "struct other b;", "__u8 *p;"])
def test_c_beyond_the_reader_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        parse_struct(f"struct odd {{\n\t{field}\n}};\n", "odd")


def test_what_the_header_lacks_is_said() -> None:
    with pytest.raises(ValueError, match="no struct missing"):
        parse_struct("struct other {\n};\n", "missing")
