# SPDX-License-Identifier: Apache-2.0
"""The ladder of memory samples, on sysfs trees like real processors'; attributes by the kernel's header."""

import mmap
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from hotpage.capture import bpf, perf
from hotpage.capture.choice import choose_rungs
from hotpage.capture.kernel import Kernel
from hotpage.capture.links import Links
from hotpage.capture.perf import PerfEvent, breakpoint_at
from hotpage.capture.sources import Attachment, Rung, memsample
from hotpage.capture.sources.memsample import SAMPLES_HZ, MemorySamples, Pmu
from hotpage.capture.watch import Watch
from hotpage.errors import UsageError

INTEL_FORMAT = {
    "event": "config:0-7",
    "umask": "config:8-15",
    "ldlat": "config1:0-15",
    "edge": "config:18",
    "frontend": "config1:0-23",
}
AMD_FORMAT = {"rand_en": "config:57", "cnt_ctl": "config:19"}


class Sysfs:
    """/sys/bus/event_source/devices, and /proc/cpuinfo."""

    def __init__(self, root: Path) -> None:
        self.devices, self.cpuinfo = root / "devices", root / "cpuinfo"
        self.devices.mkdir()
        self.write_flags("fpu hypervisor sse")

    def write_flags(self, flags: str) -> None:
        self.cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}\n")

    def pmu(
        self, name: str, number: int, terms: dict[str, str], events: dict[str, str], cpus: str | None = None
    ) -> None:
        for folder, files in (("format", terms), ("events", events)):
            (self.devices / name / folder).mkdir(parents=True)
            for file, text in files.items():
                (self.devices / name / folder / file).write_text(text + "\n")
        (self.devices / name / "type").write_text(f"{number}\n")
        if cpus is not None:
            (self.devices / name / "cpus").write_text(cpus + "\n")


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


class FakeKernel(Kernel):
    """Refuses the events it is told to."""

    def __init__(self, *refuses: str) -> None:
        super().__init__()
        self._refused = refuses

    def refusal(self, kind: str, hook: str, event: PerfEvent | None = None) -> str | None:
        return "Operation not supported" if hook in self._refused else None


def ladder(sysfs: Sysfs) -> MemorySamples:
    return MemorySamples(sysfs.devices, sysfs.cpuinfo)


def rung(sysfs: Sysfs, name: str) -> Rung:
    return next(rung for rung in ladder(sysfs).rungs(FakeKernel()) if rung.name == name)


def events(rung: Rung) -> dict[str, PerfEvent]:
    return {attachment.hook: attachment.event for attachment in rung.attachments if attachment.event}


def test_intel_before_sapphire_rapids(sysfs: Sysfs) -> None:
    described = {"mem-loads": "event=0xcd,umask=0x1,ldlat=3", "mem-stores": "event=0xd0,umask=0x82"}
    sysfs.pmu("cpu", 4, INTEL_FORMAT, described)
    found = events(rung(sysfs, "pebs"))
    assert list(found) == ["cpu/mem-loads", "cpu/mem-stores"]
    loads, stores = found.values()
    assert (loads.type, loads.config, loads.config1, loads.leader) == (4, 0x1CD, 30, None)
    assert (stores.type, stores.config, stores.config1, stores.leader) == (4, 0x82D0, 0, None)
    for event in (loads, stores):
        assert (event.precise_ip, event.frequency_hz, event.data_source) == (2, SAMPLES_HZ, True)
        assert event.exclude_kernel and event.cpus is None


def test_sapphire_rapids_wants_the_auxiliary_event_at_the_head_of_the_group(sysfs: Sysfs) -> None:
    described = {
        "mem-loads": "event=0xcd,umask=0x1,ldlat=3",
        "mem-loads-aux": "event=0x03,umask=0x82",
        "mem-stores": "event=0xcd,umask=0x2",
    }
    sysfs.pmu("cpu", 4, INTEL_FORMAT, described)
    loads, stores = events(rung(sysfs, "pebs")).values()
    assert loads.leader is not None
    assert (loads.leader.type, loads.leader.config) == (4, 0x8203)
    assert (stores.config, stores.leader) == (0x2CD, None)


