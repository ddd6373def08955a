"""The stoker.lock of a project for `--engine local`: read by the room `image`, used by the room `launch`, which does not know it."""

from __future__ import annotations

import os
from pathlib import Path

from stoker.environment.installer import Installer
from stoker.errors import LockMissing
from stoker.image.lock import LOCK_FILE, Lock, read_lock
from stoker.image.own import own
from stoker.image.specification import SPECIFICATION_FILE, Mirrors, Specification, read_specification
from stoker.image.uv import find_uv
from stoker.image.wheelhouse import Stored, stored_own, stored_wheels
from stoker.launch.local.locked import Locked, LockedWheel
from stoker.start import Image, ImageStack


def locked_of(project: Path | None) -> Locked | None:
    """Return the lock of a project, or None where there is none. Raises LockBroken, LockOutdated (another format), SpecificationBroken."""
    folder = project or Path.cwd()
    try:
        lock = read_lock(folder / LOCK_FILE)
    except LockMissing:
        return None
    specification = _specification(folder / SPECIFICATION_FILE)
    return Locked(
        digest=lock.digest,
        own=own().sha256,
        python=lock.python,
        python_full=lock.python_full,
        image=_image(lock),
        installer=_installer,
        wheels=lambda stack: _wheels(lock, stack, specification.mirrors if specification else Mirrors()),
        own_wheel=lambda: _wheel(stored_own()),
        notes=_notes(lock, specification),
    )


def _image(lock: Lock) -> Image:
    stacks = tuple(ImageStack(name=stack.name, torch=stack.torch, cuda=stack.cuda) for stack in lock.stacks)
    return Image(name=lock.name, machine=lock.machine, variants=lock.variants, stacks=stacks)


def _specification(path: Path) -> Specification | None:
    """Return what a lock was made from; a lock alone is enough for an environment."""
    return read_specification(path) if path.exists() else None


def _wheels(lock: Lock, stack: str, mirrors: Mirrors) -> tuple[LockedWheel, ...]:
    return tuple(map(_wheel, stored_wheels(lock, stack, mirrors=mirrors, environ=os.environ)))


def _wheel(one: Stored) -> LockedWheel:
    return LockedWheel(name=one.name, version=one.version, file=one.file, sha256=one.sha256, path=one.path)


def _installer() -> Installer:
    uv = find_uv(os.environ)
    return Installer(program=uv.program, variables=dict(uv.variables))


def _notes(lock: Lock, specification: Specification | None) -> tuple[str, ...]:
    if specification is None or specification.digest == lock.specification:
        return ()
    return (f"{SPECIFICATION_FILE} has changed since {LOCK_FILE} was made, which is what counts: `stoker image lock` makes it anew",)
