"""Memory, swap, shared memory, and the limits on what a process may lock, open and start."""

from __future__ import annotations

import os
import re
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from stoker.host.limits import cgroup_folders, memory_limit
from stoker.host.place import filesystem_root, read


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How much memory there is, and how much of everything this process may take. A limit of -1 is none."""

    total_bytes: int | None = None
    available_bytes: int | None = None
    """What can be had without swapping, by the kernel's estimate (MemAvailable)."""
    limit_bytes: int | None = None
    """The smallest memory limit among this process's cgroups; None: no limit, or one above the memory there is."""
    limit_text: str | None = None
    """Where it stands, as `/sys/fs/cgroup/memory.max: 8589934592`."""
    limit_used_bytes: int | None = None
    """What the cgroup of that limit holds, less the file cache that can be dropped."""
    swap_total_bytes: int | None = None
    swap_used_bytes: int | None = None
    swap_pages_per_s: float | None = None
    """Pages that went to or came from swap a second, while the doctor looked."""
    pressure_percent: float | None = None
    """The share of the last minute in which something waited for memory (/proc/pressure/memory, some avg60)."""
    shm_bytes: int | None = None
    """The size of /dev/shm."""
    shm_free_bytes: int | None = None
    shm_writable: bool | None = None
    memlock_soft: int | None = None
    """Bytes that this process may lock."""
    memlock_hard: int | None = None
    lock_unlimited: bool | None = None
    """Whether the process holds CAP_IPC_LOCK on the machine itself: the limit does not count then."""
    nofile_soft: int | None = None
    """Files that this process may have open at once."""
    nofile_hard: int | None = None
    nproc_soft: int | None = None
    """Processes and threads that this user may have; root is exempt."""
    pids_limit: int | None = None
    """The smallest limit on processes and threads among this process's cgroups; None: no limit."""
    pids_now: int | None = None
    """How many that cgroup has."""
    pids_text: str | None = None
    """Where it stands, as `/sys/fs/cgroup/pids.max: 256`."""
    huge_pages: str | None = None
    """Transparent huge pages: always, madvise or never."""
    oom_kills: int | None = None
    """Processes of this process's own cgroup that the kernel killed for want of memory."""
    oom_text: str | None = None
    """Where that was read, as `/sys/fs/cgroup/memory.events: oom_kill 3`."""


_CAP_IPC_LOCK = 14
"""Bit of CAP_IPC_LOCK; source: linux/capability.h."""
_SWAP_WATCH_S = 0.25


def gather_memory(root: Path | None = None) -> Memory:
    """Read the facts from /proc, /sys and this process's limits. Raises nothing; takes a quarter of a second where there is swap."""
    root = root or filesystem_root()
    table = _meminfo(root)
    total = table.get("MemTotal")
    swap_total = table.get("SwapTotal")
    limit_folder, limit = _limit(root, total)
    pids_folder, pids_limit = _pids(root)
    oom_kills, oom_text = _oom(root)
    shm = _shm(root)
    memlock, nofile, nproc = (_rlimit(name) for name in ("RLIMIT_MEMLOCK", "RLIMIT_NOFILE", "RLIMIT_NPROC"))
    return Memory(
        total_bytes=total,
        available_bytes=table.get("MemAvailable"),
        limit_bytes=limit,
        limit_text=_shown(root, limit_folder, ("memory.max", "memory.limit_in_bytes")),
        limit_used_bytes=_used(limit_folder),
        swap_total_bytes=swap_total,
        swap_used_bytes=swap_total - table["SwapFree"] if swap_total is not None and "SwapFree" in table else None,
        swap_pages_per_s=_swapping(root) if swap_total else None,
        pressure_percent=_pressure(root),
        shm_bytes=shm[0],
        shm_free_bytes=shm[1],
        shm_writable=shm[2],
        memlock_soft=memlock[0],
        memlock_hard=memlock[1],
        lock_unlimited=_may_lock(root),
        nofile_soft=nofile[0],
        nofile_hard=nofile[1],
        nproc_soft=nproc[0],
        pids_limit=pids_limit,
        pids_now=_number(read(pids_folder / "pids.current")) if pids_folder else None,
        pids_text=_shown(root, pids_folder, ("pids.max",)),
        huge_pages=_huge_pages(root),
        oom_kills=oom_kills,
        oom_text=oom_text,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 20 else None


def _meminfo(root: Path) -> dict[str, int]:
    """Return the fields of /proc/meminfo in bytes."""
    rows = [line.split() for line in (read(root / "proc/meminfo") or "").splitlines()]
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3 and row[1].isdecimal()}