def test_each_kind_of_core_has_its_own_events(sysfs: Sysfs) -> None:
    core = {"mem-loads": "event=0xcd,umask=0x1,ldlat=3", "mem-loads-aux": "event=0x03,umask=0x82"}
    atom = {"mem-loads": "event=0xd0,umask=0x5,ldlat=3", "mem-stores": "event=0xd0,umask=0x6"}
    sysfs.pmu("cpu_core", 4, INTEL_FORMAT, core, cpus="0-7")
    sysfs.pmu("cpu_atom", 10, INTEL_FORMAT, atom, cpus="8-11,14")
    found = events(rung(sysfs, "pebs"))
    assert list(found) == ["cpu_core/mem-loads", "cpu_atom/mem-loads", "cpu_atom/mem-stores"]
    assert found["cpu_core/mem-loads"].cpus == frozenset(range(8))
    assert found["cpu_core/mem-loads"].leader is not None
    atom_loads = found["cpu_atom/mem-loads"]
    assert (atom_loads.type, atom_loads.config, atom_loads.config1) == (10, 0x5D0, 30)
    assert (atom_loads.leader, atom_loads.cpus) == (None, frozenset({8, 9, 10, 11, 14}))


@pytest.mark.parametrize(
    ("extra", "config"),
    [({}, 1 << 19), ({"l3missonly": "config:16"}, 1 << 19 | 1 << 16)],
    ids=["before Zen 4", "Zen 4"],
)
def test_amd(sysfs: Sysfs, extra: dict[str, str], config: int) -> None:
    sysfs.pmu("ibs_op", 9, AMD_FORMAT | extra, {})
    (event,) = events(rung(sysfs, "ibs")).values()
    assert (event.type, event.config, event.config1) == (9, config, 0)
    assert event.data_source and event.frequency_hz == SAMPLES_HZ
    assert not event.exclude_kernel, "refused by 6.1 and 6.12"


def test_bits_go_where_the_format_says(sysfs: Sysfs) -> None:
    sysfs.pmu("odd", 77, {"split": "config:0-7,32-35", "far": "config2:60", "flag": "config1:3"}, {})
    event = Pmu(sysfs.devices / "odd").event({"split": 0xABC, "far": 1, "flag": 1})
    assert (event.type, event.config, event.config1, event.config2) == (77, 0xA_0000_00BC, 8, 1 << 60)
    with pytest.raises(ValueError, match="flag is too large"):
        Pmu(sysfs.devices / "odd").event({"flag": 2})


@pytest.mark.parametrize(
    ("flags", "words"),
    [("fpu hypervisor", "this virtual machine has no PMU"), ("fpu", "this machine has no PMU")],
)
def test_a_machine_without_a_pmu_is_told_in_one_line(sysfs: Sysfs, flags: str, words: str) -> None:
    sysfs.write_flags(flags)
    here = ladder(sysfs)
    refusals = {rung.name: here.refusal(rung, FakeKernel()) for rung in here.rungs(FakeKernel())}
    assert refusals == {"pebs": words, "ibs": words, "breakpoint": None, "software event": None}


def test_a_pmu_without_precise_loads(sysfs: Sysfs) -> None:
    sysfs.pmu("cpu", 4, INTEL_FORMAT, {"cycles": "event=0x3c"})
    here = ladder(sysfs)
    assert here.refusal(rung(sysfs, "pebs"), FakeKernel()) == (
        "this virtual machine's PMU samples no data addresses this way"
    )


def test_a_pmu_described_in_an_odd_way_refuses_its_rung_only(sysfs: Sysfs) -> None:
    sysfs.pmu("cpu", 4, {"event": "config:0-7"}, {"mem-loads": "event=0xcd,umask=0x1"})
    sysfs.pmu("ibs_op", 9, AMD_FORMAT, {})
    here = ladder(sysfs)
    by_name = {rung.name: here.refusal(rung, FakeKernel()) for rung in here.rungs(FakeKernel())}
    assert by_name["pebs"] is not None and "umask" in by_name["pebs"]
    assert by_name["ibs"] is None


