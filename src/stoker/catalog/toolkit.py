"""Security floors of the NVIDIA container toolkit: the version that closes each known hole."""

from __future__ import annotations

import datetime
import functools
from dataclasses import dataclass

from stoker.catalog.tables import Row, rows
from stoker.catalog.versions import older, version_numbers


@dataclass(frozen=True, kw_only=True)
class ToolkitFloor:
    """A version from which on some holes are closed."""

    version: str
    cves: tuple[str, ...]
    evidence: str
    source: str
    checked: datetime.date


@functools.cache
def toolkit_floors() -> tuple[ToolkitFloor, ...]:
    """Return the floors, oldest first. Raises BadValue when the table is broken."""
    return tuple(sorted((_floor(row) for row in rows("toolkit.toml", "floor")), key=lambda floor: version_numbers(floor.version)))


def open_holes(version: str) -> tuple[ToolkitFloor, ...]:
    """Return the floors that a version of the toolkit is below. Raises BadValue when it is no version."""
    return tuple(floor for floor in toolkit_floors() if older(version, floor.version))


def _floor(row: Row) -> ToolkitFloor:
    floor = ToolkitFloor(
        version=row.version("version"), cves=row.texts("cves"), evidence=row.evidence(), source=row.text("source"), checked=row.date("checked")
    )
    row.end()
    return floor
