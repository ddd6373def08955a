"""Debian packages, locked by version and hash, and fetched: nothing of the host is changed, and every list must be signed by Debian.

The keys are those of the package debian-archive-keyring, whatever the host itself runs and whichever suite is asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker import console
from stoker.errors import BuildFailed, PackageGone, ProgramMissing, SpecificationBroken
from stoker.image.apt import Apt
from stoker.image.archives import Archives, apt_web, find_archives
from stoker.image.fetching import Wanted, fetch
from stoker.image.lock import Base, Deb
from stoker.image.specification import Mirrors
from stoker.image.store import Store
from stoker.image.temporary import temporary_folder

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Debian policy, 5.6.1: the name of a package. apt reads more into other texts: options, removals, patterns, other suites.
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")


@dataclass(frozen=True, kw_only=True)
class Release:
    """A suite of Debian that an image can stand on."""

    name: str
    """As `trixie`."""
    number: int
    """As 13."""
    python: str
    """Its only Python, as `3.13`."""
    glibc: tuple[int, int]


# Source: the Packages files of the two suites (python3, libc6).
RELEASES = (
    Release(name="trixie", number=13, python="3.13", glibc=(2, 41)),
    Release(name="bookworm", number=12, python="3.11", glibc=(2, 36)),
)


def suite_of(python: str) -> Release:
    """Return the suite whose Python it is. Raises SpecificationBroken with those that exist."""
    for release in RELEASES:
        if release.python == python:
            return release
    known = " and ".join(f"{release.python} (Debian {release.number}, {release.name})" for release in RELEASES)
    raise SpecificationBroken(
        f"no Debian release that Stoker builds on has Python {python}",
        hint=f'choose python = one of {known}, or name an image that has it: base = "oci:PATH@sha256:..."',
    )


def lock_base(
    *,
    suite: str,
    machine: str,
    packages: Mapping[str, Sequence[str]],
    mirrors: Mirrors,
    held: Mapping[str, str] | None = None,
    archives: Archives | None = None,
) -> Base:
    """Resolve the packages of each variant (`cli` is part of every one, and everything essential is part of `cli`) and return the base of the lock.

    `held` are versions to keep where the archive still has them. Raises BuildFailed with apt's own words, PackageGone for a package that is in no
    archive, DownloadFailed, ProgramMissing without apt or Debian's keys.
    """
    for name in sorted({name for names in packages.values() for name in names}):
        if not _NAME.fullmatch(name):
            raise SpecificationBroken(f"{name!r} is no name of a Debian package", hint="a name has lower case letters, digits and + - . only")
    if machine not in _ARCHITECTURES:
        raise SpecificationBroken(f"no image can be made for {machine}", hint=f"Stoker knows {' and '.join(_ARCHITECTURES)}")
    archives = archives or find_archives(mirrors)
    if not archives.keyring.is_file():
        raise ProgramMissing(f"Debian's keys are not there ({archives.keyring})", hint="install the package debian-archive-keyring")
    with temporary_folder("apt") as folder:
        apt = Apt(folder=folder, archives=archives, suite=suite, architecture=_ARCHITECTURES[machine])
        apt.prepare()
        apt.update()
        return Base(kind="debian", suite=suite, digest=None, debs=_solution(apt, packages, held or {}))


def _solution(apt: Apt, packages: Mapping[str, Sequence[str]], held: Mapping[str, str]) -> tuple[Deb, ...]:
    """Solve for all variants at once, then find out within that solution what each of them needs."""
    everything = sorted({name for names in packages.values() for name in names})
    try:
        apt.pin({name: (version, 1001) for name, version in held.items()})
        whole = apt.resolve(everything)
    except (BuildFailed, PackageGone):
        if not held:
            raise
        apt.pin({})
        whole = apt.resolve(everything)
        console.warn("the locked versions of Debian's packages did not fit together any more: all were resolved anew")
    for name in everything:
        if name not in whole:
            raise PackageGone(
                f"Debian {apt.suite} has no package {name}", hint="look for its name in Debian's package search and mend `debs` in stoker.toml"
            )
    apt.pin({"*": ("", -1)} | {name: (deb.version, 1001) for name, deb in whole.items()})
    needed: dict[str, set[str]] = {name: set() for name in whole}
    for variant in ("cli", *(variant for variant in packages if variant != "cli")):
        for name in apt.resolve(sorted({*packages.get("cli", ()), *packages[variant]} if variant in packages else packages.get("cli", ()))):
            needed[name].add(variant)
    # What only the sum of several variants needs (a package that another one recommends against) belongs to all of them.
    others = tuple(sorted(variant for variant in packages if variant != "cli"))
    return tuple(
        Deb(
            name=name,
            version=deb.version,
            architecture=deb.architecture,
            file=deb.file,
            sha256=deb.sha256,
            size=deb.size,
            archive=deb.archive,
            variants=("cli",) if "cli" in needed[name] else tuple(sorted(needed[name])) or others,
        )
        for name, deb in sorted(whole.items())
    )


def python_full(base: Base) -> str:
    """Return the Python of a locked base to the last digit, as `3.13.5`. Raises BuildFailed when there is none in it."""
    python = next((release.python for release in RELEASES if release.name == base.suite), None)
    for deb in base.debs:
        if python and deb.name == f"python{python}" and (found := re.match(r"(?:\d+:)?(\d+\.\d+\.\d+)", deb.version)):
            return found[1]
    raise BuildFailed(f"the locked base has no Python {python or ''}", hint="run `stoker image lock` again")


def fetch_debs(
    debs: Sequence[Deb], store: Store, *, mirrors: Mirrors, archives: Archives | None = None, advance: Callable[[int], None] | None = None
) -> dict[str, Path]:
    """Have the packages in the store and return their paths by sha256; `advance` and what is raised are those of `fetching.fetch`."""
    if archives is None and not all(store.file(deb.sha256, size=deb.size) for deb in debs):
        # Where nothing is missing, a machine without any mirror will do.
        archives = find_archives(mirrors)
    wanted = [
        Wanted(
            file=deb.file.rpartition("/")[2],
            sha256=deb.sha256,
            size=deb.size,
            addresses=(archives.address(deb).replace("copy:", "file:", 1),) if archives else (),
        )
        for deb in debs
    ]
    try:
        return fetch(wanted, store, web=apt_web(os.environ), title="Debian packages", advance=advance)
    except PackageGone as error:
        raise PackageGone(
            error.message, hint="Debian's mirrors keep the newest version of a package only: run `stoker image lock` to lock what there is now"
        ) from error
