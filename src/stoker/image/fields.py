"""The fields of a table in a TOML file, taken one by one and checked: an error names file, line, field, and the nearest that there is."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from stoker.errors import StokerError, nearest
from stoker.image.placed import PlacedToml

_LONGEST_SHOWN = 80


class Fields:
    """One table of a file, whose fields are taken one by one: whatever is wrong or left over is an error with its place."""

    def __init__(self, file: PlacedToml, path: tuple[str | int, ...], *, error: type[StokerError], hint: str | None = None) -> None:
        """`hint`: what to do about a wrong value where nothing better is known."""
        self._file, self._path, self._error, self._hint = file, path, error, hint
        value: Any = file.values
        for part in path:
            value = value[part]
        if not isinstance(value, dict):
            raise error(
                f"{file.place(*path)}: {_told(path)} is no table but {_shown(value)}", hint=hint or f"write [{_told(path)}] and its fields below it"
            )
        self._values: dict[str, Any] = value
        self._known: dict[str, None] = {}
        self._taken: set[str] = set()

    def wrong(self, key: str, what: str, hint: str) -> StokerError:
        """Return the error for a value."""
        return self._error(f"{self._file.place(*self._path, key)}: {key}: {what}", hint=hint)

    def peek(self, key: str) -> Any:
        """Return a value as it stands there, without taking it; None: it is left out."""
        self._known[key] = None
        return self._values.get(key)

    def left(self) -> list[str]:
        """Return the fields that nobody took yet."""
        return [key for key in self._values if key not in self._taken]

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; `default` where it is left out."""
        value = self._take(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise self._missing(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise self.wrong(key, f"{value} is a number and not a text", self._hint or f'write it in quotes: {key} = "{value}"')
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, f"{_shown(value)} is no text", self._hint or f'write {key} = "..."')
        return value

    def maybe_text(self, key: str) -> str | None:
        """Return a text, or None where it is left out."""
        return self.text(key) if self.peek(key) is not None else None

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts; one text is a list of one, left out is none."""
        if isinstance(self.peek(key), (str, int, float)):
            return (self.text(key),)
        value = self._take(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self.wrong(key, f"{_shown(value)} is no list of texts", self._hint or f'write {key} = ["...", "..."], each in quotes')
        return tuple(value)

    def chosen(self, key: str, among: Sequence[str]) -> tuple[str, ...]:
        """Return a list of texts, each one of those that there are."""
        found = self.texts(key)
        for one in found:
            self._is_one(key, one, among)
        return found

    def choice(self, key: str, among: Sequence[str]) -> str:
        """Return a text that is one of those that there are."""
        one = self.text(key)
        self._is_one(key, one, among)
        return one

    def number(self, key: str) -> int:
        """Return a whole number that is not negative."""
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
            raise self.wrong(key, f"{_shown(value)} is no whole number", self._hint or f"write {key} = 1")
        return value

    def flag(self, key: str) -> bool:
        """Return a truth value."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise self.wrong(key, f"{_shown(value)} is neither true nor false", self._hint or "write true or false, without quotes")
        return value

    def moment(self, key: str) -> int:
        """Return a date with time and zone as Unix time in seconds."""
        value = self._take(key)
        if not isinstance(value, datetime.datetime) or value.tzinfo is None or value.microsecond or value.timestamp() < 0:
            shown = value.isoformat() if isinstance(value, datetime.date) else _shown(value)
            raise self.wrong(key, f"{shown} is no moment since 1970", self._hint or "write it as 2026-11-21T18:00:00Z, without quotes")
        return int(value.timestamp())

    def inner(self, key: str) -> Fields:
        """Return a table inside of this one."""
        if self._take(key) is None:
            raise self._error(
                f"{self._file.place(*self._path)}: the table {key} is missing", hint=self._hint or f"write [{_told((*self._path, key))}]"
            )
        return Fields(self._file, (*self._path, key), error=self._error, hint=self._hint)

    def rows(self, key: str) -> list[Fields]:
        """Return a list of tables."""
        value = self._take(key)
        if not isinstance(value, list):
            raise self.wrong(key, f"{_shown(value)} is no list of rows", self._hint or f"write {key} = [{{ ... }}]")
        return [Fields(self._file, (*self._path, key, number), error=self._error, hint=self._hint) for number in range(len(value))]

    def end(self) -> None:
        """Raise when there is a field that nobody took."""
        for key in self.left():
            like = nearest(key, [name for name in self._known if name not in self._values] or list(self._known))
            where = f" in [{_told(self._path)}]" if self._path else ""
            raise self._error(
                f"{self._file.place(*self._path, key)}: there is no key {key!r}{where}" + (f"; the nearest is {like!r}" if like else ""),
                hint=self._hint or f"there are {', '.join(self._known)}",
            )

    def _is_one(self, key: str, one: str, among: Sequence[str]) -> None:
        if one not in among:
            like = nearest(one, list(among))
            raise self.wrong(
                key, f"there is no {one!r}" + (f"; the nearest is {like!r}" if like else ""), self._hint or f"there are {', '.join(among)}"
            )

    def _missing(self, key: str) -> StokerError:
        like = nearest(key, self.left())
        meant = f"; is {like!r} ({self._file.place(*self._path, like)}) meant for it?" if like else ""
        where = f" in [{_told(self._path)}]" if self._path else ""
        return self._error(f"{self._file.place(*self._path)}: {key} is missing{meant}", hint=self._hint or f'write {key} = "..."{where}')

    def _take(self, key: str) -> Any:
        self._known[key] = None
        self._taken.add(key)
        return self._values.get(key)


def _told(path: Sequence[str | int]) -> str:
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in path)


def _shown(value: Any) -> str:
    shown = repr(value)
    return "nothing" if value is None else shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + "..."
