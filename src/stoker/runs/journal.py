"""Files that grow: a piece is appended whole or not at all, and what a kill -9 tore off is not read."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from stoker.errors import RunBroken
from stoker.files import write_text_atomically, writing
from stoker.runs import strict_json


def append(file: BinaryIO, data: bytes) -> None:
    """Append `data` to a file that was opened unbuffered; if the disk fills up on the way, what was written of it is taken back."""
    start = file.seek(0, os.SEEK_END)
    left = data
    try:
        while left:
            left = left[os.write(file.fileno(), left) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(start)
        raise


class Journal:
    """A file of JSON objects, one a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, kind: str, values: dict[str, Any]) -> None:
        """Append an object and hand it to the system before this returns (no sync: a power cut may lose the last lines).

        The file is opened anew each time, so that a folder that somebody removed is noticed: FileNotFoundError. Raises DiskFull too.
        """
        line = strict_json.dumps({"kind": kind, **values, "time": values.get("time", round(time.time(), 3))}) + "\n"
        with writing(self.path), open(self.path, "ab+", buffering=0) as file:
            append(file, (b"" if _ends_whole(file) else b"\n") + line.encode())

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the objects; lines that are torn or no objects are left out. Raises RunBroken when the file cannot be read."""
        return (value for _, value in self._whole())

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrite the file, in one piece, with the wanted lines only; torn lines go."""
        if self.path.exists():
            write_text_atomically(self.path, "".join(line + "\n" for line, value in self._whole() if wanted(value)))

    def _whole(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            text = self.path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunBroken(f"{self.path} cannot be read ({error.strerror})", hint="look at its kind, owner and mode") from error
        for line in text.split("\n"):
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield line, value


def _ends_whole(file: BinaryIO) -> bool:
    """Tell whether the file is empty or ends with a whole line: a torn one must not swallow the next."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