def test_stores_may_be_refused_and_loads_may_not(sysfs: Sysfs) -> None:
    described = {"mem-loads": "event=0xcd,umask=0x1,ldlat=3", "mem-stores": "event=0xd0,umask=0x82"}
    sysfs.pmu("cpu", 4, INTEL_FORMAT, described)
    pebs = rung(sysfs, "pebs")
    assert ladder(sysfs).refusal(pebs, FakeKernel("cpu/mem-stores")) is None
    assert ladder(sysfs).refusal(pebs, FakeKernel("cpu/mem-loads")) == (
        "perf event cpu/mem-loads: Operation not supported"
    )


def test_what_is_for_tests_is_taken_only_when_named(sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memsample, "LADDER", ladder(sysfs))
    chosen, refused = choose_rungs(("sample",), FakeKernel())
    assert (chosen, refused) == ({}, {"sample": "this virtual machine has no PMU"})
    chosen, refused = choose_rungs(("sample",), FakeKernel(), {"sample": "software event"})
    assert (chosen["sample"].name, refused) == ("software event", {})
    forced = {"sample": "breakpoint:0x7f0000001000:4096"}
    chosen, _ = choose_rungs(("sample",), FakeKernel(), forced)
    assert [event.config1 for event in events(chosen["sample"]).values()] == [0x7F0000001000, 4096]


