"""`stoker image scan`: known vulnerabilities of what a lock holds, and what could not be looked up, which is never "nothing"."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stoker.errors import ReportBroken, ScanIncomplete, StokerError
from stoker.image.advisories import PYPI, Found, Package, ask_server, read_file
from stoker.image.debian import RELEASES, lock_base
from stoker.image.lock import Deb, Lock
from stoker.image.scanners import Report, read_report
from stoker.image.specification import Mirrors
from stoker.image.version_order import debian_key, without_local
from stoker.image.vulnerability import Vulnerability, merged

KINDS = {"pypi": "Python packages", "deb": "Debian packages"}
_BINARY_REBUILD = re.compile(r"\+b\d+$")


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Something that could not be looked up."""

    kind: str
    """`pypi` or `deb`."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """A lock, looked up."""

    lock: str
    """Its digest."""
    vulnerabilities: tuple[Vulnerability, ...]
    """The worst first."""
    unmended: tuple[Vulnerability, ...]
    """Those of Debian's packages that Debian has no fix for: nothing can be done but to wait, or to do without the package."""
    looked_up: tuple[str, ...]
    """What was asked about what, in words: "212 Debian packages: pending fixes"."""
    gaps: tuple[Gap, ...]
    """What could not be looked up. Empty: the answer is whole."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "complete": not self.gaps}


def scan(
    lock: Lock,
    *,
    osv: Sequence[Path] = (),
    reports: Sequence[Path] = (),
    kinds: Collection[str] = tuple(KINDS),
    ignored: Collection[str] = (),
    mirrors: Mirrors | None = None,
    on_part: Callable[[str], None] = lambda part: None,
) -> Scanned:
    """Look up everything in a lock: Python packages in OSV (files, else its server), Debian packages in what Debian has published since.

    `reports` of other scanners stand in for the kinds of packages that they cover. Raises ReportBroken for a file that is not what it should be;
    what cannot be looked up is a gap in the answer.
    """
    search = _Search(lock=lock, on_part=on_part)
    for path in reports:
        search.take_report(path)
    if osv:
        search.take_files(osv, [kind for kind in kinds if kind not in search.covered])
    for kind in kinds:
        if kind not in search.covered:
            search.ask(kind, mirrors or Mirrors())
    return search.result(kinds, ignored)


class _Search:
    """The answers so far."""

    def __init__(self, *, lock: Lock, on_part: Callable[[str], None]) -> None:
        self.covered: set[str] = set()
        self._lock = lock
        self._on_part = on_part
        self._packages = {"pypi": python_packages(lock), "deb": debian_packages(lock)}
        self._found: list[Vulnerability] = []
        self._looked_up: list[str] = []
        self._gaps: list[Gap] = []

    def take_report(self, path: Path) -> None:
        """Take what another scanner found."""
        report = read_report(path)
        _same_image(report, self._lock, path)
        self._found += report.vulnerabilities
        self.covered |= report.kinds
        told = ", ".join(KINDS[kind] for kind in sorted(report.kinds)) or "nothing"
        self._looked_up.append(f"{told}: {report.scanner}'s report {path.name}" + (f" of {report.made}" if report.made else ""))

    def take_files(self, paths: Sequence[Path], kinds: Sequence[str]) -> None:
        """Match what OSV's files cover; a file of one ecosystem says nothing about the other."""
        packages = [package for kind in kinds for package in self._packages[kind]]
        for path in paths:
            self._on_part(f"reading {path.name}")
            found = read_file(path, packages)
            for kind in [kind for kind in kinds if found.ecosystems & {one.ecosystem for one in self._packages[kind]}]:
                self.covered.add(kind)
                self._looked_up.append(f"{self._counted(kind)}: OSV's file {path.name}, newest advisory of {found.newest or 'an unknown time'}")
            self._take(found)

    def ask(self, kind: str, mirrors: Mirrors) -> None:
        """Look a kind of packages up over the network."""
        if kind == "deb" and self._lock.base.kind != "debian":
            self._gaps.append(Gap(kind=kind, reason="the base is an OCI image, and the lock does not say what is in it: give a scanner's --report"))
            return
        if not self._packages[kind]:
            self._looked_up.append(f"no {KINDS[kind]}")
            return
        self._on_part(f"looking up {self._counted(kind)}")
        try:
            if kind == "pypi":
                self._take(ask_server(self._packages[kind]))
                self._looked_up.append(f"{self._counted(kind)}: OSV's server")
            else:
                self._found += pending_fixes(self._lock, mirrors)
                self._looked_up.append(f"{self._counted(kind)}: pending fixes in Debian's archives")
        except ScanIncomplete as error:
            self._gaps.append(Gap(kind=kind, reason=error.message))
        except StokerError as error:  # no apt, no network, a package that is gone
            self._gaps.append(Gap(kind=kind, reason=error.message))

    def result(self, kinds: Collection[str], ignored: Collection[str]) -> Scanned:
        """Return all of it, each vulnerability once."""
        every = [one for one in merged(self._found) if one.kind in kinds and not {one.id, *one.aliases} & set(ignored)]
        waiting = [one for one in every if one.kind == "deb" and one.fixed is None]
        return Scanned(
            lock=self._lock.digest,
            vulnerabilities=tuple(one for one in every if one not in waiting),
            unmended=tuple(waiting),
            looked_up=tuple(self._looked_up),
            gaps=tuple(self._gaps),
        )

    def _take(self, found: Found) -> None:
        self._found += found.vulnerabilities
        for package in found.unjudged:
            self._gaps.append(Gap(kind="pypi", reason=f"its version cannot be compared: {package}"))

    def _counted(self, kind: str) -> str:
        return f"{len(self._packages[kind])} {KINDS[kind]}"


