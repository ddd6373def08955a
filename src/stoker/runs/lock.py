"""The lock of a run folder: while a training holds it, nobody else writes there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
import weakref
from pathlib import Path

from stoker.errors import RunBusy
from stoker.files import writing

_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)
_PATIENCE_S = 0.5
"""A listing (`stoker runs`) that looks whether a lock is held takes it for microseconds: a training waits that long, then believes it."""

_held: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """A file that holds `pid host` and an advisory flock. The system lets go of the flock when the process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def mine(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock. Raises RunBusy with the holder's pid and host; DiskFull or RunFolderUnwritable when the file cannot be written."""
        if self.mine:
            return
        with writing(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _flock(descriptor, fcntl.LOCK_EX, _PATIENCE_S):
                raise RunBusy(
                    f"another training writes into {self.path.parent} now: {_told(descriptor)}",
                    hint="wait for it, stop it, or start a new run (without --resume, with another --run NAME)",
                )
            with writing(self.path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Let go. The file stays: removing it would let two others lock two different files of the same name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self)

    def holder(self) -> str | None:
        """Return who holds the lock ("process 123 on host"), or None when nobody does. Writes nothing."""
        if self.mine:
            return f"process {os.getpid()} on {socket.gethostname()}"
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError:
            return None
        try:
            return None if _flock(descriptor, fcntl.LOCK_SH, 0.0) else _told(descriptor)
        finally:
            os.close(descriptor)


def _flock(descriptor: int, kind: int, patience_s: float) -> bool:
    """Try to lock for `patience_s`; a file system without locks (some network mounts) asks whether the written pid lives."""
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return not _alive(descriptor)
            raise


def _written(descriptor: int) -> tuple[int, str] | None:
    words = os.pread(descriptor, 4096, 0).decode(errors="replace").split()
    return (int(words[0]), words[1]) if len(words) == 2 and words[0].isdecimal() else None


def _told(descriptor: int) -> str:
    written = _written(descriptor)
    return f"process {written[0]} on {written[1]}" if written else "a process that has not yet written its number"


def _alive(descriptor: int) -> bool:
    written = _written(descriptor)
    if written is None or written[0] == os.getpid():
        return False
    if written[1] != socket.gethostname():
        return True  # cannot be asked from here: rather refuse than have two write
    with contextlib.suppress(PermissionError):
        try:
            os.kill(written[0], 0)
        except ProcessLookupError:
            return False
    return True


def _forget_in_child() -> None:
    """Close the copies that a fork made: a worker that outlives its killed parent must not keep the run locked."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)
