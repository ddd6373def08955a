"""The person's own requirements.txt or pylock.toml: what of it a lock can hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from stoker.errors import SpecificationBroken
from stoker.image.pylock import pylock_packages
from stoker.image.tags import normalised
from stoker.image.web import masked


def read_requirements(path: Path) -> tuple[tuple[str, ...], dict[str, frozenset[str]]]:
    """Return the requirement lines of a requirements.txt or pylock.toml, and by name the hashes it allows. Raises SpecificationBroken."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecificationBroken(f"the requirements file {path} cannot be read: {error}", hint="correct `requirements` in stoker.toml") from error
    return _from_pylock(path, text) if path.suffix == ".toml" else _from_requirements(path, text)


def _from_pylock(path: Path, text: str) -> tuple[tuple[str, ...], dict[str, frozenset[str]]]:
    try:
        packages = pylock_packages(text)
    except ValueError as error:
        raise SpecificationBroken(f"{path} is no pylock.toml: {error}", hint="make it again: `uv export --format pylock.toml`") from error
    if without := next((package for package in packages if package.source or not package.version), None):
        raise _not_lockable(path, without.name, f"comes as {without.source or 'a file without a version'}")
    lines = tuple(f"{package.name}=={package.version}" + (f" ; {package.marker}" if package.marker else "") for package in packages)
    return lines, {package.name: frozenset(offer.sha256 for offer in package.files if offer.sha256) for package in packages}


def _from_requirements(path: Path, text: str) -> tuple[tuple[str, ...], dict[str, frozenset[str]]]:
    lines, hashes = [], dict[str, frozenset[str]]()
    for line in _joined(text):
        requirement, *found = re.split(r"\s--hash=sha256:", f" {line}")
        requirement = requirement.strip()
        if requirement.startswith("-") or " --" in requirement:
            raise _not_lockable(path, requirement, "is an option")
        if "://" in requirement or re.match(r"[./~]|\S+\.whl\b", requirement) or re.search(r"\s@\s|\S@\S", requirement.partition(";")[0]):
            raise _not_lockable(path, requirement, "names a place")
        lines.append(requirement)
        if found and (name := re.match(r"[A-Za-z0-9._-]+", requirement)):
            hashes[normalised(name[0])] = frozenset(digest.strip() for digest in found)
    return tuple(lines), hashes


def _joined(text: str) -> Iterator[str]:
    """Return the lines that say something, with continued ones joined and comments cut off."""
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        if said := re.sub(r"(^|\s)#.*", "", line).strip():
            yield said


def _not_lockable(path: Path, what: str, why_not: str) -> SpecificationBroken:
    return SpecificationBroken(
        f"{path}: {masked(what)} {why_not}, and a lock holds names, versions and hashes only",
        hint="write packages as `name==version`; indexes and mirrors belong into stoker.toml (mirrors) or the settings of uv and pip",
    )
