"""Processes of this user, by their environment in /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stoker.host import filesystem_root
from stoker.launch.local import marks

_LOOK_S = 0.05
_EXECUTE_S = 1.0
_IS_OF_THE_KERNEL = 0x00200000  # PF_KTHREAD of linux/sched.h


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process; its number alone may be another one's tomorrow."""

    pid: int
    start: int
    """When it began, in clock ticks since the machine did (proc(5), stat, field 22)."""
    environment: dict[str, str]
    command: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The start of Stoker's that it belongs to."""
        return self.environment.get(marks.ID, "")


def marked(mark: str = marks.NAME) -> tuple[Process, ...]:
    """Return every process of this user that has a mark, the oldest first. One whose environment may not be read is not ours."""
    proc = filesystem_root() / "proc"
    uid = os.geteuid()
    found = []
    for folder in proc.iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                if folder.stat().st_uid == uid and (process := _read(folder, mark)) is not None:
                    found.append(process)
    return tuple(sorted(found, key=lambda process: (process.start, process.pid)))


def descendants(pid: int) -> tuple[Process, ...]:
    """Return the processes that a process started, and those that they did, without what stands in them; ended ones not."""
    children: dict[int, list[Process]] = {}
    for folder in (filesystem_root() / "proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                fields = _stat(folder)
                if fields[0] not in ("Z", "X"):
                    children.setdefault(int(fields[1]), []).append(Process(pid=int(folder.name), start=int(fields[19]), environment={}))
    found = list(children.get(pid, ()))
    for process in found:
        found.extend(children.get(process.pid, ()))
    return tuple(found)


def start_of(pid: int) -> int | None:
    """Return when a process began, in clock ticks; None: there is none, or it has ended and waits to be collected."""
    try:
        return _start(filesystem_root() / "proc" / str(pid))
    except (OSError, ValueError):
        return None


def lives(pid: int, start: int) -> bool:
    """Whether this very process still runs."""
    return start_of(pid) == start


def send(pid: int, start: int, number: int) -> None:
    """Send a signal to this very process, if it is there still. Never to the first one, nor to a group."""
    if pid > 1 and lives(pid, start):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def wait_until(done: Callable[[], bool], *, timeout_s: float) -> bool:
    """Wait until something is so; False: it was not in time."""
    until = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() >= until:
            return False
        time.sleep(_LOOK_S)
    return True


def kill_all(members: Callable[[], Iterable[Process]], *, grace_s: float = 0.0) -> None:
    """Tell processes to end, wait, and kill what is left; looks again and again, since they may start others meanwhile."""
    if grace_s:
        for process in members():
            send(process.pid, process.start, signal.SIGTERM)
        if wait_until(lambda: not tuple(members()), timeout_s=grace_s):
            return
    for _ in range(100):
        left = tuple(members())
        if not left:
            return
        for process in left:
            send(process.pid, process.start, signal.SIGKILL)
        time.sleep(_LOOK_S)


def _read(folder: Path, mark: str) -> Process | None:
    content = _environment(folder)
    if mark.encode() not in content:
        return None
    rows = [row.partition("=") for row in content.decode(errors="replace").split("\0")]
    environment = {name: value for name, _, value in rows if name}
    start = _start(folder)
    if start is None or mark not in environment:
        return None
    words = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0")
    return Process(pid=int(folder.name), start=start, environment=environment, command=tuple(words.split("\0")))


def _environment(folder: Path) -> bytes:
    """Return the environment; of a process that is becoming another program, and has none for a moment, the one that it gets."""
    until = time.monotonic() + _EXECUTE_S
    while not (content := (folder / "environ").read_bytes()) and time.monotonic() < until:
        if not _executes(folder):
            # It may have become one between the two looks.
            return (folder / "environ").read_bytes()
        time.sleep(0.001)
    return content


def _executes(folder: Path) -> bool:
    """Whether a process is in the midst of execve(2): alive, and its environment has no place in its memory yet."""
    fields = _stat(folder)
    state, flags, environment_end = fields[0], int(fields[6]), int(fields[48])
    return environment_end == 0 and state not in ("Z", "X") and not flags & _IS_OF_THE_KERNEL


def _start(folder: Path) -> int | None:
    fields = _stat(folder)
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _stat(folder: Path) -> list[str]:
    """Return the fields of proc(5), stat, from the third on."""
    # The name may hold blanks and parentheses: what comes after the last one counts.
    return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
