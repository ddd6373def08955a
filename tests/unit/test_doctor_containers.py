"""The doctor's container section: engines, toolkit and CDI as they are written down, and judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.doctor.checks import containers as checks
from stoker.doctor.examination import title_of
from stoker.doctor.facts import Facts
from stoker.doctor.facts.cdi import CdiSpecification, read_cdi
from stoker.doctor.facts.containers import Containers, gather_containers
from stoker.doctor.facts.gpus import MigDevice
from stoker.doctor.finding import Finding, Severity, check_id
from tests.fakes import smi
from tests.fakes.machines import container, h200, laptop, server, written

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
SPECIFICATION = server().containers.cdi[0]
YAML = """---
cdiVersion: 0.5.0
kind: nvidia.com/gpu   # what nvidia-ctk writes
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: "0"
- name: GPU-1
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      hostPath: /dev/nvidia0
  name: all
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
  - path: /dev/nvidiactl
  hooks:
  - args: [nvidia-cdi-hook, update-ldcache]
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
  mounts:
  - containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05
    hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05
    options:
    - ro
"""
HERE: dict[str, str | bytes] = dict.fromkeys(("dev/nvidia0", "dev/nvidiactl", "usr/bin/nvidia-cdi-hook"), "")
HERE["usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05"] = ""


def found(facts: Facts) -> dict[str, Finding]:
    """Return what the checks of this section find."""
    outcomes = {check_id(check): check(facts) for check in checks.CHECKS}
    return {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Finding)}


def changed(**changes: Any) -> Facts:
    """The healthy server with other containers."""
    facts = server()
    return replace(facts, containers=replace(facts.containers, **changes))


# --- judging --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts",
    [
        server(),
        container(),
        laptop(),
        Facts(),
        replace(server(), containers=Containers()),
        # No driver: nothing that containers could be given.
        replace(changed(toolkit_version="1.16.1", cdi=()), driver=laptop().driver),
        # A docker client that speaks to another machine, without toolkit here.
        changed(docker_remote=True, podman_version=None, toolkit_version=None, toolkit_path=None, cdi=(), docker_runtimes=()),
        # Docker of old, with its runtime and cgroupfs.
        changed(
            docker_server_version="24.0.7",
            docker_cdi_folders=(),
            docker_cgroup_driver="cgroupfs",
            podman_version=None,
            toolkit_version="1.17.8",
            cdi=(),
        ),
        # Nodes and sockets that are made when they are first used.
        changed(cdi=(replace(SPECIFICATION, missing=("/dev/nvidia-uvm", "/dev/nvidia-modeset", "/run/nvidia-persistenced/socket")),)),
        # A specification made by hand that names "all" alone.
        changed(cdi=(replace(SPECIFICATION, devices=("all",)),)),
    ],
)
def test_what_is_in_order_has_no_finding(facts: Facts) -> None:
    assert found(facts) == {}


NO_TOOLKIT: dict[str, Any] = {"toolkit_version": None, "toolkit_path": None, "cdi": (), "docker_runtimes": ("runc",)}


@pytest.mark.parametrize(
    ("facts", "name", "severity", "said", "fix"),
    [
        (changed(**NO_TOOLKIT), "toolkit-missing", WARNING, "Docker and Podman are here", "nvidia-container-toolkit"),
        (changed(**NO_TOOLKIT, docker_version=None), "toolkit-missing", NOTE, "Podman is here", "nvidia-container-toolkit"),
        (changed(toolkit_version="1.17.4"), "toolkit-vulnerable", ERROR, "1.17.8", "--only-upgrade"),
        (
            changed(docker_server_version=None, docker_error="permission denied while trying to connect to the Docker daemon socket"),
            "docker-forbidden",
            NOTE,
            "may not use Docker",
            "usermod -aG docker",
        ),
        (
            changed(docker_server_version=None, docker_error="Cannot connect to the Docker daemon at unix:///var/run/docker.sock."),
            "docker-not-running",
            NOTE,
            "does not answer",
            "systemctl enable --now docker",
        ),
        (
            changed(docker_runtimes=("runc",), docker_cdi_folders=()),
            "toolkit-not-configured-docker",
            WARNING,
            "does not know",
            "runtime configure --runtime=docker",
        ),
        (
            changed(docker_runtimes=("runc",), docker_cdi_folders=(), docker_config='{"runtimes": {"nvidia": {}}}'),
            "toolkit-not-configured-docker",
            WARNING,
            "not restarted",
            "sudo systemctl restart docker",
        ),
        (changed(cdi=()), "toolkit-not-configured-podman", WARNING, "no CDI specification", "/etc/cdi/nvidia.yaml"),
        (
            changed(cdi=(CdiSpecification(path="/etc/cdi/nvidia.yaml", error="no CDI specification"),)),
            "toolkit-not-configured-podman",
            WARNING,
            "",
            "",
        ),
        (changed(cdi=(replace(SPECIFICATION, driver_versions=("570.124.06",)),)), "cdi-stale", ERROR, "570.124.06", "--output=/run/cdi/nvidia.yaml"),
        (changed(cdi=(replace(SPECIFICATION, missing=("/usr/bin/nvidia-persistenced",)),)), "cdi-stale", ERROR, "nvidia-persistenced", "generate"),
        (changed(cdi=(replace(SPECIFICATION, devices=("0", "all")),)), "cdi-lacks-gpu", WARNING, "GPU 1", "generate"),
        (changed(podman_version="4.9.4"), "podman-too-old-for-gpus", NOTE, "ignores --gpus", "--device nvidia.com/gpu=all"),
        (
            changed(docker_server_version="27.3.1", docker_cdi_folders=(), toolkit_version="1.17.8"),
            "cgroup-driver-systemd-risk",
            NOTE,
            "daemon-reload",
            "mode=cdi",
        ),
    ],
)
def test_a_fault_is_one_finding(facts: Facts, name: str, severity: Severity, said: str, fix: str) -> None:
    findings = found(facts)
    assert list(findings) == [name]
    finding = findings[name]
    assert finding.severity is severity
    assert said in finding.what
    assert fix in finding.fix
    assert finding.evidence
    assert all(finding.evidence)


def test_mig_instances_that_the_specification_lacks() -> None:
    parts = (MigDevice(index=0, uuid="MIG-a"), MigDevice(index=1, uuid="MIG-b"))
    facts = replace(server(gpus=(h200(0, mig=True, mig_devices=parts), h200(1))))
    with_names = replace(facts, containers=replace(facts.containers, cdi=(replace(SPECIFICATION, devices=("0:0", "1", "all")),)))
    assert "MIG instance 0:1" in found(with_names)["cdi-lacks-gpu"].what
    whole = replace(facts, containers=replace(facts.containers, cdi=(replace(SPECIFICATION, devices=("MIG-a", "0:1", "1", "all")),)))
    assert found(whole) == {}


@pytest.mark.parametrize("version", ["1.18.0", "1.17.8", "99.0.0"])
def test_a_toolkit_without_known_holes(version: str) -> None:
    assert "toolkit-vulnerable" not in found(changed(toolkit_version=version))


@pytest.mark.parametrize(
    ("wanted", "met"),
    [
        ("cuda>=13.0", True),
        ("cuda>=12.8 brand=tesla,driver>=470,driver<471", True),
        ("cuda>=13.2", False),
        ("cuda>=13.2 driver>=580", True),
        ("driver>=580.95.06", False),
        ("driver<580", False),
        ("driver=580", True),
        ("driver!=580", False),
        ("cuda>=13.2 brand=tesla,driver>=535,driver<536", False),
        ("cuda>=13.2 brand=tesla,driver>=580", True),  # the brand is not known: nothing is said
        ("arch>=10.0", False),
        ("arch>=9.0,cuda>=13", True),
        ("nonsense", True),
        (",,", True),
    ],
)
def test_what_an_image_requires(wanted: str, met: bool) -> None:
    findings = found(container(variables={"NVIDIA_REQUIRE_CUDA": wanted}))
    assert list(findings) == ([] if met else ["nvidia-require-cuda-unmet"])
    assert found(server(variables={"NVIDIA_REQUIRE_CUDA": wanted})) == {}


def test_every_check_has_a_title_and_a_paragraph() -> None:
    assert len({check_id(check) for check in checks.CHECKS}) == len(checks.CHECKS) >= 11
    for check in checks.CHECKS:
        assert title_of(check).endswith(".")
        assert (check.__doc__ or "").count("\n\n") >= 1, check.__name__


# --- gathering ------------------------------------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    for name in ("DOCKER_HOST", "KUBERNETES_SERVICE_HOST", "container"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    return tmp_path / "programs"


def test_nothing_there(tmp_path: Path, programs: Path) -> None:
    facts = gather_containers(tmp_path / "empty")
    assert facts == Containers()


def test_a_machine_with_all_of_them(tmp_path: Path, programs: Path) -> None:
    root = written(
        tmp_path / "root",
        HERE
        | {
            "etc/cdi/nvidia.yaml": YAML,
            "etc/cdi/other.yaml": "kind: vendor.com/thing",
            "etc/docker/daemon.json": '{"runtimes": {}}',
            "etc/nvidia-container-runtime/config.toml": '#disable = 1\n[nvidia-container-runtime]\nmode = "cdi"\n',
            "usr/share/containers/oci/hooks.d/oci-nvidia-hook.json": "{}",
            "run/systemd/system/x": "",
            "etc/systemd/system/multi-user.target.wants/nvidia-cdi-refresh.path": "",
            "sys/fs/cgroup/cgroup.controllers": "cpu",
        },
    )
    info = {"ServerVersion": "28.2.0", "Runtimes": {"runc": {}, "nvidia": {}}, "CgroupDriver": "systemd", "CDISpecDirs": ["/etc/cdi"]}
    path = smi.program(programs, "docker")
    path.write_text("#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'Docker version 28.2.0, build abc'; else echo '" + json.dumps(info) + "'; fi\n")
    smi.program(programs, "podman", "podman version 5.4.2")
    smi.program(programs, "nvidia-ctk", "NVIDIA Container Toolkit CLI version 1.17.8\ncommit: f202b80")
    facts = gather_containers(root)
    assert (facts.docker_version, facts.docker_server_version, facts.docker_runtimes) == ("28.2.0", "28.2.0", ("nvidia", "runc"))
    assert (facts.docker_cdi_folders, facts.docker_error) == (("/etc/cdi",), None)
    assert (facts.podman_version, facts.toolkit_version, facts.cgroup_version) == ("5.4.2", "1.17.8", 2)
    assert facts.toolkit_config == '[nvidia-container-runtime]\nmode = "cdi"'
    assert (facts.hook, facts.cdi_refreshed, facts.systemd) == ("/usr/share/containers/oci/hooks.d/oci-nvidia-hook.json", True, True)
    (specification,) = facts.cdi
    assert specification == CdiSpecification(
        path="/etc/cdi/nvidia.yaml", version="0.5.0", kind="nvidia.com/gpu", devices=("0", "GPU-1", "all"), driver_versions=("580.95.05",)
    )


@pytest.mark.parametrize(
    ("out", "err", "code"),
    [
        ("", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", 1),
        ('{"ServerErrors": ["permission denied while trying to connect"]}', "", 0),
        ("garbage {", "", 0),
        ("[1]", "", 0),
        ('{"Runtimes": 5, "CDISpecDirs": "x", "ServerVersion": 7}', "", 0),
    ],
)
def test_docker_that_does_not_answer(tmp_path: Path, programs: Path, out: str, err: str, code: int) -> None:
    path = smi.program(programs, "docker", out, code=code, err=err)
    path.write_text(path.read_text().replace("#!/bin/sh\n", "#!/bin/sh\n[ \"$1\" = --version ] && echo 'Docker version 24.0.7, build x' && exit\n"))
    facts = gather_containers(tmp_path)
    assert (facts.docker_version, facts.docker_server_version, facts.docker_runtimes) == ("24.0.7", None, ())
    assert facts.docker_error or "7" in out


@pytest.mark.parametrize("written_for", ["580.82.07", "580.95.05"])
def test_the_specification_is_not_blamed_for_a_driver_update_that_waits_for_a_restart(written_for: str) -> None:
    facts = changed(cdi=(replace(SPECIFICATION, driver_versions=(written_for,), missing=("/usr/lib/x86_64-linux-gnu/libcuda.so.580.82.07",)),))
    updated = replace(facts.driver, version="580.82.07", library_version="580.95.05", nvml_code=18, nvml_error="Driver/library version mismatch")
    assert found(replace(facts, driver=updated, gpus=())) == {}
    # One that is older than both is stale anyhow.
    older = changed(cdi=(replace(SPECIFICATION, driver_versions=("570.124.06",)),))
    assert "cdi-stale" in found(replace(older, driver=updated, gpus=()))


def test_podman_in_disguise_is_no_docker(tmp_path: Path, programs: Path) -> None:
    smi.program(programs, "docker", "podman version 4.9.4")
    assert gather_containers(tmp_path).docker_version is None


def test_cdi_as_json_and_what_is_missing(tmp_path: Path) -> None:
    value = {
        "cdiVersion": "0.6.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}}, {"name": "1:0"}],
        "containerEdits": {"mounts": [{"hostPath": "/usr/lib64/libcuda.so.570.1", "containerPath": "/x"}]},
    }
    written(tmp_path, {"etc/cdi/a.json": json.dumps(value)})
    found_one = read_cdi(tmp_path / "etc/cdi/a.json", tmp_path)
    assert (found_one.devices, found_one.driver_versions, found_one.version) == (("0", "1:0"), ("570.1",), "0.6.0")
    assert found_one.missing == ("/dev/nvidia0", "/usr/lib64/libcuda.so.570.1")


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe", b"{", b"[]", b"kind:", b"- - -\n: :", b"devices:\n- name: x", b'{"kind": null}', b'{"devices": [1]}']
)
def test_a_broken_specification_says_so(tmp_path: Path, content: bytes) -> None:
    written(tmp_path, {"etc/cdi/nvidia.yaml": content})
    assert read_cdi(tmp_path / "etc/cdi/nvidia.yaml", tmp_path).error
    assert read_cdi(tmp_path / "etc/cdi/none.yaml", tmp_path).error
