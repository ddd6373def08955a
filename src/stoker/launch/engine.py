"""The container engines of this machine: which there are, how they answer, and the images that they have."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from stoker import shell
from stoker.errors import EngineMissing, EngineSilent
from stoker.host.place import filesystem_root, read
from stoker.launch.atonce import at_once
from stoker.launch.versions import identity, remember, remembered

EngineName = Literal["podman", "docker"]
NAMES: tuple[EngineName, ...] = ("podman", "docker")
"""In the order in which they are preferred."""
ANSWER_S = 20.0
"""For a call that only asks: an engine under load, or on a slow disk, may take seconds."""

_PODMAN_IN_DISGUISE = "podman version"
# What docker's `info` calls the controllers, and the kernel does.
_DOCKER_CONTROLLERS = {"MemoryLimit": "memory", "CpuCfsQuota": "cpu", "CPUSet": "cpuset", "PidsLimit": "pids"}
_ROOT_STORAGE = Path("/var/lib/containers/storage")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A container engine that is installed."""

    name: EngineName
    program: str
    """Path of the program that is called."""
    version: tuple[int, ...] = ()
    """Of podman, or of docker's daemon; empty: it does not say."""
    rootless: bool = False
    cgroups: int = 2
    """Version of control groups: 1 or 2."""
    controllers: tuple[str, ...] = ()
    """Those that it can set for a container: memory, cpu, cpuset, pids, ..."""
    session: bool = True
    """Whether systemd has a session for this user; rootless podman sets no limits without one, and only warns."""
    storage: Path | None = None
    """Where it keeps images and containers; None: it does not say."""
    security: tuple[str, ...] = ()
    """What guards its containers, as docker calls it: seccomp, selinux, apparmor, userns, rootless. Of podman: selinux."""
    runtimes: tuple[str, ...] = ()
    """Those that docker's daemon knows, as runc and nvidia; of podman: none."""
    cdi: bool | None = None
    """Whether docker's daemon reads CDI specifications; None: not told (docker before 25, podman)."""
    answers: str | None = None
    """None: it does; else what it said instead."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that an engine has."""

    name: str
    """As it was asked for."""
    digest: str
    """`sha256:...`: the engine's id of it."""
    labels: Mapping[str, str]
    user: str
    """As the image says it: a name, uid, uid:gid; empty: root."""
    architecture: str
    """As Go calls it: amd64, arm64."""


def installed(names: tuple[EngineName, ...] = NAMES) -> tuple[Engine, ...]:
    """Return the engines whose programs are there, asking none of them."""
    found = ((name, shell.find(name)) for name in names)
    return tuple(Engine(name=name, program=program) for name, program in found if program)


def has_run(engine: Engine) -> bool:
    """Whether an engine can have containers: docker's client alone, without a daemon that ever ran here, has none. Asks nobody."""
    if engine.name != "docker" or os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT"):
        return True
    run, data, root = os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("XDG_DATA_HOME"), filesystem_root()
    own = [Path(run) / "docker.sock"] if run else []
    rootless = Path(data or Path.home() / ".local/share") / "docker"
    traces = [root / "var/run/docker.sock", root / "var/lib/docker", Path.home() / ".docker/contexts", rootless, *own]
    return any(path.exists() for path in traces)


def find_engines(names: tuple[EngineName, ...] = NAMES) -> tuple[Engine, ...]:
    """Ask every installed engine who it is, all at once. At most some 30 ms; `podman info` would take 300. Raises nothing."""
    asked = at_once([partial(_asked, engine) for engine in installed(names)])
    return tuple(engine for engine in asked if engine is not None)


def find_image(engine: Engine, name: str) -> Image | None:
    """Return an image that the engine has, or None. Raises EngineSilent."""
    done = shell.run([engine.program, "image", "inspect", "--", name], timeout_s=ANSWER_S)
    rows = rows_of(done.out)
    if done.ok and rows:
        return _image(name, rows[0])
    # A name that cannot be one is an image that is not there.
    if re.search(r"no such image|image not known|not found|unable to find|reference format|repository name", done.err, re.IGNORECASE):
        return None
    raise silent(engine.name, done.err)


def missing(name: str) -> EngineMissing:
    """Return the error for an engine that is not installed."""
    return EngineMissing(
        f"{name} is not installed, or not in PATH",
        hint=f"install it (Debian, Ubuntu: apt install {'docker.io' if name == 'docker' else 'podman'}), or start without it: --engine local",
    )


def silent(name: str, said: str) -> EngineSilent:
    """Return the error for an engine that gave no answer; `said` is what came instead."""
    last = last_line(said) or "it said nothing"
    if re.search(r"permission denied", said, re.IGNORECASE) and name == "docker":
        hint = "sudo usermod -aG docker $USER (a member is as good as root), then log in again; or --engine podman"
    elif name == "docker" and "/run/user/" in said:
        hint = "start your own daemon: systemctl --user start docker; or use another engine: --engine podman"
    elif name == "docker":
        hint = "start its daemon: sudo systemctl start docker; or use another engine: --engine podman"
    else:
        hint = f"see what it says by itself: {name} info"
    return EngineSilent(f"{name} does not answer: {last}", hint=hint)


