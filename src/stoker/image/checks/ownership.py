"""Which files of an image the lock accounts for: those of its wheels by hash, those of its .debs by dpkg's list."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from stoker.image.checks.contents import Contents, Node
from stoker.image.entries import Entry
from stoker.image.lock import Lock, LockedStack, Wheel
from stoker.image.own import HOME, own, own_files
from stoker.image.placement import place
from stoker.image.rootfs import rootfs_entries
from stoker.image.store import Store
from stoker.image.wheel import read_wheel

PREFIX = "opt/stoker"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a file that the lock accounts for should be."""

    owner: str
    """As `torch 2.13.0` or the .deb's name."""
    hashes: frozenset[str]
    """sha256 or md5, in hex; empty: only that it is there is known."""


@dataclass(frozen=True, kw_only=True)
class Ownership:
    """All files that a lock accounts for."""

    wheels: dict[str, Expected] = field(default_factory=dict)
    """By path."""
    own: dict[str, Expected] = field(default_factory=dict)
    """Stoker's own, by path; empty: the lock is that of another Stoker than this one, which cannot tell."""
    settings: tuple[Entry, ...] = ()
    """The files and links of the layer above Stoker's own: what starts, and what a stack's Python is. Empty as `own` is."""
    debs: dict[str, Expected] = field(default_factory=dict)
    """By path, links among the folders followed."""
    programs: frozenset[str] = frozenset()
    """Paths that a .deb lists, whether dpkg has a hash for them or not."""
    unlisted: tuple[str, ...] = ()
    """Wheels of which neither the store nor the image has a list of files."""
    proven: int = 0
    """How many wheels were compared with the wheel itself, and not with the list that the image brings along."""

    def vouches_for(self, node: Node) -> bool:
        """Whether a file is, to the bit, one that the lock brings."""
        by_wheel, by_deb = self.wheels.get(node.path) or self.own.get(node.path), self.debs.get(node.path)
        return (by_wheel is not None and node.sha256 in by_wheel.hashes) or (by_deb is not None and node.md5 in by_deb.hashes)


def site_packages(lock: Lock, stack: LockedStack) -> str:
    """Return where the packages of a stack lie."""
    return f"{PREFIX}/{stack.name}/lib/python{lock.python}/site-packages"


def read_ownership(lock: Lock, contents: Contents, store: Store | None) -> Ownership:
    """Return what the lock accounts for. Lists of files come from the wheels in the store, where it has them, else from the image itself."""
    held: dict[str, tuple[str, set[str]]] = {}
    unlisted, proven = [], 0
    for stack in lock.stacks:
        site = site_packages(lock, stack)
        for wheel in stack.wheels:
            said, listed = _of_image(wheel, contents, site), _of_store(wheel, store, stack, lock)
            if listed is None:
                listed = said
            else:
                proven += 1
                # Bytecode is made in the build: only the image says what it should be.
                listed += [(path, digest) for path, digest in said or () if path.endswith(".pyc")]
            if listed is None:
                unlisted.append(f"{wheel.name} {wheel.version} ({stack.name})")
                continue
            for path, digest in listed:
                # One path in several wheels (nvidia/__init__.py): any of them may have given it.
                _, hashes = held.setdefault(path, (f"{wheel.name} {wheel.version}", set()))
                hashes.update([digest] if digest else [])
    debs, programs = _of_dpkg(contents)
    mine = own()
    return Ownership(
        wheels={path: Expected(owner=owner, hashes=frozenset(hashes)) for path, (owner, hashes) in held.items()},
        own=_own(lock) if lock.own == mine else {},
        settings=tuple(rootfs_entries(lock)) if lock.own == mine else (),
        debs=debs,
        programs=programs,
        unlisted=tuple(unlisted),
        proven=proven,
    )


def _of_store(wheel: Wheel, store: Store | None, stack: LockedStack, lock: Lock) -> list[tuple[str, str | None]] | None:
    """What the wheel itself brings, where the store has it."""
    path = store.file(wheel.sha256, size=wheel.size) if store else None
    if path is None:
        return None
    files = place(read_wheel(path, file_name=wheel.file), stack=stack.name, python=lock.python, prune=lock.prune).files
    return [(where, _hex(*placed.digest.split("=", 1))) for where, placed in files.items()]


def _of_image(wheel: Wheel, contents: Contents, site: str) -> list[tuple[str, str | None]] | None:
    wanted = re.compile(re.escape(site) + rf"/([^/]+)-{re.escape(wheel.version)}\.dist-info/RECORD", re.IGNORECASE)
    for path in contents.texts:
        found = wanted.fullmatch(path)
        if found and normalised(found[1]) == wheel.name:
            try:
                return list(_recorded(contents.text(path) or "", site))
            except csv.Error:
                return None
    return None


def _recorded(text: str, site: str) -> Iterator[tuple[str, str | None]]:
    """Yield path and hash of each row. What a list says about files outside of its stack counts for nothing: it would vouch for anything."""
    stack = site.partition("/lib/")[0]
    for row in csv.reader(text.splitlines()):
        path = posixpath.normpath(posixpath.join(site, row[0])) if row else ""
        if not path.startswith(f"{stack}/"):
            continue
        algorithm, _, digest = (row[1] if len(row) > 1 else "").partition("=")
        yield path, _hex(algorithm, digest)


def _hex(algorithm: str, digest: str) -> str | None:
    if algorithm != "sha256":
        return None
    try:
        return base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()
    except (binascii.Error, ValueError):
        return None


def _own(lock: Lock) -> dict[str, Expected]:
    files = {f"{HOME}/{path}": content for path, content in own_files().items()}
    files |= {entry.path: entry.content for entry in rootfs_entries(lock) if isinstance(entry.content, bytes)}
    return {path: Expected(owner="stoker", hashes=frozenset([hashlib.sha256(content).hexdigest()])) for path, content in files.items()}


def _of_dpkg(contents: Contents) -> tuple[dict[str, Expected], frozenset[str]]:
    debs: dict[str, Expected] = {}
    listed: set[str] = set()
    for path in contents.texts:
        found = re.fullmatch(r"var/lib/dpkg/info/([^/:]+)(?::[a-z0-9]+)?\.(md5sums|list)", path)
        if not found:
            continue
        for line in (contents.text(path) or "").splitlines():
            if found[2] == "list":
                listed.add(contents.real(line.strip().lstrip("/")))
            elif "  " in line:
                digest, _, name = line.partition("  ")
                debs[contents.real(name.strip().lstrip("/"))] = Expected(owner=found[1], hashes=frozenset([digest]))
    return debs, frozenset(listed)


def normalised(name: str) -> str:
    """Return the name of a distribution as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()
