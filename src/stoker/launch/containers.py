"""What was started, as its engine tells it: state, exit code, ports, and the labels that say what Stoker made it for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from stoker.launch import labels
from stoker.launch.request import Port

GRACE_S = 10
"""Of a container whose label says nothing: the engines' own."""
# One that was stopped and not cleaned up yet is no other state for a person.
_STATES = {"stopped": "exited", "configured": "created", "initialized": "created"}


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container, or a program that was started on this machine itself."""

    id: str
    name: str
    """As the person calls it."""
    engine: str
    """podman, docker or local."""
    container: str
    """As the engine calls it: `stoker-NAME`."""
    kind: str
    """notebook, ssh, run; empty for one that was started by hand and does not say."""
    image: str
    state: str
    """running, exited, created, paused, restarting, stopping, dead, ..."""
    exit_code: int | None
    """None: it runs, or never did."""
    created: float | None
    """Seconds since 1970, like the next two."""
    started: float | None
    ended: float | None
    ports: tuple[Port, ...]
    project: Path | None
    """On the host."""
    home: Path | None
    grace_s: int
    gpus: str
    """As asked for: all, none, 0,2, ..."""
    command: tuple[str, ...]
    labels: Mapping[str, str]

    @property
    def running(self) -> bool:
        """Whether a program runs in it at this moment."""
        return self.state in ("running", "paused", "restarting", "stopping", "removing")

    @property
    def ours(self) -> bool:
        """Whether its image is one that Stoker built, with `stoker-start` inside."""
        return labels.VARIANTS in self.labels


def from_podman(row: Mapping[str, Any]) -> Container:
    """Read a row of `podman ps --format json`."""
    named = {str(key): str(value) for key, value in (row.get("Labels") or {}).items()}
    state = _state(row.get("State"))
    started = _seconds(row.get("StartedAt"))
    ended = None if state == "running" else _seconds(row.get("ExitedAt"))
    return Container(
        **labelled(named, str(next(iter(row.get("Names") or ()), ""))),
        id=str(row.get("Id") or ""),
        engine="podman",
        image=str(row.get("Image") or ""),
        state=state,
        exit_code=int(row.get("ExitCode") or 0) if ended and started else None,
        created=_seconds(row.get("Created")),
        started=started,
        ended=ended,
        ports=tuple(_podman_ports(row.get("Ports") or ())),
        command=tuple(map(str, row.get("Command") or ())),
    )


def from_docker(row: Mapping[str, Any]) -> Container:
    """Read an object of `docker inspect`."""
    config, told = row.get("Config") or {}, row.get("State") or {}
    named = {str(key): str(value) for key, value in (config.get("Labels") or {}).items()}
    state = _state(told.get("Status"))
    started = _seconds(told.get("StartedAt"))
    code = int(told.get("ExitCode") or 0)
    return Container(
        **labelled(named, str(row.get("Name") or "").lstrip("/")),
        id=str(row.get("Id") or ""),
        engine="docker",
        image=str(config.get("Image") or ""),
        state=state,
        # One whose program does not exist was never started, and has a code.
        exit_code=code if (state in ("exited", "dead") or (state == "created" and code)) else None,
        created=_seconds(row.get("Created")),
        started=started,
        ended=None if state in ("running", "paused") else _seconds(told.get("FinishedAt")),
        ports=tuple(_docker_ports(row)),
        command=tuple(map(str, config.get("Cmd") or ())),
    )


def labelled(named: Mapping[str, str], container: str) -> dict[str, Any]:
    """Return what the labels say, and for one that was started by hand what can be said without."""
    project, home, grace = (named.get(label) or "" for label in (labels.PROJECT, labels.HOME, labels.GRACE))
    return {
        "name": named.get(labels.NAME) or container.removeprefix(labels.PREFIX),
        "container": container,
        "kind": named.get(labels.KIND) or "",
        "project": Path(project) if project else None,
        "home": Path(home) if home else None,
        "grace_s": int(grace) if re.fullmatch(r"\d{1,6}", grace) else GRACE_S,
        "gpus": named.get(labels.GPUS) or "",
        "labels": named,
    }


def _state(told: Any) -> str:
    state = str(told or "unknown").lower()
    return _STATES.get(state, state)


def _seconds(told: Any) -> float | None:
    """Return a moment in seconds since 1970; None for the year 1, by which Go says never."""
    if isinstance(told, int | float):
        return float(told) if told > 0 else None
    # Nine digits of a second are more than Python reads.
    text = re.sub(r"(\.\d{6})\d*", r"\1", str(told or "")).replace("Z", "+00:00")
    text = re.sub(r"\.(\d{1,6})(?=[+-]|$)", lambda found: f".{found[1]:0<6}", text)
    try:
        moment = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return moment if moment > 0 else None


def _podman_ports(rows: Any) -> Iterator[Port]:
    for row in rows:
        if row.get("protocol", "tcp") == "tcp":
            for more in range(int(row.get("range") or 1)):
                yield Port(host=int(row["host_port"]) + more, inside=int(row["container_port"]) + more, address=row.get("host_ip") or "0.0.0.0")


def _docker_ports(row: Mapping[str, Any]) -> Iterator[Port]:
    """Yield the ports that are published now; of one that does not run, those that would be."""
    now = (row.get("NetworkSettings") or {}).get("Ports") or (row.get("HostConfig") or {}).get("PortBindings") or {}
    for inside, places in sorted(now.items()):
        number, _, protocol = inside.partition("/")
        for place in places or ():
            if protocol == "tcp" and str(place.get("HostPort")).isdigit():
                yield Port(host=int(place["HostPort"]), inside=int(number), address=place.get("HostIp") or "0.0.0.0")
