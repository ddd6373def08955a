"""Folders for the moment: gone afterwards, and where their process was killed, at the next call that makes one of that name."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stoker.image.removal import remove


@contextlib.contextmanager
def temporary_folder(what: str) -> Iterator[Path]:
    """Yield an empty folder `stoker-WHAT-...` among the system's temporary ones, closed to others."""
    prefix = f"stoker-{what}."
    _sweep(Path(tempfile.gettempdir()), prefix)
    folder, guard = _new(prefix)
    try:
        yield folder
    finally:
        remove(folder)
        os.close(guard)


def _new(prefix: str) -> tuple[Path, int]:
    """Return a folder and the descriptor that holds its lock: the lock ends with the process, and is not handed on to programs that it starts."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        # Until it is held, whoever sweeps may take it.
        with contextlib.suppress(FileNotFoundError):
            guard = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there either
                fcntl.flock(guard, fcntl.LOCK_SH)
            if folder.is_dir():
                return folder, guard
            os.close(guard)


def _sweep(place: Path, prefix: str) -> None:
    """Remove what killed processes of this user left: the folders that nobody holds."""
    for left in place.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            guard = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if _is_ours(guard):
                    fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(left)
            finally:
                os.close(guard)


def _is_ours(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
