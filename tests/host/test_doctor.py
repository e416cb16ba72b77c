# SPDX-License-Identifier: Apache-2.0
"""hotpage doctor on this machine, and on what this machine becomes when something is hidden from it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hotpage.capture.findbcc import find_bcc
from hotpage.machine.knobs import NUMA_BALANCING

DOCTOR = f"{shlex.quote(sys.executable)} -B -m hotpage doctor"
# Nobody, but able to read the checkout and the virtualenv wherever they are.
AS_NOBODY = (
    "setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs "
    "--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search --"
)
SETTINGS = sorted(Path("/proc/sys/kernel").glob("numa_*"))
CHECKOUT = Path(__file__).parents[2]


def run(command: str) -> subprocess.CompletedProcess[str]:
    """In a mount namespace of its own: what is mounted is seen by nobody else and gone afterwards."""
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", command], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert result.stderr == ""
    return result


def diagnose(setting: str = "", prefix: str = "") -> tuple[int, dict[str, Any]]:
    """Exit status and JSON; ``setting`` are shell commands to run before, ``prefix`` goes before hotpage."""
    result = run(f"{setting}\n{prefix} {DOCTOR} --json")
    return result.returncode, json.loads(result.stdout)


def rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in document["checks"]}


@pytest.mark.needs("bcc")
def test_the_verdict_is_that_of_the_rows() -> None:
    status, document = diagnose()
    blocked = [
        name for name, check in rows(document).items() if check["essential"] and check["state"] == "no"
    ]
    assert status == bool(blocked)
    assert document["main_job"]["can_run"] is (not blocked)
    interpreter, version = find_bcc()
    assert rows(document)["bcc"]["finding"] == f"{version} in {interpreter}"
    assert rows(document)["source fault"]["state"] == "ok"
    assert document["self_test_s"] > 0


def test_text_fits_a_pipe_of_80_columns() -> None:
    text = run(DOCTOR).stdout
    assert "\033" not in text
    assert not [line for line in text.splitlines() if len(line) > 80 and "next: " not in line]


def test_no_setting_is_touched(tmp_path: Path) -> None:
    """A session that changes a setting first makes the state directory and saves the old value there."""
    state = tmp_path / "state"
    before = [path.read_bytes() for path in SETTINGS]
    diagnose(f"export HOTPAGE_STATE_DIR={state}")
    assert [path.read_bytes() for path in SETTINGS] == before
    assert not state.exists()


@pytest.mark.needs("bcc")
def test_it_works_where_settings_are_read_only() -> None:
    _, document = diagnose("mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys")
    check = rows(document)["NUMA balancing"]
    assert rows(document)["source fault"]["state"] == "ok"
    if NUMA_BALANCING.exists() and NUMA_BALANCING.read_text() == "0\n":
        assert check["state"] == "no"
        assert "Read-only file system" in check["finding"]
        assert document["main_job"]["blocked_by"] == "NUMA balancing"


def test_a_user_without_root_gets_honest_rows() -> None:
    status, document = diagnose(prefix=AS_NOBODY)
    assert status == 1
    assert document["main_job"]["blocked_by"] == "privileges"
    assert document["main_job"]["next_step"].startswith("sudo ")
    assert document["main_job"]["next_step"].endswith(" doctor")
    found = rows(document)
    assert found["source hint"]["state"] == found["source fault"]["state"] == "no"
    assert found["raw tracepoints"]["state"] == "no"
    assert found["topology"]["state"] == "ok"
    assert document["self_test_s"] is None


@pytest.mark.needs("bcc")
def test_hidden_bcc_gives_the_command_that_installs_it() -> None:
    interpreter, _ = find_bcc()
    where = subprocess.run(
        [interpreter, "-I", "-c", "import bcc; print(bcc.__path__[0])"], capture_output=True, text=True
    )
    status, document = diagnose(f"mount -t tmpfs none {where.stdout.strip()}")
    assert status == 1
    check = rows(document)["bcc"]
    assert check["state"] == "no"
    assert "install" in check["next_step"]
    assert document["main_job"]["blocked_by"] == "bcc"
    assert rows(document)["source hint"]["next_step"] == check["next_step"]
    assert rows(document)["raw tracepoints"]["state"] == "ok"


@pytest.mark.needs("bcc")
def test_hidden_type_information_costs_the_page_table_rungs_only() -> None:
    _, document = diagnose("mount -t tmpfs none /sys/kernel/btf")
    found = rows(document)
    assert found["type information"]["state"] == "limited"
    assert "type information" in found["hint/fentry"]["finding"]
    assert "type information lacks" in found["hint/tracepoint"]["finding"]
    assert found["source fault"]["state"] == "ok"


def test_a_pid_namespace_of_a_container_is_recognised() -> None:
    status, document = diagnose(prefix="unshare --pid --fork --mount-proc")
    assert status == 1
    assert document["main_job"]["blocked_by"] == "pid namespace"
    assert rows(document)["source fault"]["finding"] == "not tested, for want of the right pid namespace"
    assert "--pid=host" in document["main_job"]["next_step"]


def test_missing_capabilities_are_named() -> None:
    status, document = diagnose(prefix="setpriv --bounding-set=-sys_admin,-bpf --")
    assert status == 1
    assert rows(document)["privileges"]["finding"] == "root without CAP_SYS_ADMIN, CAP_BPF"


def test_an_unmounted_debugfs_gives_the_mount_command() -> None:
    _, document = diagnose("mount -t tmpfs none /sys/kernel/debug")
    check = rows(document)["arming pace"]
    assert check["state"] == "limited"
    assert check["next_step"] == "sudo mount -t debugfs none /sys/kernel/debug"


def test_what_a_killed_session_left_is_told(tmp_path: Path) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    dead = {"pid": 2**22 + 1, "start_time_ticks": 1, "serial": "00"}
    knob = {"saved": "0", "written": ["1"], "owners": [dead]}
    document = {
        "magic": "hotpage-knobs",
        "version": 1,
        "boot_id": boot,
        "knobs": {"/proc/sys/kernel/x": knob},
    }
    (tmp_path / "knobs.json").write_text(json.dumps(document))
    _, found = diagnose(f"export HOTPAGE_STATE_DIR={tmp_path}")
    check = rows(found)["settings"]
    assert check["state"] == "limited"
    assert check["next_step"].endswith(" restore")
    assert json.loads((tmp_path / "knobs.json").read_text()) == document
