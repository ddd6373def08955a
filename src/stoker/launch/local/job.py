"""What is to be started on this machine itself, with everything decided; and what of the wish means nothing without a container."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import BadValue, LaunchUnfit, MountRefused
from stoker.host import filesystem_root, find_limits
from stoker.launch import labels
from stoker.launch.amounts import read_cpus, read_memory
from stoker.launch.gpus import ALL, Gpus, read_gpus
from stoker.launch.grace import SERVICE_S, training_grace_s
from stoker.launch.home import default_home
from stoker.launch.local.folder import folders
from stoker.launch.names import free_name, name_of
from stoker.launch.request import Kind, Port
from stoker.launch.wanted import Wanted

_LOOPBACK = "127.0.0.1"
_NOTEBOOK_PORT = 8888


@dataclass(frozen=True, kw_only=True)
class Job:
    """A program, or JupyterLab, decided."""

    name: str
    kind: Kind
    command: tuple[str, ...]
    """Empty for a notebook."""
    project: Path
    """Where it runs."""
    home: Path
    """Stoker's home: token, certificate and settings of the notebook, compile caches. HOME itself stays the person's."""
    data: tuple[Path, ...] = ()
    """Told to the program as STOKER_DATA."""
    ports: tuple[Port, ...] = ()
    gpus: Gpus = ALL
    memory_bytes: int | None = None
    cpus: float | None = None
    env_file: Path | None = None
    grace_s: int = SERVICE_S
    stem: str | None = None
    """What its name was made from, and may be made from again when somebody else takes it meanwhile; None: the name was chosen."""
    notes: tuple[str, ...] = ()
    """What was asked for and means nothing here, with its consequence."""

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels by which it is known again, as of a container."""
        return {
            labels.LAUNCH: "1",
            labels.NAME: self.name,
            labels.KIND: self.kind,
            labels.PROJECT: str(self.project),
            labels.HOME: str(self.home),
            labels.LISTEN: ",".join(port.text for port in self.ports),
            labels.GRACE: str(self.grace_s),
            labels.GPUS: self.gpus.text if self.gpus.what != "all" or gpu_nodes() else "none",
        }


def gpu_nodes() -> bool:
    """Whether this machine has NVIDIA GPUs that a program could use; WSL has one device for all."""
    devices = filesystem_root() / "dev"
    return any(devices.glob("nvidia[0-9]*")) or (devices / "dxg").exists()


def decide(wanted: Wanted, *, command: Sequence[str] = (), port: int | None = None) -> Job:
    """Decide everything from a wish that has its defaults. `port`: of the notebook; None: `wanted.port`, else 8888.

    Changes nothing. Raises BadValue, LimitRefused, MountRefused, LaunchUnfit (ssh).
    """
    if wanted.kind == "ssh":
        raise LaunchUnfit(
            "`up ssh` needs a container: sshd there has an account, keys and a port of its own, and on this machine none of them is Stoker's to give",
            hint="install podman or docker and name it (`--engine podman`); to reach this machine itself use its own sshd; "
            "`stoker shell NAME` opens a shell beside a job, `stoker up notebook --engine local` a terminal in the browser",
        )
    project = wanted.project or Path.cwd()
    if not project.is_dir():
        raise MountRefused(f"{project} is no folder", hint="`--project DIR` names the folder to work in")
    ports = (Port(host=(at := port or wanted.port or _NOTEBOOK_PORT), inside=at, address=wanted.listen or _LOOPBACK),)
    gpus = read_gpus(wanted.gpus) if wanted.gpus else ALL
    if slices := [device for device in gpus.devices if ":" in device]:
        raise BadValue(
            f"--gpus {slices[0]}: without a container a MIG slice is known by its UUID only", hint="`nvidia-smi -L` lists them: --gpus MIG-..."
        )
    name = name_of(wanted)
    # A notebook's default is the same each time, and finds the one that runs.
    stem = name if wanted.name is None and wanted.kind == "run" else None
    return Job(
        name=free(stem) if stem else name,
        stem=stem,
        kind=wanted.kind,
        command=tuple(command),
        project=project,
        home=Path(os.path.expanduser(wanted.home)).absolute() if wanted.home not in (None, "none") else default_home(os.getuid()),
        data=_data(wanted.data),
        ports=ports if wanted.kind == "notebook" else (),
        gpus=gpus,
        memory_bytes=_memory(wanted.memory),
        cpus=read_cpus(f"{wanted.cpus:g}", find_limits().cores) if wanted.cpus else None,
        env_file=wanted.env_file,
        grace_s=_grace(wanted, project),
        notes=tuple(_notes(wanted)),
    )


def free(stem: str) -> str:
    """Return a name that is free among the local ones."""
    return free_name(stem, [folder.name for folder in folders()])


def _grace(wanted: Wanted, project: Path) -> int:
    if wanted.stop_timeout_s is not None:
        return wanted.stop_timeout_s
    return training_grace_s(project) if wanted.kind == "run" else SERVICE_S


def _memory(text: str | None) -> int | None:
    total = find_limits().memory_total_bytes
    # Nobody asked: without a wall around the job a limit would only be in its way.
    return read_memory(text, total) if text is not None and total is not None else None


def _data(paths: Sequence[str]) -> tuple[Path, ...]:
    found = tuple(Path(os.path.expanduser(path)).absolute() for path in paths)
    if missing := [path for path in found if not path.exists()]:
        raise MountRefused(f"--data {missing[0]}: there is no such folder", hint="name a folder or file of this machine")
    return found


def _notes(wanted: Wanted) -> list[str]:
    """Return a line for every wish that only a container can fulfil."""
    told = {
        "--image": (wanted.image, "no image is used: the packages are those of stoker.lock, the system is this machine's"),
        "--data": (wanted.data, "there is no /data: the folder is told to the program as STOKER_DATA, and not protected from it"),
        "--volume": (wanted.volumes, "nothing is mounted: the program sees this machine's folders at their own places, and may write where you may"),
        "--home": (wanted.home == "none", "Stoker's home is used all the same: the notebook keeps its token and certificate there"),
        "--shm": (wanted.shm not in (None, "auto"), "/dev/shm is the machine's own, with the size that it has"),
        "--pids": (wanted.pids, "the number of processes is bounded by your own limits only (`ulimit -u`)"),
        "--user": (wanted.user, "it runs as you"),
        "--publish": (wanted.publish, "the program's ports are this machine's own: it decides on which address they answer"),
        "--restart": (wanted.restart, "nothing starts it again after a crash or a reboot: that takes podman or docker"),
        "--read-only": (wanted.writable is False, "the program may write wherever you may"),
    }
    return [f"{option} means nothing without a container: {what}" for option, (said, what) in told.items() if said]
