"""One file with all that an offline machine needs: the image, its wheels and debs, lock, specification, bills of materials, and Stoker itself.

A plain tar whose first member, `bundle.json`, names every other one with its size and sha256. Nothing of it is believed: a member that is not
named, is no plain file, has another hash or a name that leads elsewhere ends the reading, and nothing of the bundle is kept then.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stoker import console
from stoker.errors import HashMismatch, ImageBroken, UnsafeArchive
from stoker.files import cause, write_atomically, writing
from stoker.image import configuration, oci
from stoker.image.debian import fetch_debs
from stoker.image.described import licences_of
from stoker.image.entries import Entry, FileSource, file
from stoker.image.fetching import fetch_wheels
from stoker.image.lock import FILE_TIME, LOCK_FILE, Lock, lock_file_text, read_lock
from stoker.image.oci import Layout, copy_layout, read_layout
from stoker.image.own import own_wheel
from stoker.image.sbom import cyclonedx, spdx
from stoker.image.specification import SPECIFICATION_FILE, Specification, read_specification
from stoker.image.store import Store
from stoker.image.tarball import write_tar

_CONTENTS = "bundle.json"
_FORMAT = 1
_MOST_CONTENTS_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
# The only places that a bundle has, and the names in them.
_PLACES = re.compile(
    r"(README|sbom\.(cdx|spdx)\.json|project(/(?!\.{1,2}(/|$))[^/\0]+)+"
    r"|(wheels|debs)/[A-Za-z0-9._+~%-]+|layout/(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64}))"
)
_README = """This is everything of the image {name}, for a machine without network.

With Stoker:      stoker image build --from-bundle BUNDLE     (adds --load podman, --load docker or --push REGISTRY/NAME)
Without Stoker:   tar -xf BUNDLE layout; podman load --input layout
To install it:    tar -xf BUNDLE wheels; pip install --no-index --find-links wheels stoker    (Python {python}, as in the image)

Manifest: {digest}
"""


@dataclass(frozen=True, kw_only=True)
class _Member:
    """What `bundle.json` says about a file."""

    sha256: str
    size: int


def write_bundle(target: Path, *, specification: Path, layout: Layout) -> None:
    """Write the bundle of a built image: the same bytes for the same image, whole or not at all.

    What the store has no more is fetched again. Raises ImageBroken when the layout is not the image of this lock, DiskFull, and as `fetching.fetch`.
    """
    said = read_specification(specification)
    variants = str(layout.config["config"]["Labels"].get(configuration.VARIANTS, "")).split()
    lock = read_lock(specification.with_name(LOCK_FILE)).part(variants)
    if layout.annotations.get(oci.LOCK) != lock.digest:
        raise ImageBroken(f"{layout.folder} was not built from {specification.with_name(LOCK_FILE)}", hint="run `stoker image build` first")
    if any(address and "@" in address for address in (said.mirrors.pypi, said.mirrors.debian, said.mirrors.security, said.mirrors.torch)):
        console.warn(f"{specification} names a mirror with a user or a password, and goes into the bundle as it is")
    store = Store()
    with store.using():
        entries = [*_texts(said, lock, layout), *_packages(said, lock, store), *_layout_entries(layout)]
        contents = {entry.path: {"sha256": sha256_of(entry), "size": entry.size} for entry in entries}
        told = {"format": _FORMAT, "name": lock.name, "manifest": layout.digest, "lock": lock.digest, "files": contents}
        first = file(_CONTENTS, json.dumps(told, sort_keys=True, indent=1).encode())
        write_atomically(target, lambda out: _write(first, entries, out))


def open_bundle(bundle: Path, folder: Path, layout: Path | None = None) -> Path:
    """Check every file of a bundle, put its packages into the store, specification and lock into `folder`, and its image into a layout; return that.

    A later `stoker image build` in `folder` needs no network. Raises ImageBroken, HashMismatch, UnsafeArchive, DiskFull; nothing is kept then.
    """
    store = Store()
    with store.using(), store.scratch() as scratch:
        told = _unpack(bundle, scratch)
        lock = read_lock(scratch / "project" / LOCK_FILE)
        image = read_layout(scratch / "layout")
        if not image.digest == told["manifest"] or not image.annotations.get(oci.LOCK) == lock.digest == told["lock"]:
            raise ImageBroken(f"the image in {bundle} is not that of its lock", hint="have the bundle made again")
        _need_same(bundle, lock, image, told["files"])
        for sha256, name in _locked(lock):
            store.add_file(scratch / name, sha256=sha256, name=name.rpartition("/")[2])
        _give(scratch / "project", folder)
        target = layout or folder / f"{lock.name.rpartition('/')[2]}.oci"
        copy_layout(image, target)
    return target


def sha256_of(entry: Entry) -> str:
    """Return the hash of an entry's content."""
    told = hashlib.sha256()
    for piece in _pieces(entry):
        told.update(piece)
    return told.hexdigest()


