"""How limits are kept without a container: a scope of systemd, else a limit for each process and a choice of cores; what cannot be is said."""

from __future__ import annotations

import getpass
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker import shell
from stoker.host import filesystem_root
from stoker.host.place import read

_PATIENCE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Means:
    """What the start has to do so that limits hold."""

    words: tuple[str, ...] = ()
    """What stands before the supervisor's command: systemd-run and its options."""
    cores: tuple[int, ...] = ()
    """The cores that it may use; empty: all."""
    data_bytes: int | None = None
    """RLIMIT_DATA of each process."""
    notes: tuple[str, ...] = ()
    """What does not hold as it was asked for, with its consequence."""


def means(
    *, name: str, memory_bytes: int | None, cpus: float | None, detach: bool, taken: Sequence[Sequence[int]], root: Path | None = None
) -> Means:
    """Return how to keep these limits here. `taken`: the cores that others of Stoker's jobs are held on."""
    if memory_bytes is None and cpus is None:
        return Means()
    scope, why_not = _scope(name, memory_bytes, cpus, detach, root or filesystem_root())
    if scope:
        return Means(words=scope)
    cores = _cores(cpus, taken) if cpus else ()
    notes = []
    if memory_bytes:
        notes.append(f"the memory limit holds for each process by itself, not for all of them together ({why_not})")
    if cpus and cores and cpus != len(cores):
        notes.append(f"--cpus {cpus:g} became {len(cores)} whole core{'s' * (len(cores) != 1)} ({why_not})")
    return Means(cores=cores, data_bytes=memory_bytes, notes=tuple(notes))


def _scope(name: str, memory_bytes: int | None, cpus: float | None, detach: bool, root: Path) -> tuple[tuple[str, ...], str]:
    """Return the words that put a program into a scope of its own; or none, and why."""
    program = shutil.which("systemd-run")
    if program is None or not (root / "run/systemd/system").is_dir():
        return (), "there is no systemd here"
    user = os.geteuid() != 0
    controllers = (*(["memory"] if memory_bytes else []), *(["cpu"] if cpus else []))
    if user and (missing := [one for one in controllers if one not in _delegated(root)]):
        return (), f"systemd does not let ordinary users set {' and '.join(missing)} here"
    if user and detach and not (root / "var/lib/systemd/linger" / getpass.getuser()).exists():
        # With it the scope outlives the last logout; without it systemd would end the job there.
        return (), f"`sudo loginctl enable-linger {getpass.getuser()}` makes it possible in the background"
    limits = [*([f"MemoryMax={memory_bytes}", "MemorySwapMax=0"] if memory_bytes else []), *([f"CPUQuota={round(cpus * 100)}%"] if cpus else [])]
    words = (program, *(["--user"] if user else []), "--scope", "--quiet", "--collect", *(f"--property={limit}" for limit in limits), "--")
    tried = shell.run([*words, "true"], timeout_s=_PATIENCE_S)
    if not tried.ok:
        last = (tried.err.strip() or "no answer").splitlines()[-1]
        return (), f"systemd-run says: {last}"
    return (*words[:-1], f"--description=stoker {name}", "--"), ""


def _delegated(root: Path) -> tuple[str, ...]:
    """Return the controllers that systemd gives to this user's own manager (cgroup v2; v1 has none to give)."""
    uid = os.getuid()
    folder = root / f"sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service"
    return tuple((read(folder / "cgroup.controllers") or "").split())


def _cores(cpus: float, taken: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the cores that the fewest others are held on; none where all are needed."""
    ours = sorted(os.sched_getaffinity(0))
    count = max(1, math.ceil(cpus))
    if count >= len(ours):
        return ()
    busy = {core: sum(core in cores for cores in taken) for core in ours}
    return tuple(sorted(sorted(ours, key=lambda core: busy[core])[:count]))
