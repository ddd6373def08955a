"""What is to be started, with everything decided and nothing of one engine in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stoker.errors import BadValue
from stoker.launch import labels
from stoker.launch.gpus import Gpus

Kind = Literal["notebook", "ssh", "run"]
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
"""What a user may call a container."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One more file or folder of the host inside."""

    source: Path
    """On the host, absolute."""
    target: str
    """Inside, absolute."""
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port inside that answers on a port of the host."""

    host: int
    inside: int
    address: str = "127.0.0.1"
    """Of the host; `0.0.0.0` and `::` are all of its addresses."""

    @property
    def text(self) -> str:
        """Address and port on the host, `127.0.0.1:8888` or `[::1]:8888`."""
        return f"[{self.address}]:{self.host}" if ":" in self.address else f"{self.address}:{self.host}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What it may use. None: the engine's own default, no option is written."""

    memory_bytes: int | None
    cpus: float | None
    """CPUs' worth of time; None: all."""
    shm_bytes: int | None
    """Size of /dev/shm; None: the engine's 64 MB."""
    pids: int | None
    """Processes and threads; None: the engine's default."""
    ulimits: tuple[tuple[str, int, int], ...] = ()
    """Name, soft, hard; -1: unlimited. Podman: one entry replaces its whole list of defaults."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who it runs as inside, and who that is on the host."""

    uid: int
    """Inside."""
    gid: int
    """Inside."""
    name: str
    """Name of the account inside."""
    keep_id: bool
    """Rootless podman: the caller is mapped to `uid` by `--userns keep-id`."""
    known: bool
    """The image has an account with this uid; else one is written for it."""
    host_uid: int
    """Owner on the host of what is written on mounted folders."""
    host_gid: int
    files: Path | None = None
    """Folder on the host for the passwd and group files that docker mounts where the image has no such account; None: not needed."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One container, decided. Renderers turn it into an engine's command."""

    name: str
    """The user's name for it; the container's is `container`."""
    kind: Kind
    image: str
    """As the engine knows it."""
    command: tuple[str, ...]
    """Words after the image; empty: the image's own command."""
    project: Path | None
    """At `/workspace`, writable; None: no project folder."""
    home: Path | None
    """At `/home/stoker`, writable; None: a temporary one."""
    mounts: tuple[Mount, ...] = ()
    ports: tuple[Port, ...] = ()
    gpus: Gpus
    limits: Limits
    account: Account
    environment: tuple[str, ...] = ()
    """Names of the caller's variables; their values are on no command line."""
    fixed: tuple[tuple[str, str], ...] = ()
    """Our own variables with their values, nothing secret."""
    env_file: Path | None = None
    detach: bool = False
    terminal: bool = False
    interactive: bool = False
    init: bool = False
    """The engine's own init as process 1: for images without one, in which a plain program would not hear SIGTERM."""
    restart: bool = False
    """Come back after a reboot."""
    writable: bool = False
    """The image's own files can be changed (until the container is removed)."""
    grace_s: int = 10
    """Between SIGTERM and SIGKILL."""

    def __post_init__(self) -> None:
        """Refuse what would be read as something else, or show a value. Raises BadValue."""
        if not NAME.fullmatch(self.name):
            raise BadValue(
                f"{self.name!r} cannot be a name", hint="it has small letters, digits, `-`, `_` and `.`, and begins with a letter or a digit"
            )
        if not self.image or self.image.startswith("-") or not self.image.isprintable():
            raise BadValue(f"{self.image!r} is no image", hint="name one as `podman images` or `docker images` list it")
        for name in self.environment:
            if not name or "=" in name or not name.isprintable():
                raise BadValue(
                    f"-e {name.partition('=')[0]!r}: give the name only, its value comes from your environment",
                    hint="everybody on this machine could read a value on the command line: export it first, or put it into an --env-file",
                )

    @property
    def container(self) -> str:
        """Name of the container."""
        return f"{labels.PREFIX}{self.name}"

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """Names and values of the labels by which it is known again."""
        return (
            (labels.LAUNCH, "1"),
            (labels.NAME, self.name),
            (labels.KIND, self.kind),
            (labels.PROJECT, str(self.project or "")),
            (labels.HOME, str(self.home or "")),
            (labels.LISTEN, ",".join(port.text for port in self.ports)),
            (labels.GRACE, str(self.grace_s)),
            (labels.GPUS, self.gpus.text),
        )
