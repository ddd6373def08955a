"""What this process may use: cores and memory under affinity and cgroup limits, and shared memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from stoker.host.place import filesystem_root, read

# cgroup v1 says "no limit" with the largest multiple of a page below 2^63; whatever is above this is no limit.
_NO_LIMIT_BYTES = 2**60


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of the machine is ours."""

    cores: int
    """Cores that threads can really run on at once: affinity and the cgroup's CPU quota, rounded down, at least 1."""
    memory_total_bytes: int | None
    memory_limit_bytes: int | None
    """The smallest memory limit among this process's cgroups; None: no limit, or one above the memory there is."""
    shared_memory_bytes: int | None
    """The size of /dev/shm, which DataLoader workers and NCCL use."""


def find_limits(root: Path | None = None) -> Limits:
    """Read the limits of this process."""
    root = root or filesystem_root()
    total = _memory_total(root)
    limits = [limit for folder in cgroup_folders(root, "memory") if (limit := memory_limit(folder)) is not None]
    limit = min(limits, default=None)
    return Limits(
        cores=_cores(root),
        memory_total_bytes=total,
        memory_limit_bytes=limit if limit is not None and (total is None or limit < total) else None,
        shared_memory_bytes=_size(root / "dev/shm"),
    )


def _cores(root: Path) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in cgroup_folders(root, "cpu") if (quota := cpu_quota(folder)) is not None]
    return max(1, int(min([cores, *quotas])))


def cgroup_folders(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's cgroup and of all its ancestors, v2 and v1: a limit of any of them holds.

    Inside a container with its own cgroup namespace the process's path is `/`, and the folder is the mount point itself.
    """
    base = root / "sys/fs/cgroup"
    folders: list[Path] = []
    for line in (read(root / "proc/self/cgroup") or "0::/").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            mount = base
        elif controller in names.split(","):
            mount = base / controller
        else:
            continue
        inside = Path(path.lstrip("/"))
        folders += [mount / inside, *(mount / parent for parent in inside.parents)]
    return list(dict.fromkeys(folders))


def cpu_quota(folder: Path) -> float | None:
    """Return a cgroup's quota in cores, None when it has none.

    v2 has cpu.max ("150000 100000"), v1 two files; source: kernel docs, cgroup-v2, sched-bwc.
    """
    text = read(folder / "cpu.max")
    if text is None:
        text = f"{read(folder / 'cpu.cfs_quota_us')} {read(folder / 'cpu.cfs_period_us')}"
    parts = text.split()
    if len(parts) == 2 and all(part.isdecimal() for part in parts) and int(parts[0]) > 0 and int(parts[1]) > 0:
        return int(parts[0]) / int(parts[1])
    return None


def memory_limit(folder: Path) -> int | None:
    """Return a cgroup's memory limit in bytes, None when it has none."""
    text = read(folder / "memory.max") or read(folder / "memory.limit_in_bytes") or ""
    return int(text) if text.isdecimal() and 0 < int(text) < _NO_LIMIT_BYTES else None


def _memory_total(root: Path) -> int | None:
    for line in (read(root / "proc/meminfo") or "").splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[0] == "MemTotal:" and parts[1].isdecimal():
            return int(parts[1]) * 1024
    return None


def _size(folder: Path) -> int | None:
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return status.f_frsize * status.f_blocks
