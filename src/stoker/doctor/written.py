"""Facts as a file: written on one machine, read and judged on another."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from stoker import files
from stoker.doctor.facts import Facts
from stoker.errors import ReportBroken, nearest

FORMAT = "stoker-facts-1"

_T = TypeVar("_T")


def write_facts(facts: Facts, path: Path) -> None:
    """Write facts as JSON. Raises DiskFull and RunFolderUnwritable; the file is written whole or not at all."""
    files.write_text_atomically(path, json.dumps({"format": FORMAT} | asdict(facts), indent=1, sort_keys=True) + "\n")


def read_facts(path: Path) -> Facts:
    """Read facts that `write_facts` wrote; what the file leaves out is not known. Raises ReportBroken, which names the field."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportBroken(f"{path}: {_reason(error)}", hint="`stoker doctor --save FILE` writes such a file on the machine in question") from error
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise ReportBroken(
            f'{path} holds no facts of a machine: it does not say "format": "{FORMAT}"',
            hint="`stoker doctor --save FILE` writes such a file; one of another version of Stoker must be written anew",
        )
    return facts_from(value, where=str(path))


def facts_from(value: dict[str, Any], *, where: str = "facts") -> Facts:
    """Return plain values (as of JSON) as Facts. Raises ReportBroken for an unknown field or a value of the wrong type."""
    return _dataclass(Facts, value, where)


def _dataclass(kind: type[_T], value: Any, where: str) -> _T:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for key in value:
        if key not in known:
            like = nearest(key, sorted(known))
            raise ReportBroken(f"{where}: there is no fact {key!r}" + (f"; the nearest is {like!r}" if like else ""), hint="write the file anew")
    hints = typing.get_type_hints(kind)
    return kind(**{key: _convert(hints[key], entry, f"{where}: {key}") for key, entry in value.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    """Return a JSON value as the type that the field is declared with."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(argument for argument in arguments if argument is not type(None)), value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {key: _convert(arguments[1], entry, f"{where}: {key}") for key, entry in value.items()}
    if is_dataclass(kind):
        return _dataclass(typing.cast(type, kind), value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(where, kind.__name__, value)
    return value


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(arguments[0], entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if len(value) != len(arguments):
        raise _wrong(where, f"{len(arguments)} values", value)
    return tuple(_convert(argument, entry, where) for argument, entry in zip(arguments, value, strict=True))


def _wrong(where: str, expected: str, value: Any) -> ReportBroken:
    return ReportBroken(f"{where} should be {expected}, not {json.dumps(value)[:80]}", hint="write the file anew, or mend this place by hand")


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else f"no JSON ({error})"
