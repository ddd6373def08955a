"""The table `[launch]` of a project's `stoker.toml`: a team's defaults, read and checked."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stoker.errors import BadValue, SpecificationBroken, UnknownName, nearest
from stoker.launch.amounts import read_bytes, read_memory
from stoker.launch.gpus import read_gpus
from stoker.launch.wanted import Wanted

FILE = "stoker.toml"
ENGINES = ("auto", "podman", "docker", "local")

_MOST_BYTES = 1 << 20
_MOST = 2**31
_SOME_BYTES = 1 << 30
"""Any machine's memory: only whether a share of it can be read is asked here."""


def read_defaults(project: Path) -> Wanted:
    """Return what a project's `stoker.toml` says; nothing where there is none. Relative paths in it are those of the project.

    Raises SpecificationBroken (no TOML), UnknownName (a key that there is not), BadValue (a value of another type, or out of range), each with
    file and key.
    """
    file = project / FILE
    values = _values(file)
    table = values.get("launch", {})
    if not isinstance(table, dict):
        raise BadValue(f"{file}: launch is no table but {table!r:.80}", hint="write [launch] and its keys below it")
    checked = {str(key): _checked(file, str(key), value) for key, value in table.items()}
    said = {_FIELDS.get(key, key): value for key, value in checked.items()}
    return Wanted(**_absolute(said, project), own_image=_own_image(values))


def _values(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SpecificationBroken(f"{file} cannot be read: {error.strerror}", hint=f"look at it: ls -l {file}") from error
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MB")
        return dict(_reader().loads(data.decode()))
    except (ValueError, RecursionError) as error:
        raise SpecificationBroken(f"{file} is no TOML: {error}", hint="text stands in quotes, a list in [ ]; see https://toml.io") from error


def _reader() -> Any:
    """Return the module that reads TOML, imported only where there is a file. Python 3.11 has it; tomli is the same module for 3.10."""
    return importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def _own_image(values: Mapping[str, Any]) -> str | None:
    """Return `[image] name`. Whether the rest of that table is right is for `stoker image` to say."""
    image = values.get("image")
    name = image.get("name") if isinstance(image, dict) else None
    return name if isinstance(name, str) and name else None


def _checked(file: Path, key: str, value: Any) -> Any:
    reader = _KEYS.get(key)
    if reader is None:
        like = nearest(key, list(_KEYS))
        raise UnknownName(
            f"{file}: there is no key {key!r} in [launch]" + (f"; the nearest is {like!r}" if like else ""), hint=f"there are {', '.join(_KEYS)}"
        )
    try:
        return reader(value)
    except BadValue as error:
        raise BadValue(f"{file}: [launch] {key}: {error.message}", hint=error.hint) from error


def _absolute(said: dict[str, Any], project: Path) -> dict[str, Any]:
    """Make the paths of the table those of the project, wherever the command is run."""

    def path(text: str) -> str:
        return os.path.join(project, os.path.expanduser(text))

    if "data" in said:
        said["data"] = tuple(path(one) for one in said["data"])
    if "volumes" in said:
        said["volumes"] = tuple(path(one.partition(":")[0]) + "".join(one.partition(":")[1:]) for one in said["volumes"])
    if said.get("home", "none") != "none":
        said["home"] = path(said["home"])
    if "env_file" in said:
        said["env_file"] = Path(path(said["env_file"]))
    return said


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise BadValue(f"{value!r:.80} is no text", hint='write it in quotes, as "..."')
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(one) for one in value) if isinstance(value, list) else (_text(value),)


def _variables(value: Any) -> tuple[str, ...]:
    for name in (names := _texts(value)):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            told, equals, _ = name.partition("=")
            what = "stands here with its value" if equals else "is no name of a variable"
            raise BadValue(f"{told!r:.80} {what}", hint="names only: each person's own environment has the values")
    return names


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadValue(f"{value!r:.80} is neither true nor false", hint="write true or false, without quotes")
    return value


def _number(least: int, most: int = _MOST) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise BadValue(f"{value!r:.80} is no whole number from {least} to {most}", hint="write it without quotes")
        return value

    return read


def _cpus(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < _MOST:
        raise BadValue(f"{value!r:.80} is no number of CPUs", hint="write it without quotes, as 8 or 2.5; leave it out for all")
    return float(value)


def _engine(value: Any) -> str:
    return read_engine(_text(value))


def read_engine(text: str) -> str:
    """Return the name of an engine, or `auto`. Raises BadValue."""
    if text not in ENGINES:
        like = nearest(text, ENGINES)
        raise BadValue(f"there is no engine {text!r}" + (f"; the nearest is {like!r}" if like else ""), hint=f"there are {', '.join(ENGINES)}")
    return text


def _gpus(value: Any) -> str:
    """Read a text, or numbers as one is tempted to write them: 0, [0, 2]."""
    numbers = value if isinstance(value, list) else [value]
    if all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        value = ",".join(str(one) for one in numbers)
    return read_gpus(_text(value)).text


def _memory(value: Any) -> str:
    text = _size(value)
    read_memory(text, _SOME_BYTES << 10)
    return text


def _size(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise BadValue(f"{value} has no unit", hint=f'write it in quotes with one: "{value}g"')
    return _text(value)


def _shm(value: Any) -> str:
    text = _size(value)
    if text != "auto":
        read_bytes(text, of="shm")
    return text


_FIELDS = {"name": "prefix", "env": "environment", "stop_timeout": "stop_timeout_s"}
"""Keys whose field of Wanted has another name."""
_KEYS: dict[str, Callable[[Any], Any]] = {
    "image": _text,
    "engine": _engine,
    "name": _text,
    "home": _text,
    "data": _texts,
    "volumes": _texts,
    "gpus": _gpus,
    "memory": _memory,
    "cpus": _cpus,
    "shm": _shm,
    "batch": _number(1),
    "workers": _number(0, 10_000),
    "pids": _number(1),
    "env": _variables,
    "env_file": _text,
    "listen": _text,
    "port": _number(1, 65535),
    "stop_timeout": _number(0, 86_400),
    "restart": _flag,
    "writable": _flag,
}
