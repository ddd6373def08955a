"""Locks between Stoker processes: empty files in the cache folder, which are let go when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from stoker import settings


@contextlib.contextmanager
def held(kind: str, name: str, *, wait: bool) -> Iterator[bool]:
    """Hold the lock `name` of a kind (`ports`, `names`) until the block ends; without `wait`, yield whether it was to be had.

    Where no lock file can be made or locked (a full disk, a network disk) there is no agreement, and it counts as had: engines refuse the second
    of one name or port themselves.
    """
    descriptor = _opened(settings.cache_folder() / kind / name)
    try:
        yield descriptor is None or _locked(descriptor, wait)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _opened(path: Path) -> int | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None


def _locked(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
