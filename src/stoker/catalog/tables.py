"""The tables of this folder, read from TOML and checked: a broken one is an error that names file, row and field."""

from __future__ import annotations

import datetime
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from stoker.errors import BadValue

EVIDENCE = ("wheel", "release matrix", "vendor page", "white paper", "secondary", "unverified")
"""How sure a row is: read from the wheel's own bytes; from PyTorch's release notes or build matrix; from a page or a white paper of NVIDIA;
from a third party who says to have looked; from nobody yet."""

# The standard library has it from Python 3.11 on; tomli is the same module for 3.10.
_toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
_FOLDER = Path(__file__).parent
_HINT = "the tables belong to Stoker: install it again, or `git checkout src/stoker/catalog`"
_T = TypeVar("_T")


class Row:
    """One row of a table, whose fields are taken one by one; whatever is wrong or left over raises BadValue."""

    def __init__(self, fields: Any, place: str) -> None:
        self._place = place
        if not isinstance(fields, dict):
            raise BadValue(f"{place} is no table of fields but {fields!r}", hint=_HINT)
        self._left = dict(fields)

    def text(self, field: str) -> str:
        """Return a text that is not empty."""
        return self._take(field, _text)

    def maybe_text(self, field: str) -> str | None:
        """Return a text, or None where the field is left out: not known, or there is none."""
        return self._take(field, _text) if field in self._left else None

    def texts(self, field: str) -> tuple[str, ...]:
        """Return a list of texts; left out is empty."""
        return self._take(field, _texts) if field in self._left else ()

    def version(self, field: str) -> str:
        """Return a version of numbers and dots."""
        return self._take(field, _version)

    def maybe_version(self, field: str) -> str | None:
        """Return a version, or None where the field is left out."""
        return self._take(field, _version) if field in self._left else None

    def date(self, field: str) -> datetime.date:
        """Return a date."""
        return self._take(field, _date)

    def maybe_date(self, field: str) -> datetime.date | None:
        """Return a date, or None where the field is left out."""
        return self._take(field, _date) if field in self._left else None

    def pair(self, field: str) -> tuple[int, int]:
        """Return `"8.6"` as (8, 6)."""
        return self._take(field, _pair)

    def maybe_pair(self, field: str) -> tuple[int, int] | None:
        """Return a pair, or None where the field is left out."""
        return self._take(field, _pair) if field in self._left else None

    def maybe_number(self, field: str) -> float | None:
        """Return a number above 0, or None where the field is left out."""
        return self._take(field, _number) if field in self._left else None

    def maybe_whole(self, field: str) -> int | None:
        """Return a whole number above 0, or None where the field is left out."""
        return self._take(field, _whole) if field in self._left else None

    def flag(self, field: str) -> bool:
        """Return true or false; left out is false."""
        return self._take(field, _flag) if field in self._left else False

    def maybe_flag(self, field: str) -> bool | None:
        """Return true or false, or None where the field is left out: not known."""
        return self._take(field, _flag) if field in self._left else None

    def evidence(self, field: str = "evidence") -> str:
        """Return one of EVIDENCE."""
        return self._take(field, _evidence)

    def end(self) -> None:
        """Refuse a row with fields that nobody took: a misspelt one would be read as unknown."""
        if self._left:
            raise BadValue(f"{self._place} has the unknown field {next(iter(self._left))!r}", hint=_HINT)

    def _take(self, field: str, convert: Callable[[Any], _T]) -> _T:
        if field not in self._left:
            raise BadValue(f"{self._place} lacks the field {field!r}", hint=_HINT)
        value = self._left.pop(field)
        try:
            return convert(value)
        except ValueError as error:
            raise BadValue(f"{self._place}, field {field!r}: {error}", hint=_HINT) from error


def rows(file: str, table: str, folder: Path | None = None) -> Iterator[Row]:
    """Yield the rows `[[table]]` of a file of this folder. Raises BadValue when the file is broken or has no such row."""
    found = _read((folder or _FOLDER) / file).get(table)
    if not isinstance(found, list) or not found:
        raise BadValue(f"{file} has no rows [[{table}]]", hint=_HINT)
    for number, fields in enumerate(found, start=1):
        yield Row(fields, f"{file}, [[{table}]] row {number}")


@functools.lru_cache(maxsize=16)
def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = _toml.loads(path.read_text(encoding="utf-8"))
        return found
    except OSError as error:
        raise BadValue(f"{path.name} cannot be read: {error.strerror}", hint=_HINT) from error
    except ValueError as error:
        raise BadValue(f"{path.name} is no TOML: {error}", hint=_HINT) from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError(f"{value!r} is no list of texts")
    return tuple(value)


def _version(value: Any) -> str:
    if not isinstance(value, str) or not all(part.isascii() and part.isdecimal() for part in value.split(".")):
        raise ValueError(f"{value!r} is no version (numbers and dots, in quotes)")
    return value


def _date(value: Any) -> datetime.date:
    # A datetime is a date for Python, not for us.
    if type(value) is not datetime.date:
        raise ValueError(f"{value!r} is no date (as 2026-11-20, without quotes)")
    return value


def _pair(value: Any) -> tuple[int, int]:
    parts = _version(value).split(".")
    if len(parts) != 2:
        raise ValueError(f'{value!r} is not two numbers (as "8.6")')
    return int(parts[0]), int(parts[1])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{value!r} is no number above 0")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{value!r} is no whole number above 0")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _evidence(value: Any) -> str:
    if value not in EVIDENCE:
        raise ValueError(f"{value!r} is none of {', '.join(EVIDENCE)}")
    return str(value)
