"""The layers of an image unpacked into a folder, as container engines do: deletions obeyed, and no path or link that leads out of the folder."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stoker.errors import ImageBroken, UnsafeArchive
from stoker.files import writing

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_THE_DISKS_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_MOST_LINKS = 40
"""As Linux: a path with more links than that leads nowhere."""


def unpack_layers(tars: Iterable[Any], folder: Path) -> None:
    """Unpack layers, the lowest first, into an empty folder. Owners are kept where this user may set them.

    Devices are left out, and so are setuid and setgid bits: the folder lies on the host.

    Raises ImageBroken for what is no tar, UnsafeArchive for a path that leads out, DiskFull.
    """
    for stream in tars:
        with writing(folder):
            _unpack_layer(stream, folder)


def _unpack_layer(stream: Any, root: Path) -> None:
    new: set[str] = set()
    folders: list[tuple[Path, tarfile.TarInfo]] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape") as tar:
            for member in tar:
                _unpack(tar, member, root, new, folders)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _THE_DISKS_FAULT:
            raise
        raise ImageBroken(f"a layer cannot be unpacked: {error}", hint="build or fetch the image again") from error
    # Last, and the deepest first: a folder without w could not be filled.
    for path, member in sorted(folders, key=lambda one: len(one[0].parts), reverse=True):
        if path.is_dir() and not path.is_symlink():
            _set_rights(path, member)


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, new: set[str], folders: list[tuple[Path, tarfile.TarInfo]]) -> None:
    path = place(root, member.name)
    if path == root:
        return
    if path.name == _OPAQUE:
        _empty(path.parent, root, new)
        return
    if path.name.startswith(_WHITEOUT):
        _remove(path.with_name(path.name[len(_WHITEOUT) :]))
        return
    new.add(str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.isdir():
        if path.is_symlink() or not path.is_dir():
            _remove(path)
            path.mkdir()
        folders.append((path, member))
        return
    _remove(path)
    if member.issym():
        os.symlink(member.linkname, path)
        _set_owner(path, member)
    elif member.islnk():
        os.link(place(root, member.linkname), path, follow_symlinks=False)
    elif member.isreg():
        _write(tar, member, path)


def place(root: Path, name: str) -> Path:
    """Return where a path of an image lies below `root`, with links among its folders followed as if `root` were `/`. Raises UnsafeArchive."""
    if ".." in name.split("/") or "\x00" in name:
        raise UnsafeArchive(f"a layer holds the path {name!r}, which lies outside of the image", hint="do not use this image")
    done, left, links = "", [part for part in name.split("/") if part not in ("", ".")], 0
    while len(left) > 1:
        part = left.pop(0)
        done = posixpath.normpath(posixpath.join("/", done, part)).lstrip("/")
        here = root / done
        if here.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise UnsafeArchive(f"the path {name!r} of a layer goes round in links", hint="do not use this image")
            target = os.readlink(here)
            left = [part for part in target.split("/") if part not in ("", ".")] + left
            done = "" if target.startswith("/") else posixpath.dirname(done)
    return root / done / left[0] if left else root


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None
    # O_EXCL: what was there is removed, and nothing is followed.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    _set_rights(path, member)


def _set_rights(path: Path, member: tarfile.TarInfo) -> None:
    _set_owner(path, member)
    path.chmod(member.mode & 0o1777)


def _set_owner(path: Path, member: tarfile.TarInfo) -> None:
    with contextlib.suppress(PermissionError, OSError):
        os.chown(path, member.uid, member.gid, follow_symlinks=False)


def _empty(folder: Path, root: Path, new: set[str]) -> None:
    """Remove what lower layers put into a folder, and keep what this one did."""
    if not folder.is_dir():
        return
    for path in list(folder.iterdir()):
        if str(path) not in new and not any(other.startswith(f"{path}/") for other in new):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