def test_the_best_pmu_is_taken(sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    sysfs.pmu("ibs_op", 9, AMD_FORMAT, {})
    monkeypatch.setattr(memsample, "LADDER", ladder(sysfs))
    chosen, _ = choose_rungs(("sample",), FakeKernel())
    assert chosen["sample"].name == "ibs"
    _, refused = choose_rungs(("sample",), FakeKernel("ibs_op"))
    assert refused["sample"] == (
        "pebs: this virtual machine's PMU samples no data addresses this way; "
        "ibs: perf event ibs_op: Operation not supported"
    )


@pytest.mark.parametrize(
    ("rung", "words"),
    [
        ("breakpoint:banana", "'banana' are not addresses"),
        ("breakpoint:8:16:24:32", "breakpoints watch 1 to 3 addresses, not 4"),
        ("breakpoint:0x1001", "a breakpoint watches 8 aligned bytes"),
        ("software event:8", "the rung 'software event' takes no addresses"),
        ("magic:8", "source 'sample' has no rung 'magic'"),
    ],
)
def test_addresses_that_make_no_sense(rung: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose_rungs(("sample",), FakeKernel(), {"sample": rung})


def test_a_breakpoint_without_an_address_is_asked_for_one() -> None:
    with pytest.raises(UsageError, match="breakpoint:0x"):
        choose_rungs(("sample",), FakeKernel(), {"sample": "breakpoint"})


def test_an_event_covers_the_cpus_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[int, int] = {}

    def attach(event: PerfEvent, cpu: int, program: int) -> list[int]:
        head, member = 1000 + 2 * len(opened), 1001 + 2 * len(opened)
        opened[head] = opened[member] = cpu
        return [head, member]

    closed: list[int] = []
    monkeypatch.setattr(perf, "attach", attach)
    monkeypatch.setattr(bpf, "online_cpus", lambda: [0, 1, 2, 3])
    monkeypatch.setattr("hotpage.capture.links.os.close", closed.append)
    monkeypatch.setattr("hotpage.capture.links.Watch", lambda fd: SimpleNamespace(close=lambda: None))
    attachment = Attachment(
        "perf_event", "cpu_atom/mem-loads", "memory_sample", event=PerfEvent(10, cpus=frozenset({2, 3, 9}))
    )
    links = Links()
    links.attach(attachment, 42)
    assert sorted(set(opened.values())) == [2, 3]
    monkeypatch.setattr(bpf, "online_cpus", lambda: [0, 1, 3])
    links.follow_cpus(attachment, 42)
    assert closed == [1001, 1000], "the group's head last: its members would lose it"
    links.close()
    assert sorted(closed) == sorted(opened)


def throttle_record(kind: int, time_ns: int) -> bytes:
    return struct.pack("<IHHQQQ", kind, 0, 32, time_ns, 1, 2)


def test_standing_still_is_summed_up_also_around_the_buffer_s_end(tmp_path: Path) -> None:
    """The event's memory, as the kernel lays it out, in a file whose beginning read(2) gives."""
    throttle, unthrottle, sample = 5, 6, 9
    records = [
        throttle_record(unthrottle, 5),  # began before it was watched
        throttle_record(throttle, 1000),
        throttle_record(sample, 1100),
        throttle_record(unthrottle, 1700),
        throttle_record(throttle, 5000),
    ]
    data = b"".join(records)
    page = mmap.PAGESIZE
    start = 3 * page - 80  # the third record goes on at the beginning
    memory = bytearray(2 * page)
    struct.pack_into("<QQQ", memory, 0, 12345, 10_000, 9_000)
    struct.pack_into("<QQ", memory, 1024, start + len(data), start)
    for i, byte in enumerate(data):
        memory[page + (start + i) % page] = byte
    (tmp_path / "event").write_bytes(memory)
    with (tmp_path / "event").open("r+b", buffering=0) as event:
        watch = Watch(event.fileno())
        assert watch.unwatched_ns() == 700 + 1_000, (
            "throttled from 1000 to 1700, and 1000 ns without a counter"
        )
        event.seek(0)
        assert watch.unwatched_ns() == 700 + 1_000, "read once"
        more = throttle_record(unthrottle, 5600)
        at = (start + len(data)) % page
        event.seek(page + at)
        event.write(more)
        event.seek(1024)
        event.write(struct.pack("<Q", start + len(data) + len(more)))
        event.seek(0)
        assert watch.unwatched_ns() == 700 + 600 + 1_000
        watch.close()


C_SOURCE = r"""
#include <linux/perf_event.h>
#include <stdio.h>
#define SAMPLES (PERF_SAMPLE_ADDR | PERF_SAMPLE_DATA_SRC)
#define TIMES (PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING)
int main(void)
{
    struct perf_event_attr attrs[3] = {
        {.type = 4, .config = 0x1cd, .config1 = 30, .sample_freq = 997, .freq = 1, .precise_ip = 2,
         .disabled = 1, .exclude_kernel = 1, .exclude_hv = 1, .sample_type = SAMPLES, .read_format = TIMES,
         .wakeup_events = 1},
        {.type = PERF_TYPE_BREAKPOINT, .bp_type = 3, .bp_addr = 0x7f0000001000, .bp_len = 8,
         .sample_period = 1, .disabled = 1, .sample_type = SAMPLES, .read_format = TIMES, .wakeup_events = 1},
        {.type = 4, .config = 0x8203, .exclude_kernel = 1, .exclude_hv = 1},
    };
    for (int i = 0; i < 3; i++) {
        attrs[i].size = PERF_ATTR_SIZE_VER5;
        fwrite(&attrs[i], PERF_ATTR_SIZE_VER5, 1, stdout);
    }
    return 0;
}
"""


@pytest.mark.needs("compiler")
def test_attributes_are_laid_out_as_the_kernel_s_header_says(tmp_path: Path) -> None:
    (tmp_path / "attr.c").write_text(C_SOURCE)
    subprocess.run(["cc", "-o", tmp_path / "attr", tmp_path / "attr.c"], check=True)
    expected = subprocess.run([tmp_path / "attr"], check=True, capture_output=True).stdout
    head = PerfEvent(4, 0x8203, exclude_kernel=True)
    loads = PerfEvent(
        4, 0x1CD, 30, frequency_hz=997, precise_ip=2, data_source=True, exclude_kernel=True, leader=head
    )
    ours = loads.attributes() + breakpoint_at(0x7F0000001000).attributes() + head.leader_attributes()
    assert ours == expected
