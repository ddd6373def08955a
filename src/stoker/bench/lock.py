"""Whether an image holds the very versions that its lock names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from stoker.bench.readings import Reading
from stoker.host import Container, filesystem_root
from stoker.runs.surroundings import packages

LOCK = "etc/stoker/lock.txt"
"""In an image: requirements with hashes, as in `locks/`."""
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)\s*(;)?", re.MULTILINE)


def lock_reading(container: Container | None, root: Path | None = None, installed: dict[str, str] | None = None) -> Reading:
    """Return the reading: skipped outside an image, failed with the packages that differ."""
    reading = Reading(name="handshake.versions", title="Versions equal the lock")
    path = (root or filesystem_root()) / LOCK
    if container is None:
        return replace(reading, skipped="not inside a container")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return replace(reading, skipped=f"this container has no /{LOCK}: it was not made by Stoker")
    pinned = _PINNED.findall(text)
    if not pinned:
        return replace(reading, failed=f"/{LOCK} names no version")
    found = packages() if installed is None else installed
    differ = [said for name, version, marker in pinned if (said := _difference(name, version, bool(marker), found))]
    if differ:
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        return replace(reading, failed=f"{', '.join(differ[:5])}{more}")
    return replace(reading, value=float(len(pinned)), n=1, facts={"packages": len(pinned)})


def _difference(name: str, version: str, conditional: bool, found: dict[str, str]) -> str:
    there = found.get(re.sub(r"[-_.]+", "-", name).lower())
    if there is None:
        # A line with a marker may be meant for another machine or Python.
        return "" if conditional else f"{name} {version} is missing"
    # A wheel says 2.8.0+cu128 where the lock says 2.8.0.
    same = there == version or ("+" not in version and there.partition("+")[0] == version)
    return "" if same else f"{name} is {there}, locked {version}"
