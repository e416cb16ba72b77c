# SPDX-License-Identifier: Apache-2.0
"""What is read of the kernel: its types, its symbols; and which rung is taken for what it allows."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from hotpage.capture import bpf, perf
from hotpage.capture.btf import Btf
from hotpage.capture.capture import shards_for
from hotpage.capture.choice import choose_rungs
from hotpage.capture.kallsyms import text_range
from hotpage.capture.kernel import Kernel
from hotpage.capture.links import Links
from hotpage.capture.perf import PerfEvent
from hotpage.capture.sources import Attachment
from hotpage.errors import AttachError, UnsupportedError, UsageError

HEADER = struct.Struct("=HBBIIIII")
INT, STRUCT, FUNC = 1, 4, 12


def btf_file(path: Path, types: bytes, names: bytes) -> Path:
    path.write_bytes(
        HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, len(types), len(types), len(names)) + types + names
    )
    return path


def record(name: int, kind: int, count: int, last: int, *words: int) -> bytes:
    return struct.pack(f"={3 + len(words)}I", name, kind << 24 | count, last, *words)


@pytest.fixture
def small(tmp_path: Path) -> Btf:
    """struct outer { int a; struct { int deep; }; int b : 4 at bit 72; }; and a function of the same name."""
    names = b"\0outer\0a\0deep\0b\0int\0fn\0"
    at = {
        name: names.index(b"\0" + name + b"\0") + 1 for name in (b"outer", b"a", b"deep", b"b", b"int", b"fn")
    }
    types = (
        record(at[b"int"], INT, 0, 4, 32)  # 1
        + record(0, STRUCT, 1, 4, at[b"deep"], 1, 0)  # 2
        + record(at[b"outer"], FUNC, 0, 1)  # 3
        + struct.pack(
            "=12I", at[b"outer"], 1 << 31 | STRUCT << 24 | 3, 16,
            at[b"a"], 1, 0, 0, 2, 32, at[b"b"], 1, 4 << 24 | 72,
        )  # 4
        + record(at[b"fn"], FUNC, 0, 1)  # 5
    )  # fmt: skip
    return Btf(btf_file(tmp_path / "btf", types, names))


def test_offsets_of_plain_nested_and_bit_fields(small: Btf) -> None:
    assert [small.offset("outer", field) for field in ("a", "deep", "b")] == [0, 4, 9]


def test_functions_by_number(small: Btf) -> None:
    assert small.function_id("fn") == 5
    assert small.function_id("outer") == 3


@pytest.mark.parametrize(("structure", "field"), [("outer", "c"), ("inner", "a"), ("fn", "a")])
def test_what_is_not_there(small: Btf, structure: str, field: str) -> None:
    with pytest.raises(KeyError):
        small.offset(structure, field)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x9f\xeb",
        b"ELF" + bytes(100),
        HEADER.pack(0x9FEB, 1, 0, HEADER.size, 0, 0, 0, 0),
        HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, 7, 7, 1) + bytes(8),  # not whole words
        HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, 4, 4, 1) + bytes(5),  # a record cut off
    ],
    ids=["empty", "short", "foreign", "byte order", "odd length", "cut off"],
)
def test_a_broken_file_is_said_to_be_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "btf").write_bytes(content)
    with pytest.raises(UnsupportedError, match="btf"):
        Btf(tmp_path / "btf")


def test_a_kernel_without_types(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no kernel type information"):
        Btf(tmp_path / "none")


KALLSYMS = b"""\
ffffffff81000000 T _text
ffffffff81000100 t twin
ffffffff81000100 T alias_of_twin
ffffffff81000180 T change_prot_numa
ffffffff81000200 t change_prot_numa.cold
ffffffff81000300 D data_named_like_text
ffffffffa0000000 t change_prot_numa_in_a_module\t[mod]
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("change_prot_numa", (0xFFFFFFFF81000180, 0xFFFFFFFF81000200)),
        ("twin", (0xFFFFFFFF81000100, 0xFFFFFFFF81000180)),  # not the alias at its own address
        ("data_named_like_text", None),
        ("prot_numa", None),
        ("missing", None),
    ],
)
def test_function_addresses(tmp_path: Path, name: str, expected: tuple[int, int] | None) -> None:
    (tmp_path / "kallsyms").write_bytes(KALLSYMS)
    assert text_range(name, tmp_path / "kallsyms") == expected


