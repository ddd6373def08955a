"""The version that an engine's program told, remembered for the very file that it is: to ask again takes 30 ms of every start."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from stoker import settings
from stoker.errors import StokerError
from stoker.files import write_text_atomically

_ELF = b"\x7fELF"
_VERSION = r"\d{1,9}(?:\.\d{1,9})+"
_SETTLED_S = 2.0
"""A file that was written to just now may be written to again within one tick of its clock."""


def identity(program: str) -> str | None:
    """Return what tells a program's file from every other one, and from itself before an update; None: its version has to be asked each time.

    Only of a binary: a script may call another program tomorrow. Raises nothing.
    """
    try:
        with open(program, "rb") as file:
            status = os.fstat(file.fileno())
            binary = file.read(len(_ELF)) == _ELF
    except OSError:
        return None
    if not binary or time.time() - status.st_ctime < _SETTLED_S:
        return None
    # The time of change cannot be set by hand, as that of writing is by every installer.
    return f"{program!r} {status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def remembered(name: str, file: str | None) -> tuple[int, ...]:
    """Return the version that an engine's program told as this file (its `identity`), empty where it has to be asked. Raises nothing."""
    if file is None:
        return ()
    try:
        lines = _path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ()
    if len(lines) != 2 or lines[0] != file or not re.fullmatch(_VERSION, lines[1]):
        return ()
    return tuple(int(part) for part in lines[1].split("."))


def remember(name: str, file: str | None, version: tuple[int, ...]) -> None:
    """Remember what an engine's program told. `file`: its `identity` before it was asked. Raises nothing."""
    if file is None or not version:
        return
    with contextlib.suppress(OSError, StokerError):
        path = _path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, f"{file}\n{'.'.join(map(str, version))}\n", durable=False)


def _path(name: str) -> Path:
    return settings.cache_folder() / "engines" / name
