"""Locks between processes and threads: a file that one holds, and that is free again when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from stoker import console


@contextlib.contextmanager
def held(path: Path, *, shared: bool = False, wait: bool = True, says: str = "") -> Iterator[bool]:
    """Hold the lock of a file and yield whether we do (always, unless `wait` is False)."""
    descriptor = None
    try:
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _opened(path)
            if not _flock(descriptor, shared, wait, says):
                yield False
                return
            # Whoever held it may have removed it: then this is the lock of nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    break
            os.close(descriptor)
            descriptor = None
        yield True
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError as refusal:
        # Another user's, in a cache that is shared: reading is enough to lock it.
        try:
            return os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise refusal from None


def _flock(descriptor: int, shared: bool, wait: bool, says: str) -> bool:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            return False
        if says:
            console.say(says)
        fcntl.flock(descriptor, kind)
    except OSError:
        # A file system without locks.
        return wait
    return True
