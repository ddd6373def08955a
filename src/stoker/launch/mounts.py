"""What of this machine appears inside: the project, data, further folders; and what must never."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from stoker.errors import BadValue, MountRefused
from stoker.launch.request import Mount

WORKSPACE, DATA, HOME = "/workspace", "/data", "/home/stoker"

_ENGINES = ("docker.sock", "podman/podman.sock", "docker/docker.sock", "containerd/containerd.sock", "crio/crio.sock")
_INSIDE = r"/[^\0:,]+"


def checked_project(folder: Path) -> Path:
    """Return the project's folder, absolute. Raises MountRefused for what is none."""
    project = Path(os.path.abspath(os.path.expanduser(folder)))
    real = Path(os.path.realpath(project))
    hint = "go into the project's folder, or name it: --project DIR"
    if not real.is_dir():
        raise MountRefused(f"the project {project} is {'no folder' if real.exists() else 'not there'}", hint=hint)
    if real == Path("/"):
        raise MountRefused("the project would be /, the whole machine", hint=hint)
    if real == Path(os.path.realpath(Path.home())):
        raise MountRefused(f"the project would be your home {project}, with your keys and passwords in it", hint=hint)
    refuse_engines(real)
    return project


def data_mounts(paths: Sequence[str]) -> tuple[Mount, ...]:
    """Return the mounts of `--data`: one is /data, several are /data/NAME. Raises BadValue, MountRefused."""
    sources = [_source(path) for path in paths]
    if len(sources) == 1:
        return (Mount(source=sources[0], target=DATA),)
    return tuple(Mount(source=source, target=f"{DATA}/{source.name}") for source in sources)


def volume_mount(text: str) -> Mount:
    """Read HOST:INSIDE[:ro]. Raises BadValue, MountRefused."""
    host, _, rest = text.partition(":")
    inside, _, mode = rest.partition(":")
    if not host or not re.fullmatch(_INSIDE, inside) or mode not in ("", "ro", "rw"):
        raise BadValue(f"-v {text!r:.200} cannot be read", hint="write it as HOST:INSIDE or HOST:INSIDE:ro, as -v /mnt/weights:/weights:ro")
    target = os.path.normpath(inside)
    if target in ("/", "//"):
        raise MountRefused(f"-v {text}: a mount at / would hide the image", hint="mount it further down, as /mnt")
    return Mount(source=_source(host), target=target, writable=mode != "ro")


def checked_mounts(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """Return the mounts, of which no two may be at one place. Raises BadValue."""
    found: dict[str, Mount] = {}
    for mount in mounts:
        other = found.setdefault(mount.target, mount)
        if other != mount:
            raise BadValue(f"{other.source} and {mount.source} would both be {mount.target}", hint="mount one of them elsewhere: -v HOST:INSIDE")
    return tuple(found.values())


def refuse_engines(source: Path) -> None:
    """Raise MountRefused for `/` and for whatever holds the socket of a container engine: with that, a container is root on this machine."""
    real = Path(os.path.realpath(source))
    if real == Path("/"):
        raise MountRefused("/ may not be mounted: a container must not see the whole machine", hint="mount the folders that it needs")
    for socket in _sockets():
        if socket == real or real in socket.parents or (real.is_socket() and real.name == socket.name):
            told = f"{source} is" if socket == real or real.is_socket() else f"{socket} is in {source}:"
            raise MountRefused(
                f"{told} the socket of a container engine, through which a container becomes root of this machine",
                hint="start the other container from here, outside; Stoker never mounts the socket",
            )


def _source(text: str) -> Path:
    """Return a path of this machine, absolute."""
    if not text or "\0" in text:
        raise BadValue(f"{text!r:.200} is no path", hint="name a folder or file of this machine")
    path = Path(os.path.abspath(os.path.expanduser(text)))
    refuse_engines(path)
    return path


def _sockets() -> set[Path]:
    """Return where engines' sockets may be, as the kernel sees the path."""
    own = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    named = [os.environ.get(name, "").removeprefix("unix://") for name in ("DOCKER_HOST", "CONTAINER_HOST")]
    paths = [f"{folder}/{name}" for folder in ("/run", own) for name in _ENGINES] + [name for name in named if name.startswith("/")]
    return {Path(os.path.realpath(path)) for path in paths}
