"""CPU seconds of this process and of everything that it started: data loader workers count, also those that are gone."""

from __future__ import annotations

import os
from pathlib import Path

_FIRST, _COUNT = 11, 4
"""utime, stime, cutime and cstime among the fields after the name: proc(5)."""


def work_s(pid: int | None = None) -> float | None:
    """Return the CPU seconds that `pid` (None: this process) and its descendants have used, to a tick of the kernel's clock (usually 10 ms).

    What a child used stays counted when its parent has waited for it. Without /proc only this process and its children that have ended.
    """
    top = os.getpid() if pid is None else pid
    if not Path("/proc/self/stat").exists():
        return sum(os.times()[:4]) if top == os.getpid() else None
    family, ticks = [top], 0
    for member in family:
        ticks += _ticks(member)
        family += [child for child in _children(member) if child not in family]
    return ticks / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()  # the name in brackets may hold spaces
    return sum(map(int, fields[_FIRST : _FIRST + _COUNT]))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except OSError:
        pass
    return found
