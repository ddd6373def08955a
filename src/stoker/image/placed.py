"""A TOML file of which every value knows its line, for errors that one can act on."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

# The standard library has it from Python 3.11 on; tomli is the same module for 3.10.
_toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
_HEADER = re.compile(r"\s*(\[\[?)([^\]]+)\]\]?\s*(#.*)?")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_ROW = re.compile(r"\s*\{")
# A specification or a lock is a few hundred kilobytes at most; what is larger is something else.
_MOST_BYTES = 64 << 20


class NoToml(ValueError):
    """The file is no TOML; the message says why and where."""


class Unreadable(NoToml):
    """The file is there and cannot be read at all; the message is the system's."""


class PlacedToml:
    """The values of a TOML file, and where they stand."""

    def __init__(self, text: str, *, name: str) -> None:
        """Read a text. Raises NoToml."""
        self.name = name
        self.text = text
        try:
            self.values: dict[str, Any] = _toml.loads(text)
        except RecursionError as error:
            raise NoToml("its values are nested too deeply") from error
        except ValueError as error:
            raise NoToml(str(error)) from error
        self._lines = _lines_of(text)

    def place(self, *path: str | int) -> str:
        """Return `stoker.toml, line 7` of a value by its keys and row numbers, as ("image", "cuda") or ("base", "debs", 3).

        It is the line of what the value stands in where its own cannot be told.
        """
        for end in range(len(path), 0, -1):
            if line := self._lines.get(path[:end]):
                return f"{self.name}, line {line}"
        return self.name


def read_toml(path: Path) -> PlacedToml:
    """Read a file. Raises NoToml, Unreadable, and FileNotFoundError when there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(str(error.strerror)) from error
    if len(data) > _MOST_BYTES:
        raise NoToml(f"it is larger than {_MOST_BYTES >> 20} MB")
    try:
        return PlacedToml(data.decode(), name=path.name)
    except UnicodeDecodeError as error:
        raise NoToml(f"line {data.count(10, 0, error.start) + 1} is no UTF-8") from error


def _lines_of(text: str) -> dict[tuple[str | int, ...], int]:
    """Return the line of each value, counted from 1. It reads TOML as people and Stoker write it: not every way that TOML allows is found."""
    found: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    inside: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    # Not splitlines(): tomllib counts line feeds only.
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.fullmatch(line.rstrip("\r")):
            table, inside = _parts(header[2]), ()
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            inside = (*table, *_parts(key[1]))
            counts.pop(inside, None)
            found.setdefault(inside, number)
        elif _ROW.match(line) and inside:
            counts[inside] = counts.get(inside, -1) + 1
            found.setdefault((*inside, counts[inside]), number)
    return found


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(key))


def quoted(text: str) -> str:
    """Return a text as a TOML basic string."""
    return '"' + "".join(_escaped(letter) for letter in text) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return f"\\u{ord(letter):04x}" if letter < " " or letter == "\x7f" else letter
