"""The script's functions as a forked worker has them: with the variables that they read as these were when the epoch began."""

from __future__ import annotations

import types
from typing import Any

_DEEPEST = 8
_LIBRARIES = ("site-packages", "dist-packages", "/lib/python")


def freeze(value: Any, depth: int = 0, seen: set[int] | None = None) -> Any:
    """Return `value`, a copied transform, with copies of the script's functions in it whose globals and outer variables are copies too.

    Changes lists and objects in place: they are copies already. One level of variables: what those refer to is shared.
    """
    seen = set() if seen is None else seen
    if isinstance(value, types.FunctionType):
        return _function(value) if _is_scripts(value) else value
    if depth > _DEEPEST or id(value) in seen or isinstance(value, (type, types.ModuleType)):
        return value
    seen.add(id(value))
    if isinstance(value, list):
        value[:] = [freeze(part, depth + 1, seen) for part in value]
    elif isinstance(value, tuple) and type(value) is tuple:
        return tuple(freeze(part, depth + 1, seen) for part in value)
    elif isinstance(getattr(value, "__dict__", None), dict):
        own = vars(value)
        for name, part in list(own.items()):
            own[name] = freeze(part, depth + 1, seen)
    return value


def _is_scripts(function: types.FunctionType) -> bool:
    return not any(part in function.__code__.co_filename for part in _LIBRARIES)


def _function(function: types.FunctionType) -> types.FunctionType:
    cells = None if function.__closure__ is None else tuple(_cell(cell) for cell in function.__closure__)
    own = types.FunctionType(function.__code__, dict(function.__globals__), function.__name__, function.__defaults__, cells)
    own.__kwdefaults__, own.__module__, own.__qualname__, own.__doc__ = (
        function.__kwdefaults__,
        function.__module__,
        function.__qualname__,
        function.__doc__,
    )
    own.__dict__.update(function.__dict__)
    return own


def _cell(cell: types.CellType) -> types.CellType:
    try:
        return types.CellType(cell.cell_contents)
    except ValueError:  # an outer variable that has no value yet
        return types.CellType()
