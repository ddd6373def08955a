"""The licences of all that an image holds, read from what lies in the image itself: METADATA of its wheels, copyright files of Debian.

A lock knows none: neither the index nor Debian's lists of packages say them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

from stoker.image.checks.contents import Contents
from stoker.image.checks.ownership import normalised, site_packages
from stoker.image.component import components
from stoker.image.licence import Licence
from stoker.image.licence_debian import licence_of_copyright
from stoker.image.licence_metadata import licence_of_metadata
from stoker.image.lock import Deb, Lock

OWN = Licence(expression="Apache-2.0", source="Stoker's pyproject.toml")
"""Stoker's own."""
TEXTS = re.compile(
    r"usr/share/doc/[^/]+/copyright"
    r"|opt/stoker/[^/]+/lib/python[0-9.]+/site-packages/[^/]+\.dist-info/(METADATA|licenses/.+|[^/]*(LICEN[CS]E|COPYING|NOTICE|COPYRIGHT)[^/]*)",
    re.IGNORECASE,
)
"""The files that say them."""
# A chain of links that is longer goes round in a circle.
_LINKS = 8

Licences = Mapping[str, Licence]
"""By the identity of a component; one that says nothing is left out."""


def licences_in(lock: Lock, contents: Contents) -> Licences:
    """Return the licences of the components of a lock, as far as they are told in the image that was built from it."""
    found = {**_of_debs(lock, contents), **_of_wheels(lock, contents)}
    named = {one.identity: OWN if one.kind == "generic" else found.get(one.sha256) for one in components(lock)}
    return {identity: licence for identity, licence in named.items() if licence}


def _of_debs(lock: Lock, contents: Contents) -> dict[str, Licence | None]:
    """Return the licence of each package of Debian, by its hash."""
    texts = {deb.sha256: contents.text(_followed(contents, f"usr/share/doc/{deb.name}/copyright")) or "" for deb in lock.base.debs}
    built: dict[tuple[str, str], set[str]] = {}
    for deb in lock.base.debs:
        built.setdefault(_source(deb), set()).update([texts[deb.sha256]] if texts[deb.sha256] else [])
    return {deb.sha256: _of_deb(deb, texts[deb.sha256], built[_source(deb)]) for deb in lock.base.debs}


def _of_deb(deb: Deb, own: str, built: set[str]) -> Licence | None:
    # A documentation folder may be a link to that of another package of the same source (Debian policy, 12.3), and dpkg leaves the link out
    # with the documentation.
    text = own or (next(iter(built)) if len(built) == 1 else "")
    source = _source(deb)[0]
    where = f"/usr/share/doc/{deb.name}/copyright" if own else f"the copyright file of its source package, {source}"
    return licence_of_copyright(text, package=source, source=where)


def _source(deb: Deb) -> tuple[str, str]:
    """Return name and version of what a package was built from, as Debian's pool has it; `+b1` is the same source, built again."""
    return posixpath.basename(posixpath.dirname(deb.file)) or deb.name, re.sub(r"\+b\d+$", "", deb.version)


def _of_wheels(lock: Lock, contents: Contents) -> dict[str, Licence | None]:
    """Return the licence of each wheel, by its hash."""
    found: dict[str, Licence | None] = {}
    for stack in lock.stacks:
        folders = _folders(contents, site_packages(lock, stack))
        for wheel in stack.wheels:
            folder = folders.get(wheel.name)
            if folder and not found.get(wheel.sha256):
                found[wheel.sha256] = licence_of_metadata(contents.text(f"{folder}/METADATA") or "", _files(contents, folder))
    return found


def _folders(contents: Contents, site: str) -> dict[str, str]:
    """Return the dist-info of each package in a stack's site-packages, by its name."""
    found = {}
    for path in contents.texts:
        folder, _, file = path.rpartition("/")
        if file == "METADATA" and posixpath.dirname(folder) == site:
            name = re.search(r"^Name: *(\S+)", contents.text(path) or "", re.MULTILINE)
            if name:
                found[normalised(name[1])] = folder
    return found


def _files(contents: Contents, folder: str) -> dict[str, str]:
    """Return the licence files of a package; their place is that of PEP 639, or the older one beside METADATA."""
    inside = [path for path in contents.texts if path.startswith(f"{folder}/") and Path(path).name != "METADATA"]
    return {posixpath.relpath(path, folder).removeprefix("licenses/"): contents.text(path) or "" for path in inside}


def _followed(contents: Contents, path: str) -> str:
    """Return where a path ends: Debian's packages of one source often share a copyright file by a link."""
    for _ in range(_LINKS):
        path = contents.real(path)
        node = contents.nodes.get(path)
        if node is None or node.kind != "symlink" or not node.target:
            break
        path = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), node.target)).lstrip("/")
    return path
