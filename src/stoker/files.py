"""Files that are either wholly there or not at all: written to a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from stoker.errors import DiskFull, RunFolderUnwritable


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Have `write` fill `path`, so that a reader, a crash or a full disk ever meets the old file or the new one, whole.

    `durable` also syncs file and folder to the disk before returning, so that a power cut keeps the new file. A device or a pipe is written into.
    Raises DiskFull (no space or quota) and RunFolderUnwritable (read-only or forbidden); the old file is then untouched.
    """
    if is_special(path):
        # A rename would put a plain file in its place: in that of /dev/null, for everybody on the machine, when root does it.
        with writing(path), open(path, "wb") as file:
            write(file)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
            if durable:
                _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_text_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Write `text` as UTF-8 to `path` in one piece; raises as write_atomically."""
    write_atomically(path, lambda file: file.write(text.encode()), durable=durable)


def need_target(path: Path) -> None:
    """Raise RunFolderUnwritable where no file can be written: better before hours of work than after them."""
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        what = "it is a folder" if os.path.isdir(path) else f"there is no folder {path.parent}"
        raise RunFolderUnwritable(f"{path} cannot be written: {what}", hint="name a file in a folder that is there")
    if not is_special(path) and not os.access(path.parent, os.W_OK | os.X_OK):
        raise RunFolderUnwritable(f"{path.parent} cannot be written to", hint="fix its owner or mode, or name a file in another folder")


def cause(error: Exception) -> str:
    """Return why a file could not be read; of the system's refusals without the name, which was said already."""
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)


def is_special(path: Path) -> bool:
    """Whether a path leads to a device, a pipe or a socket, or is a link in a folder of devices, as /dev/stdout is."""
    try:
        plain = stat.S_ISREG(os.stat(path).st_mode) or path.is_dir()
        return not plain or (path.is_symlink() and os.path.realpath(path.parent).startswith(("/dev", "/proc")))
    except OSError:
        return False


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write `path` into Stoker's errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space left on the disk while writing {path}",
                hint=f"free space (`df -h {path.parent}` shows how much there is), then run the same command again",
            ) from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            raise RunFolderUnwritable(f"{path} cannot be written ({error.strerror})", hint="name a file in a folder that is there") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise RunFolderUnwritable(
                f"{path.parent} cannot be written to ({error.strerror})",
                hint="fix its owner or mode, or choose another folder (for runs: with the environment variable STOKER_RUNS)",
            ) from error
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
