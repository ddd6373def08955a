"""How much memory this process may still take: what the system has left, and what its cgroups leave."""

from __future__ import annotations

import os
from pathlib import Path

from stoker.host.limits import cgroup_folders, memory_limit
from stoker.host.place import filesystem_root, read


def available_bytes(root: Path | None = None) -> int | None:
    """Return the bytes that can be had without swapping and without reaching a cgroup's limit; None where the system does not say.

    Memory of a cgroup that only holds file pages which can be given back counts as available, as in `MemAvailable`.
    """
    root = root or filesystem_root()
    left = [bytes_ for folder in cgroup_folders(root, "memory") if (bytes_ := _left(folder)) is not None]
    system = _counter(read(root / "proc/meminfo"), "MemAvailable:")
    if system is not None:
        left.append(system * 1024)
    return max(0, min(left)) if left else None


def share_bytes(part: float) -> int | None:
    """Return `part` of the available memory, for one of the ranks that torchrun has started on this machine."""
    available = available_bytes()
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return None if available is None else int(available * part) // max(1, int(ranks) if ranks.isdecimal() else 1)


def _left(folder: Path) -> int | None:
    limit = memory_limit(folder)
    used = read(folder / "memory.current") or read(folder / "memory.usage_in_bytes")
    if limit is None or used is None or not used.isdecimal():
        return None
    statistics = read(folder / "memory.stat")
    pages = _counter(statistics, "total_inactive_file") or _counter(statistics, "inactive_file") or 0
    return limit - max(0, int(used) - pages)


def _counter(text: str | None, name: str) -> int | None:
    """Return the number in the line `name number ...`."""
    for line in (text or "").splitlines():
        parts = line.split()
        if len(parts) >= 2 and parts[0] == name and parts[1].isdecimal():
            return int(parts[1])
    return None
