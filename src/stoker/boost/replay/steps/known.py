"""Whether a class of transforms is torchvision's own, and whether it is one of those that were read."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from stoker.boost.replay.order import source_hash
from stoker.boost.replay.steps.readings import CLASSES

_LOOKS = frozenset({"__repr__", "extra_repr", "_extract_params_for_v1_transform", "__prepare_scriptable__", "__init_subclass__"})
"""Functions that no sample passes through."""


def is_own(kind: type) -> bool:
    """Return whether every function of a class that torchvision defines is still torchvision's: none was put in its place."""
    package = os.path.dirname(str(getattr(sys.modules.get("torchvision"), "__file__", ""))) + os.sep
    return all(_file(function).startswith(package) for part in _parts(kind) for function in functions(vars(part)).values())


def is_read(kind: type, family: str) -> bool:
    """Return whether the source of the class, and of torchvision's classes below it, is one that was read: see `readings`."""
    digests = _digests(kind, tuple(_members(part) for part in _parts(kind)))
    return all(digest in CLASSES.get(f"{family}.{name}", ()) for name, digest in digests)


def functions(members: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """Return by name what a sample passes through, of the members of a class."""
    bare = {name: value.__func__ if isinstance(value, staticmethod) else value for name, value in members.items()}
    return {name: value for name, value in bare.items() if isinstance(value, FunctionType) and name not in _LOOKS}


def digest(sources: Mapping[str, str]) -> str:
    """Return one text for the hashes of a class's functions, by name."""
    return hashlib.sha256("\n".join(f"{name} {sources[name]}" for name in sorted(sources)).encode()).hexdigest()[:16]


def _parts(kind: type) -> tuple[type, ...]:
    return tuple(part for part in kind.__mro__ if part.__module__.startswith("torchvision."))


def _members(part: type) -> tuple[tuple[str, Callable[..., Any]], ...]:
    """Return the functions that stand in the class's own file: v2 classes are given v1's `get_params`, too, which they do not call."""
    return tuple((name, function) for name, function in functions(vars(part)).items() if function.__module__ == part.__module__)


@functools.cache
def _digests(kind: type, parts: tuple[tuple[tuple[str, Callable[..., Any]], ...], ...]) -> list[tuple[str, str]]:
    """Return name and digest of each class; kept by class and functions, so that functions replaced later are seen."""
    try:
        return [
            (part.__name__, digest({name: source_hash(function) for name, function in members}))
            for part, members in zip(_parts(kind), parts, strict=True)
        ]
    except (OSError, TypeError, ValueError, SyntaxError):
        return [(kind.__name__, "no source")]


def _file(function: Any) -> str:
    return os.path.abspath(function.__code__.co_filename)
