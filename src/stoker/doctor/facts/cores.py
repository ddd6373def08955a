"""Lists of cores as the kernel writes them: `0-3,8`."""

from __future__ import annotations

from collections.abc import Iterable

# The largest number of cores that a Linux kernel can be built for (NR_CPUS); whatever is above it is garbage.
_MOST_CORES = 8192


def cores_of(text: str | None) -> frozenset[int]:
    """Return the cores of a list like `0-3,8`; what is not such a list is empty."""
    cores: set[int] = set()
    for part in (text or "").strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal() and int(last or first) < _MOST_CORES:
            cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def list_of(cores: Iterable[int]) -> str:
    """Return cores as a list like `0-3,8`."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
