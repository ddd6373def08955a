"""All that the checks before a start judge, gathered within a second: what does not answer by then is not known."""

from __future__ import annotations

import importlib
import os
import pwd
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.doctor.facts.answers import ask_all
from stoker.errors import BadValue
from stoker.host.place import filesystem_root, read
from stoker.launch.checks.places import Disk, Place, read_disk, read_place
from stoker.launch.defaults import asked_limits
from stoker.launch.limits import Unset, fitted
from stoker.launch.ports import is_free
from stoker.launch.request import Mount, Port, Request
from stoker.launch.site import Site
from stoker.launch.table import FILE

if TYPE_CHECKING:
    from stoker.doctor.facts.cdi import CdiSpecification
    from stoker.doctor.facts.gpus import Gpu

_LIMIT_S = 0.9
_CONTAINER_ID = r"[0-9a-f]{64}"
_CDI_FOLDERS = ("etc/cdi", "run/cdi")
_TOOLKIT = ("nvidia-ctk", "nvidia-container-runtime-hook", "nvidia-container-cli")


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """What starts containers again after a reboot."""

    systemd: bool
    enabled: bool
    """Of podman-restart.service, or docker.service."""
    lingering: bool = True
    """Whether this user's services run without a login; for rootless engines."""
    account: str = ""
    """Who that is."""


@dataclass(frozen=True, kw_only=True)
class Before:
    """One request, the place where it is to be started, and what was looked at for it."""

    request: Request
    site: Site
    gpus: tuple[Gpu, ...] | None = None
    """None: none is asked for, or they gave no answer."""
    users: Mapping[int, str] = field(default_factory=dict)
    """Process on a GPU -> whose it is, as `container night` or `user ann`."""
    cdi: tuple[CdiSpecification, ...] = ()
    """Those of nvidia.com/gpu."""
    toolkit: bool = False
    """Whether the NVIDIA container toolkit is installed."""
    taken: tuple[Port, ...] = ()
    """Ports that somebody listens on."""
    foreign: tuple[str, ...] = ()
    """Addresses to listen on that are not this machine's."""
    places: tuple[Place, ...] = ()
    """What is mounted, as it is here."""
    disks: tuple[Disk, ...] = ()
    available_bytes: int | None = None
    """Memory that can be had without swapping."""
    unset: tuple[Unset, ...] = ()
    """Limits that this host cannot set."""
    restarts: Restarts | None = None
    """None: it is not to come back by itself."""
    sources: tuple[str, ...] = ()
    """Of `stoker.toml`, `stoker.lock` and the built layout, what lies in the project."""


def gather(request: Request, site: Site) -> Before:
    """Look at everything that this start needs. Raises nothing."""
    root = filesystem_root()
    mounts = [*([Mount(source=request.project, target="/workspace", writable=True)] if request.project else []), *request.mounts]
    questions: dict[str, Callable[[], Any]] = {f"place {mount.target}": partial(read_place, mount) for mount in mounts}
    questions |= {f"disk {use}": partial(read_disk, use, folder) for use, folder in _folders(request, site).items()}
    if request.gpus.what != "none" and site.gpus:
        questions["gpus"] = _gpus
    found = ask_all(questions, limit_s=_LIMIT_S)
    gpus = found.get("gpus")
    taken, foreign = _ports(request)
    return Before(
        request=request,
        site=site,
        gpus=gpus,
        users=_users(root, site, gpus or ()),
        cdi=_cdi(root) if request.gpus.what != "none" else (),
        toolkit=any(shutil.which(program) for program in _TOOLKIT) if request.gpus.what != "none" else False,
        taken=taken,
        foreign=foreign,
        places=tuple(found.get(f"place {mount.target}") or Place(mount=mount, answered=False) for mount in mounts),
        disks=tuple(disk for name, disk in found.items() if name.startswith("disk ") and disk is not None),
        available_bytes=_available(root),
        unset=fitted(asked_limits(site.wanted, site), site.engine)[1],
        restarts=_restarts(root, site) if request.restart else None,
        sources=_sources(site),
    )


def _gpus() -> tuple[Gpu, ...]:
    # The doctor's; imported only where there are GPUs, since every start would pay for it.
    found: tuple[Gpu, ...] = importlib.import_module("stoker.doctor.facts.gpus").gather_gpus()
    return found


def _folders(request: Request, site: Site) -> dict[str, Path]:
    wanted = {"project": request.project, "home": request.home, f"{site.engine.name}'s storage": site.engine.storage}
    return {use: folder for use, folder in wanted.items() if folder is not None}


def _ports(request: Request) -> tuple[tuple[Port, ...], tuple[str, ...]]:
    taken, foreign = [], []
    for port in request.ports:
        try:
            if not is_free(port.host, port.address):
                taken.append(port)
        except (BadValue, OSError):
            foreign.append(port.address)
    return tuple(taken), tuple(dict.fromkeys(foreign))


def _users(root: Path, site: Site, gpus: tuple[Gpu, ...]) -> dict[int, str]:
    names = {container.id: container.name for container in site.containers}
    pids = [process.pid for gpu in gpus for process in gpu.processes]
    return {pid: told for pid in pids if (told := _user(root / "proc" / str(pid), names))}


def _user(process: Path, names: Mapping[str, str]) -> str | None:
    """Return whose a process is: the container that its control group names, else its account."""
    for found in re.findall(_CONTAINER_ID, read(process / "cgroup") or ""):
        if found in names:
            return f"container {names[found]}"
    try:
        uid = process.stat().st_uid
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid {uid}"
    except OSError:
        return None


def _cdi(root: Path) -> tuple[CdiSpecification, ...]:
    read_cdi = importlib.import_module("stoker.doctor.facts.cdi").read_cdi
    found: list[CdiSpecification] = []
    for folder in _CDI_FOLDERS:
        try:
            files = sorted(path for path in (root / folder).iterdir() if path.suffix in (".yaml", ".yml", ".json"))
        except OSError:
            continue
        found += [read_cdi(file, root) for file in files]
    return tuple(one for one in found if one.kind == "nvidia.com/gpu")


def _available(root: Path) -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d{1,15}) kB$", read(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _restarts(root: Path, site: Site) -> Restarts:
    rootless = site.engine.rootless
    unit = "podman-restart.service" if site.engine.name == "podman" else "docker.service"
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"
    enabled = any(next(folder.glob(f"*.wants/{unit}"), None) for folder in ([own] if rootless else [root / "etc/systemd/system"]))
    account = _account_name()
    return Restarts(
        systemd=(root / "run/systemd/system").is_dir(),
        enabled=enabled,
        lingering=not rootless or (root / "var/lib/systemd/linger" / account).exists(),
        account=account,
    )


def _account_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _sources(site: Site) -> tuple[str, ...]:
    project, own = site.wanted.project, site.wanted.own_image
    if project is None or own is None:
        return ()
    layout = f"{own.rpartition('/')[2]}.oci"
    return tuple(name for name in (FILE, "stoker.lock", layout) if (project / name).exists())
