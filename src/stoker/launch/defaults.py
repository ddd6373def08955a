"""From what was asked for to what is done: one `Request`, with everything decided."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.launch import labels
from stoker.launch.account import account
from stoker.launch.amounts import default_memory, read_cpus, read_memory, read_shm, shm_bytes
from stoker.launch.gpus import ALL, NONE, Gpus, read_gpus
from stoker.launch.grace import SERVICE_S, training_grace_s
from stoker.launch.home import home_for
from stoker.launch.init import has_init
from stoker.launch.limits import fitted, ulimits
from stoker.launch.mounts import HOME, checked_mounts, data_mounts, volume_mount
from stoker.launch.names import free_name, name_of, taken
from stoker.launch.request import Limits, Mount, Port, Request
from stoker.launch.site import Site
from stoker.launch.wanted import Wanted

__all__ = ["asked_limits", "decide", "name_of", "needed_shm_bytes"]

_PIDS = 4096
_CACHES = (
    ("TORCHINDUCTOR_CACHE_DIR", f"{HOME}/.cache/torchinductor"),
    ("TRITON_CACHE_DIR", f"{HOME}/.cache/triton"),
)
"""In the kept home, so that the second start does not compile again."""


def decide(
    wanted: Wanted,
    site: Site,
    *,
    command: Sequence[str] = (),
    ports: Sequence[Port] = (),
    mounts: Sequence[Mount] = (),
    fixed: Sequence[tuple[str, str]] = (),
    terminal: bool = False,
) -> Request:
    """Decide everything: name, image, account, limits, mounts, ports, GPUs.

    `command`: what runs inside; `ports`: on this machine, chosen already (`ports.reserved`, `publishing.published`); `mounts`, `fixed`: what comes on
    top of what was asked for; `terminal`: whether the program gets one. Asks no engine and changes nothing.
    Raises BadValue, MountRefused, LimitRefused, and of a `run` NameTaken.
    """
    who = account(site.engine, user=wanted.user, project=wanted.project)
    home = home_for(wanted.home, who)
    limits, _ = fitted(asked_limits(wanted, site), site.engine)
    return Request(
        name=_name(wanted, site),
        kind=wanted.kind,
        image=site.image_name,
        command=tuple(command),
        project=wanted.project,
        home=home,
        mounts=checked_mounts((*data_mounts(wanted.data), *map(volume_mount, wanted.volumes), *mounts)),
        ports=tuple(ports),
        gpus=_gpus(wanted, site),
        limits=limits,
        account=who,
        environment=wanted.environment,
        fixed=(*(_CACHES if home else ()), *fixed),
        env_file=wanted.env_file,
        detach=wanted.detach,
        terminal=terminal and not wanted.detach,
        interactive=not wanted.detach,
        init=_needs_init(site),
        restart=bool(wanted.restart) and wanted.detach,
        writable=bool(wanted.writable),
        grace_s=_grace_s(wanted),
    )


def asked_limits(wanted: Wanted, site: Site) -> Limits:
    """Return the limits as they were asked for, whether or not this host can set them. Raises BadValue, LimitRefused."""
    total = site.memory_bytes
    memory = (read_memory(wanted.memory, total) if wanted.memory else default_memory(total)) if total else None
    return Limits(
        memory_bytes=memory,
        cpus=read_cpus(f"{wanted.cpus:g}", site.cores) if wanted.cpus else None,
        shm_bytes=_shm(wanted, site, memory or total) if total else None,
        pids=wanted.pids or _PIDS,
        ulimits=ulimits(site.engine),
    )


def needed_shm_bytes(wanted: Wanted, site: Site, most: int) -> int:
    """Return the shared memory that the loader workers want, within `most`."""
    return shm_bytes(most, batch=wanted.batch, workers=wanted.workers, cores=site.cores, gpus=_gpu_count(_gpus(wanted, site), site))


def _shm(wanted: Wanted, site: Site, most: int) -> int:
    return needed_shm_bytes(wanted, site, most) if wanted.shm in (None, "auto") else read_shm(wanted.shm, most)


def _needs_init(site: Site) -> bool:
    """Our images have an init of their own; in others a program that is process 1 does not hear SIGTERM."""
    return site.image is not None and labels.VARIANTS not in site.image.labels and has_init(site.engine)


def _name(wanted: Wanted, site: Site) -> str:
    name = name_of(wanted)
    if wanted.kind != "run":
        return name
    there = {container.name: container for container in site.containers}
    if wanted.name is None:
        return free_name(name, there)
    if name in there:
        raise taken(there[name])
    return name


def _gpus(wanted: Wanted, site: Site) -> Gpus:
    if wanted.gpus is not None:
        return read_gpus(wanted.gpus)
    return ALL if site.gpus else NONE


def _gpu_count(gpus: Gpus, site: Site) -> int:
    return {"all": site.gpus, "none": 0}.get(gpus.what, len(gpus.devices))


def _grace_s(wanted: Wanted) -> int:
    if wanted.stop_timeout_s is not None:
        return wanted.stop_timeout_s
    return training_grace_s(wanted.project) if wanted.kind == "run" and wanted.project else SERVICE_S
