"""A stoker.lock as far as a local environment needs it; the room `image`, which can read locks, is not known here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stoker.environment.installer import Installer
from stoker.start import Image


@dataclass(frozen=True, kw_only=True)
class LockedWheel:
    """One wheel of a lock, on this disk."""

    name: str
    version: str
    file: str
    """As `numpy-2.4.0-cp313-cp313-manylinux_2_28_x86_64.whl`."""
    sha256: str
    path: Path
    """Where it lies, under whatever name."""


@dataclass(frozen=True, kw_only=True)
class Locked:
    """What a lock says about its environments, and how to get them here."""

    digest: str
    """`sha256:...` of the lock."""
    own: str
    """Hash (plain hex) of this Stoker, which goes into the environment."""
    python: str
    """As `3.13`."""
    python_full: str
    """As `3.13.5`."""
    image: Image
    """Its stacks, of which one is chosen, and the processor that it is for."""
    installer: Callable[[], Installer] = field(compare=False)
    """Finds uv. Raises ProgramMissing."""
    wheels: Callable[[str], Sequence[LockedWheel]] = field(compare=False)
    """Has the wheels of a stack on this disk, fetched and checked by hash, without Stoker's own.

    Raises DownloadFailed, PackageGone, HashMismatch, DiskFull."""
    own_wheel: Callable[[], LockedWheel] = field(compare=False)
    """Makes this Stoker a wheel. Raises BuildFailed, DiskFull."""
    notes: tuple[str, ...] = ()
    """What a person should know of this lock: it is older than its stoker.toml, it has Debian packages that this machine may lack."""
