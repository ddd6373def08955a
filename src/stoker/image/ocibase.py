"""An OCI image as the base, by digest: its layers are taken as they are, and unpacked once to run its Python and its compiler."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stoker.errors import ImageBroken, SpecificationBroken
from stoker.image import accounts
from stoker.image.compression import Blob
from stoker.image.entries import Entry, file, folder
from stoker.image.hashes import sha256_of
from stoker.image.lock import FILE_TIME, Base
from stoker.image.oci import Layer, Layout, read_layout
from stoker.image.output import unpacked
from stoker.image.root import Root
from stoker.image.store import Store
from stoker.image.unpacking import place, unpack_layers

_REFERENCE = re.compile(r"oci:(.+)@(sha256:[0-9a-f]{64})")
_ANSWER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class OciBase:
    """An image to build on."""

    root: Root
    blobs: tuple[Blob, ...]
    """Its layers, the lowest first."""
    additions: tuple[Entry, ...]
    """What has to go on top: the user `stoker`, its home, `/workspace`."""
    config: dict[str, Any]
    """`config` of its configuration."""
    python_full: str
    """As `3.13.5`."""


def lock_oci_base(reference: str, python: str, store: Store | None = None) -> tuple[Base, str]:
    """Return the base of a lock for `oci:PATH@sha256:...`, and its Python as `3.13.5`. Raises SpecificationBroken, ImageBroken."""
    found = read_oci_base(reference, store or Store(), python=python, shell="/bin/bash")
    return Base(kind="oci", suite=None, digest=_parts(reference)[1], debs=()), found.python_full


def read_oci_base(reference: str, store: Store, *, python: str, shell: str, digest: str | None = None) -> OciBase:
    """Read the image, check every hash, and unpack it. `digest` is that of the lock.

    Raises SpecificationBroken (no reference, another digest, no such Python in it), ImageBroken, UnsafeArchive, DiskFull.
    """
    path, named = _parts(reference)
    if digest not in (None, named):
        raise SpecificationBroken(f"the lock stands on {digest}, stoker.toml names {named}", hint="run `stoker image lock`")
    layout = read_layout(path)
    if layout.digest != named:
        raise SpecificationBroken(
            f"{path} holds the image {layout.digest}, not {named}", hint="write its digest into `base`, or fetch the image that is meant"
        )
    # Each time: the layers go into the image as they are, also where the root was unpacked long ago.
    for layer in layout.layers:
        _check(layer.blob)
    root = Root(folder=_unpacked(layout, store), created=FILE_TIME)
    version = root.run([f"/usr/bin/python{python}", "-c", "import platform; print(platform.python_version())"], timeout_s=_ANSWER_S)
    if not version.ok:
        raise SpecificationBroken(f"{path} has no /usr/bin/python{python}", hint="name the Python that it has in /usr/bin, or another image")
    return OciBase(
        root=root,
        blobs=tuple(layer.blob for layer in layout.layers),
        additions=_additions(root, shell),
        config=dict(layout.config.get("config") or {}),
        python_full=version.out.decode().strip(),
    )


def _parts(reference: str) -> tuple[Path, str]:
    found = _REFERENCE.fullmatch(reference)
    if not found:
        raise SpecificationBroken(f"{reference!r} names no image by digest", hint='write base = "oci:PATH@sha256:...", PATH being an OCI layout')
    return Path(found[1]).expanduser(), found[2]


def _unpacked(layout: Layout, store: Store) -> Path:
    """Return the folder of the unpacked image, made now or earlier."""
    key = hashlib.sha256(f"oci base {layout.digest}".encode()).hexdigest()
    made = store.root(key)
    if made is None:
        with store.new_root(key) as new:
            if store.root(key) is None:
                (new / "root").mkdir()
                unpack_layers(_layers(layout.layers), new / "root")
                for name in ("tmp", "mnt", "dev", "proc"):
                    (new / "root" / name).mkdir(exist_ok=True)
        made = store.root(key)
    assert made is not None
    return made / "root"


def _check(blob: Blob) -> None:
    """Raise ImageBroken when a layer is not the one that the image names."""
    if f"sha256:{sha256_of(blob.path)}" != blob.digest:
        raise ImageBroken(f"{blob.path} is not the layer that its image names: its hash is another one", hint="fetch the base image again")


@contextlib.contextmanager
def _tar(layer: Layer) -> Iterator[BinaryIO]:
    if layer.blob.media_type.endswith(".tar"):
        with open(layer.blob.path, "rb") as content:
            yield content
    else:
        with unpacked(layer) as content:
            yield content


def _layers(layers: tuple[Layer, ...]) -> Iterator[BinaryIO]:
    """Yield the layers' tars, one open at a time."""
    for layer in layers:
        with _tar(layer) as content:
            yield content


def _additions(root: Root, shell: str) -> tuple[Entry, ...]:
    files: dict[str, bytes] = {}
    for path in accounts.FILES:
        # A link in the image must not lead to a file of this machine.
        real = place(root.folder, path)
        if real.is_file() and not real.is_symlink():
            files[path] = real.read_bytes()
    new = accounts.with_account({**dict.fromkeys(accounts.NEEDED, b""), **files}, created=root.created, shell=shell)
    modes = {"etc/shadow": 0o640, "etc/gshadow": 0o640}
    return (
        *(file(path, content, mode=modes.get(path, 0o644)) for path, content in sorted(new.items())),
        *(folder(path, uid=accounts.NUMBER, gid=accounts.NUMBER) for path in (accounts.HOME, accounts.WORKSPACE)),
    )