def test_hidden_or_absent_symbols(tmp_path: Path) -> None:
    (tmp_path / "hidden").write_bytes(b"0000000000000000 T change_prot_numa\n0000000000000000 T next\n")
    assert text_range("change_prot_numa", tmp_path / "hidden") is None
    assert text_range("change_prot_numa", tmp_path / "none") is None
    (tmp_path / "last").write_bytes(b"ffffffff81000180 T change_prot_numa\n")
    assert text_range("change_prot_numa", tmp_path / "last") is None


FIELDS = dict.fromkeys(
    ("HOTPAGE_TASK_MM", "HOTPAGE_MM_PGD", "HOTPAGE_MM_NUMA_SCAN_OFFSET", "HOTPAGE_MM_NUMA_SCAN_SEQ"), 8
)


class FakeKernel(Kernel):
    """Refuses what it is told to: kinds of hooks, or single ones."""

    def __init__(
        self,
        refuses: tuple[str, ...] = (),
        levels: int | None = 4,
        fields: dict[str, int] = FIELDS,
        text: tuple[int, ...] = (1, 2, 3, 4),
    ) -> None:
        super().__init__()
        self._refused = refuses
        self._fields = fields
        self.__dict__ |= {"page_table_levels": levels, "arming_text": list(text)}

    @property
    def field_defines(self) -> dict[str, int]:
        return self._fields

    def refusal(self, kind: str, hook: str, event: PerfEvent | None = None) -> str | None:
        return "Operation not permitted" if {kind, hook} & set(self._refused) else None


def rung_names(kernel: Kernel, forced: dict[str, str] | None = None) -> dict[str, str]:
    chosen, _ = choose_rungs(("hint", "fault"), kernel, forced)
    return {name: rung.name for name, rung in chosen.items()}


FUNCTIONS = ("fentry", "kprobe")


@pytest.mark.parametrize(
    ("kernel", "hint", "fault"),
    [
        (FakeKernel(), "fentry", "tracepoint"),
        (FakeKernel(("fentry",)), "kprobe", "tracepoint"),
        (FakeKernel(("fentry", "task_numa_fault")), "tracepoint", "tracepoint"),
        (FakeKernel(FUNCTIONS), "tracepoint", "tracepoint"),
        (FakeKernel((*FUNCTIONS, "sched_skip_vma_numa")), "tracepoint", "tracepoint"),
        (FakeKernel((*FUNCTIONS, "page_fault_kernel")), "software event", "software event"),
        (FakeKernel((*FUNCTIONS, "tlb_flush")), None, "tracepoint"),
        (FakeKernel(FUNCTIONS, levels=None), None, "tracepoint"),
        (FakeKernel(FUNCTIONS, fields={}), None, "tracepoint"),
        (FakeKernel(FUNCTIONS, text=(0, 0, 0, 0)), None, "tracepoint"),
        (FakeKernel(("raw_tracepoint",)), "fentry", "software event"),
        (FakeKernel((*FUNCTIONS, "raw_tracepoint", "perf_event")), None, None),
    ],
)
def test_the_best_rung_that_works_is_taken(kernel: Kernel, hint: str | None, fault: str | None) -> None:
    expected = {"hint": hint, "fault": fault}
    assert rung_names(kernel) == {name: rung for name, rung in expected.items() if rung}


def test_every_refused_rung_says_why() -> None:
    kernel = FakeKernel((*FUNCTIONS, "raw_tracepoint", "perf_event"))
    _, refused = choose_rungs(("hint", "fault"), kernel)
    assert refused["hint"].count("Operation not permitted") == 4
    assert refused["fault"] == (
        "tracepoint: raw tracepoint page_fault_user: Operation not permitted; "
        "software event: perf event page-faults: Operation not permitted"
    )
    _, refused = choose_rungs(("hint",), FakeKernel(FUNCTIONS, fields={}))
    assert "HOTPAGE_MM_PGD" in refused["hint"]
    _, refused = choose_rungs(("hint",), FakeKernel(FUNCTIONS, text=(0, 0, 0, 0)))
    assert "kptr_restrict" in refused["hint"]