def python_packages(lock: Lock) -> tuple[Package, ...]:
    """Return the Python packages of all stacks, as advisories call them; a build for one CUDA (`2.7.1+cu126`) by its public version."""
    return tuple(
        sorted(
            {
                Package(
                    kind="pypi",
                    name=wheel.name,
                    version=wheel.version,
                    ecosystem=PYPI,
                    asked=wheel.name,
                    asked_version=without_local(wheel.version),
                )
                for stack in lock.stacks
                for wheel in stack.wheels
            },
            key=lambda one: (one.name, one.version),
        )
    )


def debian_packages(lock: Lock) -> tuple[Package, ...]:
    """Return the Debian packages, as advisories call them: by their source, whose name is that of their folder in the archive's pool."""
    number = next((release.number for release in RELEASES if release.name == lock.base.suite), None)
    return tuple(
        Package(
            kind="deb",
            name=deb.name,
            version=deb.version,
            ecosystem=f"Debian:{number}",
            asked=_source(deb),
            # Rebuilt without a change of its source: the advisory knows the source's version.
            asked_version=_BINARY_REBUILD.sub("", deb.version),
        )
        for deb in lock.base.debs
    )


def pending_fixes(lock: Lock, mirrors: Mirrors) -> tuple[Vulnerability, ...]:
    """Return the locked Debian packages of which Debian has published a newer version: in a stable release those are fixes.

    Raises as `debian.lock_base`.
    """
    assert lock.base.suite is not None
    names = sorted({deb.name for deb in lock.base.debs})
    now = lock_base(suite=lock.base.suite, machine=lock.machine, packages={"cli": names}, mirrors=mirrors)
    newest = {(deb.name, deb.architecture): deb for deb in now.debs}
    found = []
    for deb in lock.base.debs:
        other = newest.get((deb.name, deb.architecture))
        if other is None:
            raise ScanIncomplete(f"Debian's archives no longer tell about {deb.name}", hint="look at the mirrors that apt is set up with")
        if debian_key(other.version) > debian_key(deb.version):
            found.append(
                Vulnerability(
                    kind="deb",
                    package=deb.name,
                    version=deb.version,
                    id=f"{deb.name}={other.version}",
                    aliases=(),
                    fixed=other.version,
                    severity="unknown",
                    summary=f"a {'security fix' if other.archive == 'security' else 'fix of a point release'} is pending",
                    source="Debian",
                )
            )
    return tuple(found)


def _source(deb: Deb) -> str:
    """Return the source package of `pool/main/o/openssl/libssl3_3.0.15-1_amd64.deb`: openssl (Debian policy, 4.1; the archive's layout)."""
    parts = deb.file.split("/")
    return parts[-2] if len(parts) > 1 else deb.name


def _same_image(report: Report, lock: Lock, path: Path) -> None:
    """Refuse a report about another image: by its label, or because none of its packages is one of the lock."""
    about = f"{path} is about another image ({report.about or 'unnamed'})"
    if report.lock and report.lock != lock.digest:
        raise ReportBroken(
            f"{about}: that one's lock is {report.lock[:19]}, this is {lock.digest[:19]}",
            hint="scan the image of this lock, or name the image whose report it is: `stoker image scan IMAGE --report FILE`",
        )
    held = {("pypi", wheel.name) for stack in lock.stacks for wheel in stack.wheels} | {("deb", deb.name) for deb in lock.base.debs}
    named = {(one.kind, re.sub(r"[-_.]+", "-", one.package).lower() if one.kind == "pypi" else one.package) for one in report.vulnerabilities}
    if named and lock.base.kind == "debian" and not named & held:
        raise ReportBroken(f"{about}: none of its packages is in the lock", hint="scan the image of this lock")