def _pieces(entry: Entry) -> Iterable[bytes]:
    if entry.content is None:
        return ()
    return (entry.content,) if isinstance(entry.content, bytes) else entry.content.chunks()


def _texts(said: Specification, lock: Lock, layout: Layout) -> Iterator[Entry]:
    assert said.path is not None, "it was read from a file"
    yield file(f"project/{SPECIFICATION_FILE}", said.path.read_bytes())
    yield file(f"project/{LOCK_FILE}", lock_file_text(lock).encode())
    if said.requirements_path and said.requirements:
        place = os.path.normpath(said.requirements)
        if not _PLACES.fullmatch(f"project/{place}"):
            raise ImageBroken(
                f"{said.requirements} lies outside the folder of {said.path}: it cannot go into a bundle", hint="put it beside stoker.toml"
            )
        yield file(f"project/{place}", said.requirements_path.read_bytes())
    licences = licences_of(layout, lock)
    yield file("sbom.cdx.json", cyclonedx(lock, licences).encode())
    yield file("sbom.spdx.json", spdx(lock, licences).encode())
    yield file("README", _README.format(name=lock.name, python=lock.python, digest=layout.digest).encode())


def _packages(said: Specification, lock: Lock, store: Store) -> Iterator[Entry]:
    wheels = {wheel.sha256: wheel for stack in lock.stacks for wheel in stack.wheels}
    found = {
        **fetch_wheels(list(wheels.values()), store, mirrors=said.mirrors, environ=os.environ),
        **fetch_debs(lock.base.debs, store, mirrors=said.mirrors),
    }
    for sha256, name in _locked(lock):
        yield file(name, FileSource(path=found[sha256], size=found[sha256].stat().st_size))
    name, files = own_wheel()
    yield file(f"wheels/{name}", _zip(files))


def _locked(lock: Lock) -> list[tuple[str, str]]:
    """Return hash and name in the bundle of every package of a lock."""
    wheels = {wheel.sha256: f"wheels/{wheel.file}" for stack in lock.stacks for wheel in stack.wheels}
    debs = {deb.sha256: f"debs/{deb.file.rpartition('/')[2]}" for deb in lock.base.debs}
    return sorted({**wheels, **debs}.items())


def _layout_entries(layout: Layout) -> Iterator[Entry]:
    for name in ("oci-layout", "index.json"):
        yield file(f"layout/{name}", (layout.folder / name).read_bytes())
    digests = {layout.digest, layout.manifest["config"]["digest"], *(layer.blob.digest for layer in layout.layers)}
    for digest in sorted(digests):
        path = layout.blob(digest)
        yield file(f"layout/blobs/sha256/{path.name}", FileSource(path=path, size=path.stat().st_size))


