"""The pipeline: from a lock to an OCI layout, taking from the store whatever was made before.

Debs and wheels are fetched at the same time; the base is made as soon as the debs are there, the layer of a wheel as soon as base and wheel are
(the image's own Python compiles its bytecode). What a layer is made of decides its key in the store: where all keys are known, nothing is
fetched, opened or hashed. The configuration comes last and knows no clock: the same lock is the same manifest.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import BuildFailed, ImageBroken, LockOutdated, UsageError
from stoker.image import oci
from stoker.image.commit import commit_labels
from stoker.image.compression import MEDIA_TYPES, Compression, compressor_name
from stoker.image.configuration import created_text, image_configuration
from stoker.image.lock import LOCK_FILE, Lock, read_lock
from stoker.image.oci import Layer, write_layout
from stoker.image.own import own
from stoker.image.pipeline import Pipeline
from stoker.image.progress import Progress
from stoker.image.rootfs import command, init
from stoker.image.specification import Specification, read_specification
from stoker.image.store import Store


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be built."""

    specification: Path
    """The stoker.toml; the stoker.lock lies beside it."""
    layout: Path | None = None
    """Where the layout goes; None: `NAME.oci` beside the stoker.toml."""
    variants: tuple[str, ...] = ()
    """A part of the lock's variants; empty: all of them."""
    compression: Compression = "zstd"
    git: bool = False
    """Whether commit and origin of the stoker.lock become labels: then the digest depends on them too."""

    def __post_init__(self) -> None:
        if self.compression not in MEDIA_TYPES:
            raise UsageError(f"there is no compression {self.compression!r}", hint=f"there are: {', '.join(MEDIA_TYPES)}")


@dataclass(frozen=True, kw_only=True)
class Built:
    """What was built."""

    lock: Lock
    """The part of the lock that is in it."""
    layout: Path
    digest: str
    """Of the manifest."""
    layers: tuple[Layer, ...]
    """The lowest first."""
    made: int
    """How many of them were made anew; the others came from the store."""
    seconds: float


def build(order: Order) -> Built:
    """Build the image of a lock.

    Raises LockMissing, LockBroken and LockOutdated before anything is fetched; then DownloadFailed, PackageGone, HashMismatch, UnsafeArchive,
    BuildFailed, DiskFull. What was finished by then is kept in the store, and the layout is as it was before.
    """
    begun = time.monotonic()
    specification = read_specification(order.specification)
    whole = read_lock(order.specification.with_name(LOCK_FILE))
    need_current(specification, whole)
    lock = whole.part(order.variants) if order.variants else whole
    labels = commit_labels(order.specification.with_name(LOCK_FILE)) if order.git else {}
    layout = order.layout or layout_of(order.specification, lock)
    oci.need_place(layout)
    store = Store()
    with store.using():
        with Progress().shown() as progress:
            found = Pipeline(lock=lock, specification=specification, store=store, compression=order.compression, progress=progress).layers()
        config = image_configuration(lock, found.layers, init=init(lock), command=command(lock), labels=labels, base=found.base_config)
        annotations = {"org.opencontainers.image.created": created_text(lock), oci.LOCK: lock.digest}
        digest = write_layout(layout, found.layers, config, name=f"{lock.name}:latest", annotations=annotations)
    return Built(lock=lock, layout=layout, digest=digest, layers=found.layers, made=found.made, seconds=time.monotonic() - begun)


def layout_of(specification: Path, lock: Lock) -> Path:
    """Return where the layout goes unless another place was named: `trainer.oci` for `team/trainer`."""
    return specification.parent / f"{lock.name.rpartition('/')[2]}.oci"


def built_layout(specification: Path, lock: Lock) -> Path:
    """Return the folder of the layout beside a specification. Raises ImageBroken when nothing was built there."""
    layout = layout_of(specification, lock)
    if not os.path.lexists(layout):
        raise ImageBroken(f"there is no {layout}: the image of this lock was not built here", hint="`stoker image build` builds it; or name an image")
    return layout


def need_current(specification: Specification, lock: Lock) -> None:
    """Raise LockOutdated when a lock is not that of this specification, this Stoker and this compressor; BuildFailed for another processor."""
    hint = "run `stoker image lock`: it keeps the versions that are locked"
    if specification.digest != lock.specification:
        raise LockOutdated(f"{specification.path} has changed since its stoker.lock was made", hint=hint)
    mine = own()
    if mine != lock.own:
        other = f"Stoker {lock.own.version}" if lock.own.version != mine.version else f"another build of Stoker {mine.version}"
        raise LockOutdated(f"the stoker.lock was made by {other}, and Stoker itself is part of the image", hint=f"{hint}; or use that Stoker")
    if lock.compression != compressor_name():
        raise LockOutdated(f"the stoker.lock was made for {lock.compression}, here is {compressor_name()}: the layers would differ", hint=hint)
    if platform.machine() != lock.machine:
        raise BuildFailed(f"the stoker.lock is for {lock.machine}, this machine is {platform.machine()}", hint="build it on a machine of that kind")
