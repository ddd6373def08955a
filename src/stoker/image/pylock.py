"""A pylock.toml (PEP 751): what uv resolved, or what a person brings along."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

from stoker.image.pages import Offer, as_address, file_of
from stoker.image.tags import normalised

# The standard library has it from Python 3.11 on; tomli is the same module for 3.10.
_toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


@dataclass(frozen=True, kw_only=True)
class LockedPackage:
    """A package of a pylock.toml (PEP 751)."""

    name: str
    version: str
    files: tuple[Offer, ...]
    """Its wheels."""
    marker: str
    """Where it is needed; empty: everywhere."""
    source: str
    """`sdist`, `vcs`, `directory` or `archive` when it has no wheel; else empty."""


def pylock_packages(text: str) -> list[LockedPackage]:
    """Read a pylock.toml. Raises ValueError (and its kind, TOMLDecodeError) for what is none."""
    try:
        return [_locked_package(package) for package in _toml.loads(text).get("packages", [])]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"TOML, but no list of packages: {error}") from error


def _locked_package(package: dict[str, Any]) -> LockedPackage:
    wheels = [_locked_file(wheel) for wheel in package.get("wheels", [])]
    source = next((kind for kind in ("vcs", "directory", "archive", "sdist") if kind in package), "")
    return LockedPackage(
        name=normalised(str(package["name"])),
        version=str(package.get("version", "")),
        files=tuple(wheels),
        marker=str(package.get("marker", "")),
        source="" if wheels else source,
    )


def _locked_file(wheel: dict[str, Any]) -> Offer:
    address = str(wheel.get("url") or as_address(str(wheel.get("path", ""))))
    file = str(wheel.get("name") or file_of(address))
    size = wheel.get("size")
    return Offer(file=file, address=address, sha256=wheel.get("hashes", {}).get("sha256"), size=size if isinstance(size, int) else None)
