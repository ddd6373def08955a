"""What a bill of materials is made of: a lock alone, or an image: then with the licences that are told in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import ImageBroken
from stoker.image import oci
from stoker.image.build import layout_of
from stoker.image.checks.contents import read_contents
from stoker.image.checks.subject import lock_inside, lock_path_of, open_layers, read_subject
from stoker.image.configuration import VARIANTS
from stoker.image.licences import TEXTS, Licences, licences_in
from stoker.image.lock import LOCK_FILE, Lock, read_lock
from stoker.image.oci import Layout, read_layout


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a bill of materials is made of."""

    lock: Lock
    """Of an image: the part that is in it."""
    licences: Licences | None
    """None: only a lock was there, which knows none."""
    layout: Path | None = None
    """The layout that was taken because it is the image of the lock."""


def describe(name: str | None) -> Described:
    """Return what is known of a lock's file, a layout or an engine's image; None and a project's folder: the image built there, else its lock.

    Raises as `read_lock` and `read_subject`.
    """
    project = Path(name) if name and os.path.isfile(Path(name) / LOCK_FILE) else Path() if name is None else None
    if project is not None:
        return _of_project(project / LOCK_FILE)
    assert name is not None
    if path := lock_path_of(name):
        return Described(lock=read_lock(path), licences=None)
    subject = read_subject(name, None, only=TEXTS)
    lock = lock_inside(subject)
    return Described(lock=lock, licences=licences_in(lock, subject.contents))


def licences_of(layout: Layout, lock: Lock) -> Licences:
    """Return the licences that are told in the image of a lock. Raises ImageBroken."""
    return licences_in(lock, read_contents(open_layers(layout), only=TEXTS))


def _of_project(path: Path) -> Described:
    lock = read_lock(path)
    try:
        layout = read_layout(layout_of(path, lock))
        part = lock.part(str(layout.config["config"]["Labels"][VARIANTS]).split())
        if layout.annotations.get(oci.LOCK) != part.digest:
            return Described(lock=lock, licences=None)
    except (ImageBroken, KeyError, TypeError):
        return Described(lock=lock, licences=None)
    return Described(lock=part, licences=licences_of(layout, part), layout=layout.folder)
