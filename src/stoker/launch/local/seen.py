"""A job as the `Container` that ps, stop and the others know: told by its folder, its processes, or both."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from stoker.launch import labels
from stoker.launch.containers import Container, labelled
from stoker.launch.local import marks
from stoker.launch.local.folder import About, Folder, here
from stoker.launch.local.processes import Process, lives
from stoker.launch.request import Port

VANISHED = 255
"""As engines say of a container whose end nobody saw."""


def of_folder(folder: Folder, about: About, processes: Sequence[Process]) -> Container:
    """Return a job that Stoker started. It runs as long as anything of it does."""
    started, ended = folder.started, folder.ended
    elsewhere = about.machine != here() and not processes and ended is None
    known = folder.processes
    runs = bool(processes) or bool(known and lives(known.pid, known.start))
    return Container(
        id=about.id,
        state=f"on {about.machine.partition(' ')[0]}" if elsewhere else "running" if runs else "exited" if started or ended else "created",
        exit_code=None if runs or elsewhere or not (started or ended) else ended.code if ended else VANISHED,
        image=about.environment,
        created=about.created,
        started=started.moment if started else None,
        ended=ended.moment if ended and not runs else None,
        command=tuple(about.command),
        **labelled(about.labels, f"stoker-{folder.name}"),
        engine="local",
        ports=_ports(about.labels),
    )


def by_hand(processes: Sequence[Process]) -> Container:
    """Return what somebody started with our marks, or whose folder is gone: its oldest process tells the rest."""
    first = processes[0]
    name, told = first.environment[marks.NAME], marks.to_labels(first.environment)
    began = _moment(first)
    return Container(
        id=first.id or f"pid-{first.pid}",
        state="running",
        exit_code=None,
        image="",
        created=began,
        started=began,
        ended=None,
        command=first.command,
        **labelled(told, f"stoker-{name}"),
        engine="local",
        ports=_ports(told),
    )


def _ports(told: Mapping[str, str]) -> tuple[Port, ...]:
    return tuple(port for text in told.get(labels.LISTEN, "").split(",") if (port := _port(text)))


def _port(text: str) -> Port | None:
    address, colon, number = text.rpartition(":")
    return Port(host=int(number), inside=int(number), address=address.strip("[]")) if colon and number.isdecimal() else None


def _moment(process: Process) -> float:
    """Return when a process began, in seconds since 1970."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + process.start / os.sysconf("SC_CLK_TCK")
