"""What engines say of their containers, read: rows as podman 4.3 and docker 20.10 wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stoker.launch.containers import GRACE_S, from_docker, from_podman
from stoker.launch.request import Port

NEVER = -62135596800
LABELS = {
    "dev.stoker.launch": "1",
    "dev.stoker.launch.name": "night",
    "dev.stoker.launch.kind": "run",
    "dev.stoker.launch.project": "/home/eva/pets",
    "dev.stoker.launch.home": "",
    "dev.stoker.launch.grace": "120",
    "dev.stoker.launch.gpus": "0,2",
    "dev.stoker.variants": "cli",
}


def podman_row(**changes: Any) -> dict[str, Any]:
    row = {
        "Command": ["sleep", "1000"],
        "Created": 1795298127,
        "ExitedAt": NEVER,
        "ExitCode": 0,
        "Id": "6c11",
        "Image": "localhost/pets:latest",
        "Labels": LABELS,
        "Names": ["stoker-night"],
        "Ports": [{"host_ip": "127.0.0.1", "container_port": 80, "host_port": 18999, "range": 2, "protocol": "tcp"}],
        "StartedAt": 1795298128,
        "State": "running",
    }
    return {**row, **changes}


def docker_row(*, state: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    told = {
        "Status": "running",
        "Running": True,
        "ExitCode": 0,
        "Error": "",
        "StartedAt": "2026-11-21T21:56:22.560849269Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
    }
    row = {
        "Id": "a690",
        "Created": "2026-11-21T21:56:22.343631753Z",
        "Name": "/stoker-night",
        "State": {**told, **(state or {})},
        "Config": {"Image": "pets", "Cmd": ["sleep", "1000"], "Labels": LABELS},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18999"}]}},
        "NetworkSettings": {"Ports": {}},
    }
    return {**row, **changes}


def test_one_that_runs() -> None:
    one, other = from_podman(podman_row()), from_docker(docker_row())
    assert one.ports == (Port(host=18999, inside=80), Port(host=19000, inside=81))
    assert other.ports == (Port(host=18999, inside=80),)
    for read in (one, other):
        assert (read.name, read.container, read.kind, read.state, read.running) == ("night", "stoker-night", "run", "running", True)
        assert (read.project, read.home, read.grace_s, read.gpus) == (Path("/home/eva/pets"), None, 120, "0,2")
        assert (read.exit_code, read.ended, read.command, read.ours) == (None, None, ("sleep", "1000"), True)
    assert other.started is not None
    assert abs(other.started - 1795298182.56) < 0.01


def test_one_that_ended() -> None:
    one = from_podman(podman_row(State="exited", ExitCode=137, ExitedAt=1795298200))
    other = from_docker(docker_row(state={"Status": "exited", "ExitCode": 137, "FinishedAt": "2026-11-21T21:56:40.5Z"}))
    for read in (one, other):
        assert (read.state, read.running, read.exit_code) == ("exited", False, 137)
        assert read.ended == 1795298200 + (0.5 if read is other else 0)


def test_one_that_never_started() -> None:
    assert from_podman(podman_row(State="created", StartedAt=NEVER)).exit_code is None
    told = {"Status": "created", "ExitCode": 127, "StartedAt": "0001-01-01T00:00:00Z"}
    assert from_docker(docker_row(state=told)).exit_code == 127
    assert from_docker(docker_row(state=told)).started is None


def test_one_that_somebody_started_by_hand() -> None:
    """A label is enough; what is missing is said as far as it can be."""
    bare = {"dev.stoker.launch": "1", "dev.stoker.launch.grace": "soon"}
    one = from_podman(podman_row(Names=["demo"], Labels=bare, Ports=None, Command=None))
    other = from_docker(docker_row(Name="/demo", Config={"Labels": bare, "Image": "x"}, HostConfig={}, NetworkSettings=None))
    for read in (one, other):
        assert (read.name, read.container, read.kind, read.grace_s, read.ports, read.command, read.ours) == (
            "demo",
            "demo",
            "",
            GRACE_S,
            (),
            (),
            False,
        )


def test_states_that_only_podman_has() -> None:
    assert from_podman(podman_row(State="stopped")).state == "exited"
    assert from_podman(podman_row(State="initialized")).state == "created"
    assert from_podman({}).state == "unknown"
    assert from_docker({}).state == "unknown"


def test_all_addresses() -> None:
    ports = [{"host_ip": "", "container_port": 80, "host_port": 8080, "protocol": "tcp"}, {"container_port": 53, "host_port": 53, "protocol": "udp"}]
    assert from_podman(podman_row(Ports=ports)).ports == (Port(host=8080, inside=80, address="0.0.0.0"),)
