"""Native kernels: plain shared libraries without Python.h, which setup.py builds beside the files that load them with ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TypeVar

Loaded = TypeVar("Loaded")


def built(stem: Path, load: Callable[[Path], Loaded]) -> Loaded | str:
    """Return what `load` makes of the library that was built under the name `stem`, or the reason why there is none."""
    paths = [path for suffix in EXTENSION_SUFFIXES if (path := stem.with_name(stem.name + suffix)).is_file()]
    if not paths:
        return "the C kernel was not built (no compiler when Stoker was installed)"
    try:
        return load(paths[0])
    except OSError as error:
        return f"the C kernel cannot be loaded: {error}"


def of_version(path: Path, function: str, version: int) -> ctypes.CDLL:
    """Load the library at `path`, whose `function` tells its version. Raises OSError when it is another library, or of another version."""
    found = ctypes.CDLL(str(path))
    if not hasattr(found, function) or getattr(found, function)() != version:
        raise OSError(f"{path} has no {function} that says {version}")
    return found
