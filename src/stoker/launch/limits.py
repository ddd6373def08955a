"""Limits that the host can set, and what it means where it cannot."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stoker.launch.engine import Engine
from stoker.launch.request import Limits

UNLIMITED = -1
_STACK_BYTES = 64 * 2**20
"""NVIDIA's containers ask for as much: deep recursion in compilers and MPI overflows the 8 MB that are usual."""
_FILES = 65536
"""Enough for loaders that pass tensors as file descriptors; programs that close every possible one of a million are slow to start."""
_PODMAN_FILES = 1048576
_PID_MAX = 32768
"""The kernel's own default."""
_CAP_SYS_RESOURCE = 24
_ROWS = {"memlock": "Max locked memory", "stack": "Max stack size", "nofile": "Max open files", "nproc": "Max processes"}
_DAEMONS = ("dockerd", "containerd", "docker-containerd")
_OPTIONS = {"memory": "--memory", "cpu": "--cpus", "pids": "--pids"}
"""By the names of the cgroup controllers."""
_CONSEQUENCES = {
    "memory": "a training that takes too much takes it from the whole machine, and the kernel may kill any process of it",
    "cpu": "it uses every core that is idle",
    "pids": "a program that forks without end fills the table of processes of the whole machine",
}


@dataclass(frozen=True, kw_only=True)
class Unset:
    """A limit that the host cannot set."""

    option: str
    """`--memory`"""
    reason: str
    consequence: str


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """How far a process and its children may raise their limits."""

    hard: tuple[tuple[str, int], ...]
    """By the names of `--ulimit`; -1: unlimited."""
    raises: bool
    """It may also go above them (CAP_SYS_RESOURCE)."""


def ulimits(engine: Engine, *, proc: Path = Path("/proc")) -> tuple[tuple[str, int, int], ...]:
    """Return memlock, stack, nofile (and for podman nproc) as far as this host allows: name, soft, hard.

    Podman's containers are children of the caller; docker's are of its daemons, which may not be visible from here (another machine, another
    namespace): then nothing is said and they get what the daemon has.
    """
    if engine.name == "podman":
        own = _ceiling(proc / "self")
        return allowed(_lowered(own, proc), names=("memlock", "nofile", "nproc", "stack")) if own else ()
    daemons = [found for found in (_ceiling(folder) for folder in _processes(proc, _DAEMONS)) if found]
    return allowed(_lowest(daemons), names=("memlock", "nofile", "stack")) if daemons else ()


def allowed(ceiling: Ceiling, *, names: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
    """Return the best of these limits under a ceiling. All of them: one `--ulimit` takes the place of podman's whole list of defaults."""
    hard = dict(ceiling.hard)
    return tuple((name, *_best(name, hard[name], ceiling.raises)) for name in names if name in hard)


def fitted(limits: Limits, engine: Engine) -> tuple[Limits, tuple[Unset, ...]]:
    """Return the limits without those that this engine cannot set here, and what that means."""
    asked = {"memory": limits.memory_bytes, "cpu": limits.cpus, "pids": limits.pids}
    refusals = {name: reason for name, value in asked.items() if value is not None and (reason := _refusal(engine, name))}
    left = dataclasses.replace(
        limits,
        memory_bytes=None if "memory" in refusals else limits.memory_bytes,
        cpus=None if "cpu" in refusals else limits.cpus,
        pids=None if "pids" in refusals else limits.pids,
    )
    return left, tuple(Unset(option=_OPTIONS[name], reason=reason, consequence=_CONSEQUENCES[name]) for name, reason in refusals.items())


def _refusal(engine: Engine, controller: str) -> str | None:
    """Return why a limit cannot be set, None where it can."""
    if not engine.rootless:
        return f"the kernel has no cgroup controller {controller!r}" if engine.controllers and controller not in engine.controllers else None
    if engine.cgroups == 1:
        return f"{engine.name} without root can set no limits with cgroups v1 (boot with systemd.unified_cgroup_hierarchy=1)"
    if not engine.session:
        return f"systemd has no session for this user (`su` makes none), and {engine.name} sets no limits without one"
    if engine.controllers and controller not in engine.controllers:
        return f"systemd does not hand the cgroup controller {controller!r} to users (Delegate= of user@.service)"
    return None


def _best(name: str, hard: int, raises: bool) -> tuple[int, int]:
    """Return soft and hard limit."""
    if name == "memlock":
        return (UNLIMITED, UNLIMITED) if raises else (hard, hard)
    if name == "stack":
        return (_STACK_BYTES if hard == UNLIMITED else min(hard, _STACK_BYTES)), hard
    if name == "nofile":
        # No process can have "unlimited" open files: the kernel's fs.nr_open is the end.
        return (_FILES, _FILES) if hard == UNLIMITED else (min(hard, _FILES), hard)
    return hard, hard


def _lowered(ceiling: Ceiling, proc: Path) -> Ceiling:
    """Return the ceiling under podman, which lowers its own hard limits as it starts: nproc to the kernel's pid_max (containers/common,
    pkg/config/default_linux.go), nofile to 1048576 (podman, cmd/podman/early_init_linux.go). Seen with 4.3.1: what lies above cannot be set."""
    try:
        pid_max = int((proc / "sys/kernel/pid_max").read_text())
    except (OSError, ValueError):
        pid_max = _PID_MAX
    most = {"nproc": pid_max, "nofile": _PODMAN_FILES}
    hard = [(name, most.get(name, value) if value == UNLIMITED else min(value, most.get(name, value))) for name, value in ceiling.hard]
    return Ceiling(hard=tuple(hard), raises=ceiling.raises)


def _lowest(ceilings: Iterable[Ceiling]) -> Ceiling:
    """Return what all of several daemons allow: which one is asked for a container is not to be seen."""
    all_of_them = list(ceilings)
    values = {name: [dict(one.hard)[name] for one in all_of_them if name in dict(one.hard)] for name in _ROWS}
    hard = tuple((name, min(found, key=lambda value: (value == UNLIMITED, value))) for name, found in values.items() if found)
    return Ceiling(hard=hard, raises=all(one.raises for one in all_of_them))


def _ceiling(process: Path) -> Ceiling | None:
    """Read what a process may; None where it is gone or hidden."""
    try:
        rows, status = (process / "limits").read_text(), (process / "status").read_text()
    except OSError:
        return None
    hard = []
    for name, title in _ROWS.items():
        if match := re.search(rf"^{title}\s+\S+\s+(\d+|unlimited)\s", rows, re.MULTILINE):
            hard.append((name, UNLIMITED if match[1] == "unlimited" else int(match[1])))
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return Ceiling(hard=tuple(hard), raises=bool(effective and int(effective[1], 16) >> _CAP_SYS_RESOURCE & 1 and not _in_user_namespace(process)))


def _in_user_namespace(process: Path) -> bool:
    """Tell whether capabilities are those of a user namespace only: the kernel asks the first one's for limits."""
    try:
        return (process / "uid_map").read_text().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def _processes(proc: Path, names: tuple[str, ...]) -> list[Path]:
    found = []
    for folder in proc.iterdir() if proc.is_dir() else ():
        if folder.name.isdecimal():
            try:
                if (folder / "comm").read_text().strip() in names:
                    found.append(folder)
            except OSError:
                continue
    return sorted(found, key=lambda folder: int(folder.name))
