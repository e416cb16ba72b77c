# SPDX-License-Identifier: Apache-2.0
"""What a fleet runs hotpage auto with: dashboard, manifest, unit and documents agree with the code."""

import configparser
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from serviceworld import World

from hotpage.errors import UsageError
from hotpage.recording.arming import MOST_HOLDS
from hotpage.recording.session import Progress
from hotpage.service.configuration import ConfigError, Configuration, parse
from hotpage.service.loop import NEEDED, NoTiersError
from hotpage.service.metrics import ServiceMetrics
from hotpage.service.sections import kinds_of

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "hotpage" / "service" / "hotpage.service"
METRIC = re.compile(r"\bhotpage_\w+")


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """The names of all samples that a service exports after a round with moves."""
    world = World()
    world.rate[100:300] = 1000.0
    step = world.step()
    none = {"hint": 0}
    progress = Progress(received={"hint": 1}, lost=none, missed_runs=none, sampled_out=none)
    service = SimpleNamespace(
        configuration=world.configuration, session=SimpleNamespace(progress=progress), keeper=world.keeper
    )
    metrics = ServiceMetrics(service)  # type: ignore[arg-type]
    metrics.note(step)
    registry = CollectorRegistry()
    registry.register(metrics)
    lines = generate_latest(registry).decode().splitlines()
    return {METRIC.match(line)[0] for line in lines if METRIC.match(line)}  # type: ignore[index]


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
    return document


def test_the_dashboard_asks_for_metrics_that_exist(exported: set[str]) -> None:
    document = dashboard()
    asked = set(METRIC.findall(document["templating"]["list"][1]["query"]))
    for panel in document["panels"]:
        assert panel["targets"] and panel["title"]
        for target in panel["targets"]:
            asked |= set(METRIC.findall(target["expr"]))
    assert asked and asked <= exported, asked - exported


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    identifiers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells


def test_the_document_lists_every_metric(exported: set[str]) -> None:
    documented = set(METRIC.findall((ROOT / "docs" / "auto.md").read_text()))
    families = {re.sub(r"_(bucket|gcount|gsum)$", "", name) for name in exported}
    assert documented == families