def _zip(files: Mapping[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        # RECORD last, as PEP 427 recommends.
        for path, content in sorted(files.items(), key=lambda row: (row[0].endswith("/RECORD"), row[0])):
            member = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            member.external_attr = 0o100644 << 16
            archive.writestr(member, content)
    return held.getvalue()


def _write(first: Entry, entries: list[Entry], out: BinaryIO) -> None:
    # `bundle.json` sorts before every other name of a bundle but README, which need not be known before it.
    write_tar([first, *entries], out, mtime=FILE_TIME)


def _unpack(bundle: Path, scratch: Path) -> dict[str, Any]:
    """Write the members of a bundle below `scratch`, checked, and return what `bundle.json` says."""
    hint = "have the bundle made, or copied, again"
    try:
        with _opened(bundle, hint) as archive:
            told = _contents(bundle, archive)
            wanted = {path: _Member(sha256=str(row["sha256"]), size=int(row["size"])) for path, row in told["files"].items()}
            for path in wanted:
                if not _PLACES.fullmatch(path):
                    raise UnsafeArchive(f"{bundle} names a file {path!r}, which no bundle holds", hint=hint)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageBroken(f"{bundle}: {_CONTENTS} cannot be read ({type(error).__name__}: {error})", hint=hint) from error
    missing = dict(wanted)
    with _opened(bundle, hint) as archive:
        for member in archive:
            if member.isdir() or member.name == _CONTENTS:
                continue
            if not member.isreg() or member.name not in missing:
                raise UnsafeArchive(f"{bundle} holds {member.name!r}, which is no plain file or not in its {_CONTENTS}, or twice", hint=hint)
            _extract(bundle, archive, member, missing.pop(member.name), scratch / member.name)
    if missing:
        raise ImageBroken(f"{bundle} lacks {min(missing)}{f' and {len(missing) - 1} more files' if len(missing) > 1 else ''}", hint=hint)
    return told


@contextlib.contextmanager
def _opened(bundle: Path, hint: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(bundle, "r:") as archive:
            yield archive
    except (OSError, EOFError) as error:
        if isinstance(error, OSError) and error.filename not in (None, str(bundle), bundle):
            raise
        raise ImageBroken(f"{bundle} cannot be read ({cause(error)})", hint=f"is its name right? Else {hint}") from error
    except tarfile.TarError as error:
        raise ImageBroken(f"{bundle} is no bundle, or is cut short ({error})", hint=hint) from error


def _contents(bundle: Path, archive: tarfile.TarFile) -> dict[str, Any]:
    hint = "name a file that `stoker image build --bundle` wrote"
    member = next((one for one in archive if one.name == _CONTENTS), None)
    content = archive.extractfile(member) if member and member.isreg() and member.size <= _MOST_CONTENTS_BYTES else None
    if content is None:
        raise ImageBroken(f"{bundle} is no bundle: there is no {_CONTENTS} in it", hint=hint)
    told = json.loads(content.read())
    if told["format"] != _FORMAT:
        raise ImageBroken(
            f"{bundle} has format {told['format']}, this Stoker knows {_FORMAT}", hint="use the Stoker that is in it: wheels/stoker-*.whl"
        )
    assert isinstance(told, dict)
    return told


def _extract(bundle: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, wanted: _Member, target: Path) -> None:
    content = archive.extractfile(member)
    assert content is not None, "it is a plain file"
    told = hashlib.sha256()
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as out:
            while piece := content.read(_CHUNK_BYTES):
                told.update(piece)
                out.write(piece)
    if member.size != wanted.size or told.hexdigest() != wanted.sha256:
        raise HashMismatch(f"{member.name} in {bundle} is not the file that was put in: its hash is another one", hint="copy the bundle again")


def _need_same(bundle: Path, lock: Lock, image: Layout, files: Mapping[str, Any]) -> None:
    """The hashes of `bundle.json` were checked; see that they are those of the lock and those by which the image names its blobs."""
    blobs = [layer.blob.digest.removeprefix("sha256:") for layer in image.layers]
    for sha256, name in [*_locked(lock), *((blob, f"layout/blobs/sha256/{blob}") for blob in blobs)]:
        if files.get(name, {}).get("sha256") != sha256:
            raise HashMismatch(f"{name} in {bundle} is not the file that its lock or its image names", hint="have the bundle made again")


def _give(project: Path, folder: Path) -> None:
    """Copy specification, lock and requirements into `folder`; other ones that lie there are not overwritten."""
    contents = {path.relative_to(project): path.read_bytes() for path in sorted(project.rglob("*")) if path.is_file()}
    for name, content in contents.items():
        if os.path.lexists(folder / name) and not ((folder / name).is_file() and (folder / name).read_bytes() == content):
            elsewhere = "run it in an empty folder, or name a file in one with --file"
            raise ImageBroken(f"{folder / name} is there and is another one than that of the bundle", hint=elsewhere)
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, functools.partial(_write_bytes, content))


def _write_bytes(content: bytes, out: BinaryIO) -> None:
    out.write(content)
