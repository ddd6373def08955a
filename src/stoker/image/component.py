"""One thing in an image, as a bill of materials and an advisory call it: name, version, purl, hash."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from stoker.image.debian import RELEASES
from stoker.image.lock import Deb, Lock, Wheel


@dataclass(frozen=True, kw_only=True)
class Component:
    """One thing in an image."""

    kind: str
    """`pypi`, `deb`, `oci` or `generic`: the type in its purl."""
    name: str
    version: str
    purl: str
    """The package URL."""
    file: str | None
    """The name of the file that it was installed from."""
    sha256: str
    stacks: tuple[str, ...]
    """The stacks that hold it; () for what all share."""
    variants: tuple[str, ...]
    """The variants that need it."""

    @property
    def identity(self) -> str:
        """Return a name that no other component of the image has: two builds of one version differ in their hashes."""
        return f"{self.kind}-{self.name}-{self.sha256[:16]}"


def components(lock: Lock) -> tuple[Component, ...]:
    """Return all that a lock holds, sorted; a wheel in two stacks once."""
    found = [_own(lock), *_base(lock), *(_deb(deb, lock.base.suite) for deb in lock.base.debs), *_wheels(lock)]
    return tuple(sorted(found, key=lambda one: (one.kind, one.name, one.version, one.sha256)))


def image_purl(lock: Lock) -> str:
    """Return the package URL of the image itself: its version is the lock's digest. Not of type oci: there it would be the manifest's."""
    return f"pkg:generic/{quote(lock.name, safe='.-_~/')}@{_quoted(lock.digest)}"


def _own(lock: Lock) -> Component:
    purl = f"pkg:generic/stoker@{_quoted(lock.own.version)}"
    return Component(
        kind="generic", name="stoker", version=lock.own.version, purl=purl, file=None, sha256=lock.own.sha256, stacks=(), variants=("cli",)
    )


def _base(lock: Lock) -> list[Component]:
    if lock.base.kind != "oci" or not lock.base.digest:
        return []
    purl, digest = f"pkg:oci/base@{_quoted(lock.base.digest)}", lock.base.digest.partition(":")[2]
    return [
        Component(kind="oci", name="base", version=lock.base.digest, purl=purl, file=None, sha256=digest, stacks=(), variants=("cli",)),
    ]


def _deb(deb: Deb, suite: str | None) -> Component:
    # Source: purl specification (ECMA-427), type deb; the colon of an epoch stays a colon.
    number = next((release.number for release in RELEASES if release.name == suite), None)
    distribution = f"&distro=debian-{number}" if number else ""
    return Component(
        kind="deb",
        name=deb.name,
        version=deb.version,
        purl=f"pkg:deb/debian/{_quoted(deb.name)}@{_quoted(deb.version)}?arch={deb.architecture}{distribution}",
        file=deb.file.rpartition("/")[2],
        sha256=deb.sha256,
        stacks=(),
        variants=deb.variants,
    )


def _wheels(lock: Lock) -> list[Component]:
    held: dict[str, tuple[Wheel, list[str]]] = {}
    for stack in lock.stacks:
        for wheel in stack.wheels:
            held.setdefault(wheel.sha256, (wheel, []))[1].append(stack.name)
    return [
        Component(
            kind="pypi",
            name=wheel.name,
            version=wheel.version,
            purl=f"pkg:pypi/{_quoted(wheel.name)}@{_quoted(wheel.version)}?file_name={_quoted(wheel.file)}",
            file=wheel.file,
            sha256=wheel.sha256,
            stacks=tuple(sorted(stacks)),
            variants=wheel.variants,
        )
        for wheel, stacks in held.values()
    ]


def _quoted(text: str) -> str:
    return quote(text, safe=".-_~:")