def _limit(root: Path, total: int | None) -> tuple[Path | None, int | None]:
    """Return the cgroup with the smallest memory limit, and the limit; None when it is above what the machine has."""
    limits = [(limit, folder) for folder in cgroup_folders(root, "memory") if (limit := memory_limit(folder)) is not None]
    limit, folder = min(limits, default=(None, None))
    return (folder, limit) if limit is not None and (total is None or limit < total) else (None, None)


def _used(folder: Path | None) -> int | None:
    """Return what a cgroup holds without the file cache that the kernel can drop at once (inactive_file), as Kubernetes counts it."""
    if folder is None:
        return None
    used = _number(read(folder / "memory.current") or read(folder / "memory.usage_in_bytes"))
    rows = [line.split() for line in (read(folder / "memory.stat") or "").splitlines()]
    table = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}
    cached = table.get("total_inactive_file", table.get("inactive_file", 0))
    return max(0, used - cached) if used is not None else None


def _shown(root: Path, folder: Path | None, names: tuple[str, ...]) -> str | None:
    """Return the first of these files that can be read as "path: text"."""
    if folder is None:
        return None
    for name in names:
        if text := read(folder / name):
            return f"/{(folder / name).relative_to(root)}: {text}"
    return None


def _swapping(root: Path) -> float | None:
    """Return the pages that went to or came from swap a second, watched for a quarter of a second."""
    before = _swapped(root)
    time.sleep(_SWAP_WATCH_S)
    after = _swapped(root)
    return max(0, after - before) / _SWAP_WATCH_S if before is not None and after is not None else None


def _swapped(root: Path) -> int | None:
    rows = [line.split() for line in (read(root / "proc/vmstat") or "").splitlines()]
    counts = [int(row[1]) for row in rows if len(row) == 2 and row[0] in ("pswpin", "pswpout") and row[1].isdecimal()]
    return sum(counts) if len(counts) == 2 else None


def _pressure(root: Path) -> float | None:
    found = re.search(r"^some .*\bavg60=(\d+\.\d+)", read(root / "proc/pressure/memory") or "", re.MULTILINE)
    return float(found[1]) if found else None


def _shm(root: Path) -> tuple[int | None, int | None, bool | None]:
    """Return size, free bytes and whether it can be written to."""
    folder = root / "dev/shm"
    try:
        status = os.statvfs(folder)
    except OSError:
        return None, None, None
    return status.f_frsize * status.f_blocks, status.f_frsize * status.f_bavail, os.access(folder, os.W_OK | os.X_OK)


def _rlimit(name: str) -> tuple[int | None, int | None]:
    try:
        soft, hard = resource.getrlimit(getattr(resource, name))
    except (AttributeError, OSError, ValueError):
        return None, None
    return (soft if soft != resource.RLIM_INFINITY else -1, hard if hard != resource.RLIM_INFINITY else -1)


def _may_lock(root: Path) -> bool | None:
    """Tell whether RDMA's memory limit is void for us: the kernel asks for CAP_IPC_LOCK on the machine itself, not in a user namespace."""
    found = re.search(r"^CapEff:\s*([0-9a-f]{1,16})$", read(root / "proc/self/status") or "", re.MULTILINE)
    if not found:
        return None
    whole = (read(root / "proc/self/uid_map") or "").split() == ["0", "0", "4294967295"]
    return whole and bool(int(found[1], 16) >> _CAP_IPC_LOCK & 1)


def _pids(root: Path) -> tuple[Path | None, int | None]:
    """Return the cgroup with the smallest limit on processes, and the limit."""
    limits = [(limit, folder) for folder in cgroup_folders(root, "pids") if (limit := _number(read(folder / "pids.max"))) is not None]
    limit, folder = min(limits, default=(None, None))
    return folder, limit


def _huge_pages(root: Path) -> str | None:
    """Return the word in brackets of "always [madvise] never"."""
    found = re.search(r"\[(\w+)\]", read(root / "sys/kernel/mm/transparent_hugepage/enabled") or "")
    return found[1] if found else None


def _oom(root: Path) -> tuple[int | None, str | None]:
    """Return the kills in this process's own cgroup: its ancestors also count those of others."""
    for folder in cgroup_folders(root, "memory")[:1]:
        for name in ("memory.events", "memory.oom_control"):
            for line in (read(folder / name) or "").splitlines():
                if (parts := line.split())[:1] == ["oom_kill"] and len(parts) == 2 and parts[1].isdecimal():
                    return int(parts[1]), f"/{(folder / name).relative_to(root)}: {line}"
    return None, None
