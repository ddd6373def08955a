"""The base of an image: a Debian root made of the locked packages, or the layers of an OCI image by digest; the same bytes whoever makes it.

mmdebstrap installs the packages (bootstrap.py), and what it leaves is set straight (basetar.py): times, leftovers, setuid and setgid bits, the user
`stoker`. Recommended packages are not installed, and apt is not in it. Left out, by dpkg's own `path-exclude`, which stays in force in the image:
manuals, info pages, translations and documentation (not the copyright files), and of the compilers what only -static, -flto and -fsanitize need.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker.errors import BuildFailed, DiskFull
from stoker.files import writing
from stoker.image import rootrecord
from stoker.image.basetar import DPKG_RULES, settle
from stoker.image.bootstrap import bootstrap
from stoker.image.compression import Blob
from stoker.image.debian import fetch_debs
from stoker.image.entries import Entry
from stoker.image.lock import FILE_TIME, Lock
from stoker.image.ocibase import read_oci_base
from stoker.image.root import Root
from stoker.image.specification import Mirrors
from stoker.image.store import Store
from stoker.shell import run

# Another recipe makes other bytes from the same packages: count it up with every change of bootstrap.py, basetar.py or accounts.py that does.
_RECIPE = 1
_SLOW_S = 600.0


@dataclass(frozen=True, kw_only=True)
class BaseLayer:
    """What the layers of the packages lie on."""

    key: str
    """Of what it is made from; the compressed layer's key in the store may be built on it."""
    tar: Path | None
    """The layer, not compressed; None on an OCI base."""
    root: Root
    """The same, unpacked, to run programs of the image in."""
    blobs: tuple[Blob, ...] = ()
    """The layers of an OCI base, the lowest first; empty on Debian."""
    additions: tuple[Entry, ...] = ()
    """What has to go on top of an OCI base in a layer of ours: the user, `/workspace`; empty on Debian."""
    config: dict[str, Any] = field(default_factory=dict)
    """`config` of an OCI base's configuration (its environment and labels); empty on Debian."""


def base_key(lock: Lock) -> str:
    """Return the key of the base layer: the packages and this recipe, but not the moment of the lock."""
    made_from = {
        "recipe": _RECIPE,
        "rules": DPKG_RULES,
        "kind": lock.base.kind,
        "digest": lock.base.digest,
        "debs": sorted(deb.sha256 for deb in lock.base.debs),
        "created": FILE_TIME,
        "shell": login_shell(lock),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def make_base(
    lock: Lock, store: Store, *, mirrors: Mirrors, base: str | None = None, while_waiting: Callable[[], object] = lambda: None
) -> BaseLayer:
    """Return the base of a lock, made now or earlier; `base` is the specification's `oci:PATH@sha256:...`.

    `while_waiting` is called several times a second while mmdebstrap works; what it raises ends that and is raised here.

    Raises BuildFailed (mmdebstrap's own words, or what this machine lacks for it), PackageGone, HashMismatch, DownloadFailed, DiskFull, ImageBroken.
    """
    key = base_key(lock)
    if lock.base.kind == "oci":
        found = read_oci_base(base or "", store, python=lock.python, shell=login_shell(lock), digest=lock.base.digest)
        return BaseLayer(key=key, tar=None, root=found.root, blobs=found.blobs, additions=found.additions, config=found.config)
    folder = store.root(key)
    if folder is not None and not rootrecord.is_sound(folder):
        store.drop_root(key)
        folder = None
    if folder is None:
        folder = _make_debian(key, lock, store, mirrors, while_waiting)
    return BaseLayer(key=key, tar=folder / "base.tar", root=Root(folder=folder / "root", created=FILE_TIME))


def _make_debian(key: str, lock: Lock, store: Store, mirrors: Mirrors, while_waiting: Callable[[], object]) -> Path:
    paths = fetch_debs(lock.base.debs, store, mirrors=mirrors)
    with store.new_root(key) as folder:
        if (made := store.root(key)) is not None:  # by another build, for which we waited
            return made
        with store.scratch() as scratch:
            raw = scratch / "raw.tar"
            with open(raw, "wb") as out:
                bootstrap(lock.base.debs, paths, out, created=FILE_TIME, while_waiting=while_waiting)
            with writing(folder), open(folder / "base.tar", "wb") as out:
                settle(raw, out, created=FILE_TIME, shell=login_shell(lock))
        _unpack(folder / "base.tar", folder / "root")
        with writing(folder):
            rootrecord.remember(folder)
    made = store.root(key)
    if made is None:
        raise BuildFailed("the base vanished from the cache while it was made", hint="run the same command again")
    return made


def _unpack(tar: Path, folder: Path) -> None:
    """Unpack the tar as this user's files: what runs in it sees them as root's."""
    folder.mkdir()
    done = run(["tar", "-x", "-f", str(tar), "-C", str(folder), "--no-same-owner", "--preserve-permissions"], timeout_s=_SLOW_S)
    if "No space left" in done.err:
        raise DiskFull(f"no space left on the disk while unpacking the base into {folder.parent}", hint="free space, then run the same command again")
    if not done.ok:
        raise BuildFailed(f"the base cannot be unpacked into {folder.parent}: {done.err.strip()[-500:]}", hint="run the same command again")


def login_shell(lock: Lock) -> str:
    """Return the shell of the image's account."""
    return "/bin/zsh" if "dev" in lock.variants else "/bin/bash"