def keys(section: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    for one in fields(section):
        if one.metadata:
            yield prefix + one.name, one.metadata["description"]
        else:
            yield from keys(kinds_of(section)[one.name], f"{one.name}.")


def test_the_document_describes_every_key_as_the_model_does() -> None:
    text = (ROOT / "docs" / "auto.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE)
    assert [row for row in rows if not row[0].startswith("hotpage_")] == list(keys(Configuration))


def test_the_manifest() -> None:
    configuration, workload = yaml.safe_load_all((ROOT / "docs" / "kubernetes-daemonset.yaml").read_text())
    assert parse(configuration["data"]["hotpage.toml"], "manifest").dry_run
    assert (workload["apiVersion"], workload["kind"]) == ("apps/v1", "DaemonSet")
    spec = workload["spec"]
    template = spec["template"]
    assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    pod = template["spec"]
    assert pod["hostPID"] is True
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["command"][0] == "hotpage"
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (volume,) = (one for one in pod["volumes"] if "configMap" in one)
    assert volume["configMap"]["name"] == configuration["metadata"]["name"]
    (file,) = configuration["data"]
    assert container["command"][-1] == f"{mounts[volume['name']]}/{file}"
    assert parse(configuration["data"][file], "manifest").state_dir in mounts.values()


def test_limits_of_memory_leave_room_for_all_pages() -> None:
    """Some 120 bytes a page, and the compiler: a service that is killed, or held back for good, is none."""
    assert not {"MemoryHigh", "MemoryMax"} & set(unit(UNIT.read_text())["Service"])
    text = (ROOT / "docs" / "kubernetes-daemonset.yaml").read_text()
    (node_gib,) = re.findall(r"nodes of up to (\d+) GiB", text)
    (limit_gib,) = re.findall(r"limits: {memory: (\d+)Gi}", text)
    assert int(limit_gib) * 2**30 >= int(node_gib) * 2**30 * 120 / 4096 + 300 * 2**20


@pytest.mark.parametrize(
    ("pod", "weight"),
    [
        ("kubepods-pod1.slice", 4.0),
        ("kubepods-burstable.slice/kubepods-burstable-pod2.slice", 1.0),
        ("kubepods-besteffort.slice/kubepods-besteffort-pod3.slice", 0.25),
    ],
)
def test_the_manifest_looks_after_pods_of_every_class(pod: str, weight: float) -> None:
    configuration, _ = yaml.safe_load_all((ROOT / "docs" / "kubernetes-daemonset.yaml").read_text())
    cgroup = f"/kubepods.slice/{pod}/cri-containerd-4.scope"
    situation = World(text=configuration["data"]["hotpage.toml"], cgroup=cgroup).step().situation
    limits = situation.limits.get(situation.processes[0].cgroup)
    assert limits is not None and limits.weight == weight


def unit(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_the_unit_agrees_with_the_code() -> None:
    service = unit(UNIT.read_text())["Service"]
    assert int(service["TasksMax"]) > MOST_HOLDS + 64, "a thread each"
    assert service["Type"] == "notify" and int(service["WatchdogSec"]) > 0
    capabilities = {f"CAP_{capability.name}" for capability in NEEDED}
    assert set(service["CapabilityBoundingSet"].split()) == capabilities
    hopeless = {str(error.exit_status) for error in (NoTiersError, ConfigError, UsageError)}
    assert hopeless == set(service["RestartPreventExitStatus"].split())
    assert "-P -m hotpage auto" in service["ExecStart"]
    assert "-P -m hotpage restore" in service["ExecStopPost"]
    assert Configuration().state_dir == f"/run/{service['RuntimeDirectory']}"


def install(
    destination: Path, *options: str, where: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HOTPAGE_ROOT_DIR": str(destination)} | variables
    command = [str(ROOT / "scripts" / "install-service"), *options]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=300)


def test_installing_runs_nothing_of_the_directory_it_is_called_in(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "hotpage.py").write_text("raise SystemExit('somebody else runs')")
    done = install(tmp_path / "root", where=elsewhere)
    assert done.returncode == 0, done.stderr
    assert "dry_run = true" in (tmp_path / "root" / "etc" / "hotpage.toml").read_text()


def test_installing_and_removing(tmp_path: Path) -> None:
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "etc" / "systemd" / "system" / "hotpage.service"
    text = file.read_text()
    assert "@" not in text.split("[Service]")[1].replace("SystemCallFilter=@system-service @debug", "")
    python = unit(text)["Service"]["ExecStart"].split()[0]
    assert os.access(python, os.X_OK)
    configuration = tmp_path / "etc" / "hotpage.toml"
    assert parse(configuration.read_text(), "installed") == Configuration(dry_run=True)
    if verify := shutil.which("systemd-analyze"):
        check_with_systemd(verify, file)
    configuration.write_text("dry_run = false\n")
    assert install(tmp_path).returncode == 0
    assert configuration.read_text() == "dry_run = false\n", "what is there stays"
    done = install(tmp_path, "--uninstall")
    assert done.returncode == 0 and not file.exists() and configuration.exists()
    done = install(tmp_path, "--uninstall")
    assert done.returncode == 1 and "there is no " in done.stderr
    done = install(tmp_path, "--purge")
    assert done.returncode == 1 and "unknown option --purge" in done.stderr


@pytest.mark.parametrize("program", ["exit 1", "echo interval = 1.0", ":"])
def test_no_configuration_is_better_than_half_of_one(tmp_path: Path, program: str) -> None:
    """An empty one would move pages of everything."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    (tmp_path / "venv" / "hotpage-stamp").write_text(f"{digest}  - {ROOT}\n")
    done = install(tmp_path, HOTPAGE_VENV=str(tmp_path / "venv"))
    assert done.returncode == 1, done.stderr
    assert not (tmp_path / "etc" / "hotpage.toml").exists()


def test_a_checkout_that_the_service_would_not_see_is_refused() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        shutil.copytree(ROOT / "scripts", Path(directory) / "scripts")
        command = [f"{directory}/scripts/install-service"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and f"would not find {directory}" in done.stderr


def check_with_systemd(program: str, file: Path) -> None:
    """The unit is valid, and its exposure no more than documented (no systemd has to run for that)."""
    done = subprocess.run([program, "verify", str(file)], capture_output=True, text=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if "hotpage" in line]
    assert done.returncode == 0 and not said, done.stderr
    command = [program, "security", "--offline=true", "--threshold=50", "--no-pager", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unrecognized option" in done.stderr:  # before systemd 250
        return
    assert done.returncode == 0, done.stdout
    exposure = re.search(r"Overall exposure level for hotpage.service: ([0-9.]+)", done.stdout)
    assert exposure is not None, done.stdout
    documented = re.search(r"exposure ([0-9]+\.[0-9])", (ROOT / "docs" / "auto.md").read_text())
    assert documented is not None and float(exposure[1]) <= float(documented[1]) + 0.2
