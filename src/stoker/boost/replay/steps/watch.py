"""Whether an object of the user's still is as it was: its attributes, and the functions of its class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stoker.boost.replay.glance import Glance

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type)
_Frozen = tuple[type, Any]


_ITEMS, _ELEMENTS, _DEPTH = 256, 1 << 16, 6
"""Larger containers and arrays, and what lies deeper, are compared by identity: the user's own objects may hold whole data sets, or themselves."""


class Watch:
    """The state of one object at the time this was made. `same` costs a few microseconds for a transform: it is asked before every batch."""

    def __init__(self, of: Any, functions: tuple[str, ...] = ()) -> None:
        self.of = of
        self._kind = type(of)
        self._functions = tuple(name for name in functions if hasattr(self._kind, name))
        self._found = tuple(getattr(self._kind, name) for name in self._functions)
        self._own: dict[str, Any] = getattr(of, "__dict__", {})
        self._state = _frozen(dict(sorted(self._own.items())))
        self.glance = Glance()
        """Says fast that nothing changed; its No may come of an equal value in another object."""
        self.glance.holds(type, of, self._kind)
        self.glance.holds_functions(self._kind, self._functions, self._found)
        if hasattr(of, "__dict__"):
            self.glance.holds(vars, of, self._own)
        self._look_at(self._own)

    def same(self) -> bool:
        """Return whether class, functions and attributes are what they were; contents of lists, tuples, dicts, tensors and arrays included."""
        if self.glance.same():
            return True
        kind = self._kind
        if type(self.of) is not kind or any(getattr(kind, name, None) is not found for name, found in zip(self._functions, self._found, strict=True)):
            return False
        own = getattr(self.of, "__dict__", self._own)
        # Equal values may have come in other objects, or in another order.
        return _equal(_frozen(dict(sorted(own.items()))), self._state)

    def _look_at(self, value: Any, depth: int = 0) -> None:
        """Note what finds out fast that a container holds the very objects it held, and all containers inside it, too."""
        if not _open(value, depth):
            return
        if isinstance(value, torch.nn.ModuleList):
            value = value._modules
        if isinstance(value, (torch.Tensor, np.ndarray)):
            before = _frozen(value)
            self.glance.asks(lambda: _equal(_frozen(value), before))
        else:
            self.glance.holds_items(value)
            for item in value.values() if isinstance(value, dict) else value:
                self._look_at(item, depth + 1)


def _open(value: Any, depth: int) -> bool:
    """Return whether a value is data that may change inside, and of a size that can be compared."""
    if isinstance(value, (dict, list, tuple, torch.nn.ModuleList)):
        return depth < _DEPTH and len(value) <= _ITEMS
    if isinstance(value, torch.Tensor):
        return value.layout is torch.strided and value.numel() <= _ELEMENTS
    return isinstance(value, np.ndarray) and value.size <= _ELEMENTS and not value.dtype.hasobject


def _frozen(value: Any, depth: int = 0) -> _Frozen:
    """Return something that can be compared later: a copy of data, the very object for what is not data."""
    if isinstance(value, float):
        return (float, repr(value))
    if isinstance(value, _PLAIN):
        return (type(value), value)
    if not _open(value, depth):
        return (object, value)
    if isinstance(value, dict):
        return (type(value), [(_frozen(key, depth + 1), _frozen(item, depth + 1)) for key, item in value.items()])
    if isinstance(value, torch.Tensor):
        return (type(value), value.detach().clone())
    if isinstance(value, np.ndarray):
        return (type(value), value.copy())
    return (type(value), [_frozen(item, depth + 1) for item in value])


def _equal(one: _Frozen, two: _Frozen) -> bool:
    """Compare two results of `_frozen`."""
    if one[0] is not two[0]:
        return False
    first, second = one[1], two[1]
    if one[0] is object:
        return first is second
    if isinstance(first, list) and isinstance(second, list):
        if len(first) != len(second):
            return False
        if issubclass(one[0], dict):
            return all(_equal(a[0], b[0]) and _equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
        return all(_equal(a, b) for a, b in zip(first, second, strict=True))
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.shape == second.shape and first.device == second.device and torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    return bool(first == second)
