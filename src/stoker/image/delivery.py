"""A file that a person asked for by name: written whole or not at all, and into `/dev/stdout` or a pipe where one is named."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from stoker.errors import RunFolderUnwritable
from stoker.files import write_atomically, writing


def need_target(path: Path) -> None:
    """Raise RunFolderUnwritable where no file can be written: better before hours of work than after them."""
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        what = "it is a folder" if os.path.isdir(path) else f"there is no folder {path.parent}"
        raise RunFolderUnwritable(f"{path} cannot be written: {what}", hint="name a file in a folder that is there")
    if not _is_special(path) and not os.access(path.parent, os.W_OK | os.X_OK):
        raise RunFolderUnwritable(f"{path.parent} cannot be written to", hint="fix its owner or mode, or name a file in another folder")


def deliver(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a file. Raises DiskFull and RunFolderUnwritable; a file that was there is then untouched.

    A rename would put a plain file in the place of a device: of `/dev/null`, for everybody on the machine, when root does it.
    """
    need_target(path)
    if not _is_special(path):
        write_atomically(path, write)
        return
    with writing(path), open(path, "wb") as file:
        write(file)


def _is_special(path: Path) -> bool:
    """Whether it leads to a device, a pipe or a socket, or is a link in a folder of devices, as /dev/stdout is."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode) or (path.is_symlink() and os.path.realpath(path.parent).startswith(("/dev", "/proc")))
    except OSError:
        return False
