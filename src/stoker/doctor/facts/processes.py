"""The processes of this machine, read from /proc in one bounded pass: servers with open doors, and who keeps the cores busy."""

from __future__ import annotations

import os
import pwd
import time
from dataclasses import dataclass
from pathlib import Path

from stoker.host.place import read

# Names that a Jupyter server, a Docker daemon or an SSH server has in /proc/PID/stat (15 characters at most).
_READ_IN_FULL = ("jupyter", "python", "conda", "dockerd", "sshd", "ipython")
_MOST_ARGUMENT_BYTES = 16_384


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process."""

    pid: int
    parent: int
    name: str
    ticks: int
    """CPU time that it has used, in clock ticks."""
    arguments: tuple[str, ...]
    """Of those that may be a server; else empty."""
    uid: int | None


def find_processes(root: Path, *, limit_s: float) -> list[Process]:
    """Return the processes that can be seen, as many as fit into `limit_s`; the newest first, so that servers started by hand are among them."""
    end = time.monotonic() + limit_s
    found = []
    try:
        pids = sorted((int(name) for name in os.listdir(root / "proc") if name.isdecimal()), reverse=True)
    except OSError:
        return []
    for pid in pids:
        if time.monotonic() > end:
            break
        if process := _process(root / "proc" / str(pid), pid):
            found.append(process)
    return found


def ticks_of(root: Path, processes: list[Process], *, limit_s: float) -> dict[int, int]:
    """Return the CPU time again, by pid."""
    end = time.monotonic() + limit_s
    found = {}
    for process in processes:
        if time.monotonic() > end:
            break
        if told := _stat(root / "proc" / str(process.pid)):
            found[process.pid] = told[2]
    return found


def home_of(uid: int | None) -> str | None:
    """Return the home of a user; None: not known."""
    try:
        return pwd.getpwuid(uid).pw_dir if uid is not None else None
    except (KeyError, OSError):
        return None


def _process(folder: Path, pid: int) -> Process | None:
    told = _stat(folder)
    if told is None:
        return None
    name, parent, ticks = told
    arguments = _arguments(folder) if name.startswith(_READ_IN_FULL) else ()
    return Process(pid=pid, parent=parent, name=name, ticks=ticks, arguments=arguments, uid=_uid(folder))


def _stat(folder: Path) -> tuple[str, int, int] | None:
    """Return name, parent and CPU ticks of /proc/PID/stat; the name stands in brackets and may hold any character. Source: proc(5)."""
    text = read(folder / "stat") or ""
    before, bracket, after = text.rpartition(")")
    fields = after.split()
    if not bracket or len(fields) < 13 or not all(fields[number].isdecimal() for number in (1, 11, 12)):
        return None
    return before.partition("(")[2], int(fields[1]), int(fields[11]) + int(fields[12])


def _arguments(folder: Path) -> tuple[str, ...]:
    text = (read(folder / "cmdline") or "")[:_MOST_ARGUMENT_BYTES]
    return tuple(text.rstrip("\0").split("\0")) if text else ()


def _uid(folder: Path) -> int | None:
    try:
        return folder.stat().st_uid
    except OSError:
        return None