def last_line(text: str) -> str:
    """Return the last line that says something, without the engine's decoration and without what would steer a terminal."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("Run '", "See '"))]
    told = re.sub(r"^(Error: |docker: |Error response from daemon: )+", "", lines[-1] if lines else "")
    return "".join(sign if sign.isprintable() else " " for sign in told)[:500]


def rows_of(text: str) -> list[dict[str, Any]]:
    """Return the objects of an engine's JSON: a list of them, or one a line."""
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return []
    return [row for row in (found if isinstance(found, list) else [found]) if isinstance(row, dict)]


def _image(name: str, row: dict[str, Any]) -> Image:
    config = row.get("Config") or {}
    digest = str(row.get("Id") or "")
    return Image(
        name=name,
        digest=digest if digest.startswith("sha256:") else f"sha256:{digest}",
        labels={str(key): str(value) for key, value in (config.get("Labels") or {}).items()},
        user=str(config.get("User") or ""),
        architecture=str(row.get("Architecture") or ""),
    )


def _asked(engine: Engine) -> Engine | None:
    return _asked_podman(engine) if engine.name == "podman" else _asked_docker(engine)


def _asked_podman(engine: Engine) -> Engine:
    version, trouble = _told_version(engine)
    root = filesystem_root()
    rootless = os.geteuid() != 0
    controllers = _controllers(root, rootless)
    return replace(
        engine,
        version=version,
        rootless=rootless,
        cgroups=_cgroups(root),
        controllers=controllers,
        session=not rootless or bool(controllers),
        storage=_podman_storage(rootless),
        security=("selinux",) if (root / "sys/fs/selinux/enforce").exists() else (),
        answers=trouble,
    )


def _told_version(engine: Engine) -> tuple[tuple[int, ...], str | None]:
    """Return podman's version, or what it said instead. A remembered one is not asked: whether it answers is seen when it is asked for more."""
    file = identity(engine.program)
    if known := remembered(engine.name, file):
        return known, None
    done = shell.run([engine.program, "--version"], timeout_s=ANSWER_S)
    if not done.ok:
        return (), last_line(done.err) or "it does not start"
    remember(engine.name, file, _version(done.out))
    return _version(done.out), None


def _asked_docker(engine: Engine) -> Engine | None:
    """Ask the daemon; None: the program is podman under another name, which is there by its own."""
    done = shell.run([engine.program, "info", "--format", "{{json .}}"], timeout_s=ANSWER_S)
    info = next(iter(rows_of(done.out)), {})
    if not info.get("ServerVersion"):
        if _PODMAN_IN_DISGUISE in shell.run([engine.program, "--version"], timeout_s=ANSWER_S).out:
            return None
        told = "; ".join(str(error) for error in info.get("ServerErrors") or ()) or last_line(done.err)
        return replace(engine, answers=told or "it said nothing")
    options = tuple(str(option).removeprefix("name=").partition(",")[0].lower() for option in info.get("SecurityOptions") or ())
    return replace(
        engine,
        version=_version(str(info["ServerVersion"])),
        rootless="rootless" in options,
        cgroups=1 if str(info.get("CgroupVersion")) == "1" else 2,
        controllers=tuple(controller for field, controller in _DOCKER_CONTROLLERS.items() if info.get(field)),
        storage=Path(str(info["DockerRootDir"])) if info.get("DockerRootDir") else None,
        security=options,
        runtimes=tuple(info.get("Runtimes") or ()),
        cdi=None if info.get("CDISpecDirs") is None else bool(info["CDISpecDirs"]),
    )


def _version(text: str) -> tuple[int, ...]:
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _cgroups(root: Path) -> int:
    return 2 if (root / "sys/fs/cgroup/cgroup.controllers").exists() else 1


def _controllers(root: Path, rootless: bool) -> tuple[str, ...]:
    """Return what podman can set: on version 2 what systemd gave to the user, on version 1 everything as root and nothing without."""
    groups = root / "sys/fs/cgroup"
    if _cgroups(root) == 1:
        return () if rootless else tuple(sorted(path.name for path in groups.iterdir() if path.is_dir())) if groups.is_dir() else ()
    uid = os.geteuid()
    given = groups / f"user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers" if rootless else groups / "cgroup.controllers"
    return tuple((read(given) or "").split())


def _podman_storage(rootless: bool) -> Path:
    """Return podman's storage folder, as containers-storage.conf(5) says where it stands."""
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "containers/storage.conf"
    system = () if rootless else (Path("/etc/containers/storage.conf"), Path("/usr/share/containers/storage.conf"))
    given = os.environ.get("CONTAINERS_STORAGE_CONF")
    for path in (Path(given),) if given else ((own,) if rootless else system):
        if found := re.search(r'^\s*graphroot\s*=\s*"([^"]+)"', read(path) or "", re.MULTILINE):
            return Path(os.path.expandvars(found[1]))
    if not rootless:
        return _ROOT_STORAGE
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "containers/storage"
