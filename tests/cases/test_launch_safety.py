"""What a started container may not do: the items of the CIS Docker Benchmark 1.6 that are about containers, and GPUs by CDI."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.image_engines import Engine, podman
from tests.launch_engines import Desk, desk_at

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1500)]

KINDS = {"notebook": ["up", "notebook"], "ssh": ["up", "ssh"], "run": ["run", "-d"]}
SYSTEM = {"/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/run", "/var", "/var/run", "/home", "/root"}


@dataclass(frozen=True, kw_only=True)
class Started:
    """A container, as its engine and its own /proc tell."""

    kind: str
    told: dict[str, Any]
    """`inspect`."""
    status: dict[str, str]
    """/proc/1/status, from inside."""

    @property
    def host(self) -> dict[str, Any]:
        """HostConfig."""
        found: dict[str, Any] = self.told["HostConfig"]
        return found

    @property
    def mounts(self) -> dict[str, str]:
        """Folders of the host by their place inside."""
        return {one["Destination"]: one.get("Source", "") for one in self.told["Mounts"] if one.get("Type", "bind") == "bind"}


@pytest.fixture(scope="module", params=sorted(KINDS))
def started(engine: Engine, request: pytest.FixtureRequest) -> Iterator[Started]:
    kind = request.param
    with desk_at(engine, named="whales") as desk:
        program = ["--", "sleep", "600"] if kind == "run" else []
        desk.stoker(*KINDS[kind], "--image", engine.image, "--name", "watched", *program)
        told = desk.inspect("watched")
        lines = desk.engine.run("exec", "stoker-watched", "cat", "/proc/1/status").stdout.splitlines()
        yield Started(kind=kind, told=told, status=dict(line.split(":\t", 1) for line in lines if ":\t" in line))


# What is not checked, and why:
# - 5.1 AppArmor, 5.2 SELinux: of the host; Stoker leaves the engine's own profile on.
# - 5.7 no sshd inside: `up ssh` is one, with an ordinary account, a port above 1024, and keys only.
# - 5.12 CPU shares: all cores are a training's to use, unless --cpus says otherwise.
# - 5.15 `on-failure`, five times at most: with --restart it comes back until it is stopped, since that is what was asked for.
# - 5.18 no devices: GPUs are handed in when there are any; none here.
# - 5.24, 5.25, 5.27, 5.28, 5.30, 5.31: about hosts, images or how people call the engine.
ITEMS: dict[str, Callable[[Started], bool]] = {
    "4.1 an ordinary user": lambda one: one.status["Uid"].split()[0] not in ("", "0"),
    "5.3/5.4 no capabilities": lambda one: {one.status[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {"0" * 16},
    "5.5 not privileged": lambda one: not one.host["Privileged"],
    "5.6 no folders of the system": lambda one: not SYSTEM & set(one.mounts.values()),
    "5.8 no privileged ports": lambda one: all(int(row["HostPort"]) > 1024 for rows in published(one) for row in rows),
    "5.9/5.10 its own network": lambda one: one.host["NetworkMode"] != "host",
    "5.11 a memory limit": lambda one: 0 < one.host["Memory"] < memory_of_this_machine(),
    "5.13 a root that cannot be written": lambda one: one.host["ReadonlyRootfs"],
    "5.14 ports on the loopback only": lambda one: all(row["HostIp"] == "127.0.0.1" for rows in published(one) for row in rows),
    "5.15 no restart that nobody asked for": lambda one: one.host["RestartPolicy"]["Name"] in ("", "no"),
    "5.16 its own processes": lambda one: one.host["PidMode"] in ("", "private"),
    "5.17 its own shared memory": lambda one: one.host["IpcMode"] in ("", "private", "shareable"),
    "5.17 and enough of it": lambda one: one.host["ShmSize"] >= 64 << 20,
    "5.18 no devices": lambda one: not one.host["Devices"],
    "5.19 limits of files": lambda one: open_files(one.told) > 1024,
    "5.20 mounts are not shared": lambda one: all(row.get("Propagation", "") in ("", "rprivate", "private") for row in one.told["Mounts"]),
    "5.21 its own host name": lambda one: one.host["UTSMode"] in ("", "private"),
    "5.22 seccomp": lambda one: one.status["Seccomp"].strip() == "2",
    "5.26 no new privileges": lambda one: one.status["NoNewPrivs"].strip() == "1",
    "5.29 a limit of processes": lambda one: 0 < one.host["PidsLimit"] <= 32768,
    "5.32 no socket of an engine": lambda one: not any("docker.sock" in text or "podman.sock" in text for text in one.mounts.values()),
}


def published(one: Started) -> list[list[dict[str, str]]]:
    """Return the ports on the host."""
    return [rows for rows in (one.host.get("PortBindings") or {}).values() if rows]


def memory_of_this_machine() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def open_files(told: dict[str, Any]) -> int:
    """Return the limit of open files; where the engine's default stands, that of the test's engines."""
    return next((row["Hard"] for row in told["HostConfig"]["Ulimits"] or [] if row["Name"].upper().endswith("NOFILE")), 20000)


def test_the_items_of_the_cis_benchmark(started: Started) -> None:
    assert [item for item, holds in ITEMS.items() if not holds(started)] == []
    assert started.kind == "run" or published(started)


def test_what_is_refused(desk: Desk) -> None:
    socket_of_engine = desk.folder / "docker.sock"
    socket_of_engine.touch()
    for words in (["-v", "/:/host"], ["-v", "/var/run/docker.sock:/var/run/docker.sock"], ["-v", "/run/podman/podman.sock:/s"]):
        assert desk.run(*words, "--", "true", status=79).returncode == 79
    assert desk.run("--project", "/", "--", "true", status=None).returncode in (2, 78, 79)
    assert desk.run("--project", str(desk.person), "--", "true", status=None).returncode in (2, 78, 79)
    root = desk.stoker("up", "notebook", "--image", desk.engine.image, "--user", "0", status=None)
    assert root.returncode in (2, 78, 83)
    assert desk.run("--memory", "900t", "--", "true", status=81).returncode == 81
    assert desk.containers() == []


def test_root_inside_only_when_it_was_said(desk: Desk) -> None:
    assert desk.run("--user", "0", "--", "id", "-u").stdout == "0\n"
    refused = desk.run("--user", "1234:5678", "--", "true", status=78)
    assert "may not write" in refused.stderr
    assert desk.run("--no-check", "--home", "none", "--user", "1234:5678", "--", "sh", "-c", "id -u; id -g").stdout == "1234\n5678\n"


def test_writable_when_it_was_said(desk: Desk) -> None:
    assert desk.run("--writable", "--user", "0", "--", "sh", "-c", "echo x > /etc/x && cat /etc/x").stdout == "x\n"


@pytest.mark.parametrize("engine", [podman], ids=["podman"], indirect=True)
def test_a_gpu_by_cdi(engine: Engine) -> None:
    """A device that is none, described as NVIDIA's toolkit describes real ones, in a mount namespace of the test."""
    need(os.geteuid() == 0, "root")
    with desk_at(engine) as desk:
        devices = desk.folder / "dev"
        devices.mkdir()
        for number in range(2):
            os.mknod(devices / f"nvidia{number}", 0o020666, os.makedev(1, 3))
        nodes = [{"path": f"/dev/nvidia{number}", "hostPath": f"{devices}/nvidia{number}"} for number in range(2)]
        named = [{"name": str(number), "containerEdits": {"deviceNodes": [nodes[number]]}} for number in range(2)]
        every = {"name": "all", "containerEdits": {"deviceNodes": nodes}}
        edits = {"env": ["NVIDIA_VISIBLE_DEVICES=void"]}
        # podman 4.3 knows CDI up to 0.5.0.
        told = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [*named, every], "containerEdits": edits}
        Path("/run/cdi").mkdir(exist_ok=True)
        (desk.folder / "cdi").mkdir()
        (desk.folder / "cdi/nvidia.yaml").write_text(json.dumps(told))

        def seen(gpus: str) -> str:
            asked = ["run", "--image", engine.image, "--no-check", "--gpus", gpus, "--", "sh", "-c", "ls /dev | grep nvidia"]
            alone = ["unshare", "--mount", "sh", "-c", f'mount --bind {desk.folder}/cdi /run/cdi && exec "$@"', "sh"]
            words = [*alone, sys.executable, "-m", "stoker", *asked]
            done = subprocess.run(words, cwd=desk.project, env=desk.environment, capture_output=True, text=True, timeout=120)
            return done.stdout or done.stderr

        assert seen("all").split() == ["nvidia0", "nvidia1"]
        assert seen("1").split() == ["nvidia1"]
        assert seen("0,1").split() == ["nvidia0", "nvidia1"]
        assert "3" in seen("3")
        assert "nvidia" not in seen("none")


def test_a_gpu_that_is_not_there(desk: Desk) -> None:
    need(shutil.which("nvidia-smi") is None, "a machine without a GPU")
    done = desk.run("--gpus", "all", "--", "true", status=78)
    assert "GPU" in done.stderr
    assert desk.containers() == []
