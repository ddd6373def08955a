"""A job's log as it grows, to its end: what `tail -f --pid` does, which waits forever for a process that has ended and that nobody collects."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from stoker.launch.local.processes import lives

_LOOK_S = 0.1
_CHUNK_BYTES = 1 << 16
# Not `-m`, for which Python would look for our modules, and for its own, in the person's folder first.
_CODE = "import sys; sys.path[:] = filter(None, sys.path); from stoker.launch.local.following import main; main(sys.argv[1:])"


def words(log: Path, lines: int | None, process: tuple[int, int] | None) -> tuple[str, ...]:
    """Return the program that shows the last `lines` of a log (None: all), and what comes until this process (number, start) has ended."""
    pid, start = process or (0, 0)
    return (sys.executable, "-c", _CODE, str(log), "all" if lines is None else str(lines), str(pid), str(start))


def main(arguments: Sequence[str]) -> None:
    """Show a log on stdout."""
    path, lines, pid, start = arguments
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError, FileNotFoundError), open(path, "rb") as log:
        if lines != "all":
            _to_last(log, int(lines))
        running = True
        while running:
            # Looked at before reading: what comes after the last look is read once more.
            running = lives(int(pid), int(start))
            while chunk := log.read(_CHUNK_BYTES):
                _write(chunk)
            if running:
                time.sleep(_LOOK_S)


def _to_last(log: BinaryIO, lines: int) -> None:
    """Go back from the end to where the last lines begin."""
    end = place = log.seek(0, os.SEEK_END)
    kept = b""
    while place and kept.count(b"\n", 0, -1) < lines:
        place = max(0, place - _CHUNK_BYTES)
        log.seek(place)
        kept = log.read(end - place)
    shown = kept.splitlines(keepends=True)[-lines:] if lines else []
    log.seek(end - sum(map(len, shown)))


def _write(chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(1, chunk) :]
