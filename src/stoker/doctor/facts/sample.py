"""A sample of a data set's files, read once from the disk to see how fast it is."""

from __future__ import annotations

import os
import random
import stat
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

_COUNT_S = 1.0
_READ_S = 1.5
_MOST_BYTES = 256 * 1024**2
_PIECE_BYTES = 8 * 1024**2
_MOST_PIECES = 4096
_READERS = 8


@dataclass(kw_only=True)
class Count:
    """The files below a folder, as far as they were counted in the time there is."""

    files: int = 0
    total_bytes: int = 0
    complete: bool = False
    sample: list[tuple[str, int]] = field(default_factory=list)
    """Path and size of files drawn evenly from all that were seen."""


@dataclass(kw_only=True)
class Reading:
    """What reading the sample gave."""

    read_bytes: int = 0
    read_files: int = 0
    read_s: float = 0.0
    dropped: bool = True
    """Whether the kernel could be asked to forget every file first."""
    refusal: str | None = None
    """The first file that could not be read, and why."""


def count(path: Path, *, limit_s: float = _COUNT_S) -> Count:
    """Count the files of a folder (or one file) for at most `limit_s`. Raises OSError when the path itself cannot be looked at."""
    found, draws, end = Count(), random.Random(0), time.monotonic() + limit_s
    if path.is_file():
        size = path.stat().st_size
        return Count(files=1, total_bytes=size, complete=True, sample=[(str(path), size)] * min(_MOST_PIECES, 1 + size // _PIECE_BYTES))
    os.listdir(path)  # raises what is wrong with the folder
    for folder, _, names in os.walk(path):
        for name in names:
            if time.monotonic() > end:
                return found
            _add(found, os.path.join(folder, name), draws)
    found.complete = True
    return found


def _add(found: Count, file: str, draws: random.Random) -> None:
    """Count one file and draw it into the sample with the same chance as every other (reservoir sampling)."""
    try:
        status = os.stat(file)
    except OSError:
        return
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
        return
    size = status.st_size
    found.files += 1
    found.total_bytes += size
    if len(found.sample) < _MOST_PIECES:
        found.sample.append((file, size))
    elif (place := draws.randrange(found.files)) < _MOST_PIECES:
        found.sample[place] = (file, size)


def read_sample(sample: list[tuple[str, int]], *, limit_s: float = _READ_S) -> Reading:
    """Read pieces of the files, 8 at a time as the workers of a loader would, until the time or 256 MB are over."""
    pieces = [(file, _start(size, number)) for number, (file, size) in enumerate(sample) if size > 0]
    random.Random(0).shuffle(pieces)
    reading, lock, end = Reading(), threading.Lock(), time.monotonic() + limit_s

    def work() -> None:
        while time.monotonic() < end:
            with lock:
                if not pieces or reading.read_bytes >= _MOST_BYTES:
                    return
                file, start = pieces.pop()
            try:
                size, dropped = _read_piece(file, start, end)
            except OSError as error:
                with lock:
                    reading.refusal = reading.refusal or f"{file}: {error.strerror or error}"
                continue
            with lock:
                reading.read_bytes += size
                reading.read_files += 1
                reading.dropped &= dropped

    begun = time.monotonic()
    threads = [threading.Thread(target=work, daemon=True) for _ in range(_READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reading.read_s = time.monotonic() - begun
    return reading


def readers() -> int:
    """Return how many threads read at once."""
    return _READERS


def _start(size: int, number: int) -> int:
    """Return where to begin in a file: anywhere in one that is larger than a piece."""
    return random.Random(number).randrange(size - _PIECE_BYTES) if size > _PIECE_BYTES else 0


def _read_piece(file: str, start: int, end: float) -> tuple[int, bool]:
    """Read one piece; returns its bytes and whether the kernel was asked to forget it before."""
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        dropped = _forget(descriptor, start)
        size = 0
        while size < _PIECE_BYTES and time.monotonic() < end:
            block = os.pread(descriptor, 2**20, start + size)
            if not block:
                break
            size += len(block)
        return size, dropped
    finally:
        os.close(descriptor)


def _forget(descriptor: int, start: int) -> bool:
    try:
        os.posix_fadvise(descriptor, start, _PIECE_BYTES, os.POSIX_FADV_DONTNEED)
    except (AttributeError, OSError):
        return False
    return True