def test_a_rung_insisted_on_decides_for_the_other_source() -> None:
    kernel = FakeKernel(FUNCTIONS)
    both = {"hint": "software event", "fault": "software event"}
    assert rung_names(kernel, {"fault": "software event"}) == both
    assert rung_names(kernel, {"hint": "software event"}) == both
    assert rung_names(FakeKernel(), {"fault": "software event"}) == both | {"hint": "fentry"}


def test_rungs_that_would_count_faults_twice_are_refused() -> None:
    with pytest.raises(UsageError, match="see the same faults"):
        rung_names(FakeKernel(), {"hint": "tracepoint", "fault": "software event"})


def test_a_rung_insisted_on_that_does_not_work_is_neither_replaced_nor_left_out() -> None:
    kernel = FakeKernel(("kprobe",))
    with pytest.raises(UnsupportedError, match=r"'hint' does not work as named \(kprobe: .*Operation not"):
        choose_rungs(("hint", "fault"), kernel, {"hint": "kprobe"})
    chosen, refused = choose_rungs(("hint", "fault"), FakeKernel((*FUNCTIONS, "tlb_flush")))
    assert (list(chosen), list(refused)) == (["fault"], ["hint"]), "without a rung it is a remark"


@pytest.mark.parametrize(
    ("names", "forced", "words"),
    [
        (("heat",), {}, "unknown source 'heat': choose from fault, hint, sample"),
        (
            ("fault",),
            {"fault": "magic"},
            "source 'fault' has no rung 'magic': choose from tracepoint, software event",
        ),
    ],
)
def test_names_that_do_not_exist(names: tuple[str, ...], forced: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        choose_rungs(names, FakeKernel(), forced)
    assert str(raised.value) == words


@pytest.mark.parametrize(
    ("cpus", "shards"), [(1, 1), (16, 1), (17, 2), (32, 2), (33, 4), (64, 4), (65, 8), (1024, 8)]
)
def test_shards(cpus: int, shards: int) -> None:
    assert shards_for(cpus) == shards


class FakeEvents:
    """Perf events on the CPUs that happen to be online, as file descriptors of /dev/null."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.online = [0, 1]
        self.refused: set[int] = set()
        self.attached: dict[int, int] = {}  # CPU by descriptor
        monkeypatch.setattr(bpf, "online_cpus", lambda: list(self.online))
        monkeypatch.setattr(perf, "attach", self._attach)
        monkeypatch.setattr("hotpage.capture.links.os.close", self._close)

    def _attach(self, event: PerfEvent, cpu: int, program: int) -> list[int]:
        assert (event, program) == (perf.PAGE_FAULTS, 42)
        if cpu in self.refused:
            raise OSError(19, "No such device")
        fd = 1000 + cpu + 100 * len(self.attached)
        self.attached[fd] = cpu
        return [fd]

    def _close(self, fd: int) -> None:
        del self.attached[fd]

    @property
    def cpus(self) -> list[int]:
        return sorted(self.attached.values())


PAGE_FAULTS = Attachment("perf_event", "page-faults", "software_page_fault", event=perf.PAGE_FAULTS)


def test_cpus_that_come_and_go_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    events, links = FakeEvents(monkeypatch), Links()
    links.attach(PAGE_FAULTS, 42)
    assert events.cpus == [0, 1]
    first = dict(events.attached)
    links.follow_cpus(PAGE_FAULTS, 42)
    assert events.attached == first, "what is attached stays"
    events.online = [0]
    links.follow_cpus(PAGE_FAULTS, 42)
    assert events.cpus == [0]
    events.online = [0, 1, 2, 3]
    events.refused = {2}  # it went away again before it could be covered
    links.follow_cpus(PAGE_FAULTS, 42)
    assert events.cpus == [0, 1, 3]
    events.refused = set()
    links.follow_cpus(PAGE_FAULTS, 42)
    assert events.cpus == [0, 1, 2, 3]
    links.close()
    links.close()
    assert events.cpus == []


def test_an_attachment_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    events, links = FakeEvents(monkeypatch), Links()
    events.refused = {1}
    with pytest.raises(
        AttachError, match=r"cannot attach to page-faults \(No such device\): see hotpage doctor"
    ):
        links.attach(PAGE_FAULTS, 42)
    links.attach(replace(PAGE_FAULTS, optional=True), 42)
    assert events.cpus == [0], "closing finds what was attached before"
    links.close()
    assert events.cpus == []
