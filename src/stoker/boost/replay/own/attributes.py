"""The attributes of a data set of the script's own as a forked worker has them: copies of all that its code reads."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import numpy as np
import torch

from stoker.boost.replay.available import available_bytes
from stoker.boost.replay.frozen import freeze
from stoker.boost.replay.own import allowed
from stoker.boost.replay.own.reading import Reading
from stoker.boost.replay.unfit import Unfit

_LARGEST_BYTES = 2 << 30
_MEMORY_SHARE = 0.1
"""Arrays up to this size, and this share of the available memory, are copied."""
_DEEPEST = 4
_ATOMS = set(allowed.ATOMS)


def copied_dataset(dataset: Any) -> Any:
    """Return a copy of `dataset` in which all that `__getitem__` and `__len__` read is its own. Raises Unfit."""
    try:
        return _copy_of(dataset, Reading(dataset))
    except Unfit as reason:
        raise Unfit(f"{type(dataset).__name__} is the script's own class: {reason}") from None


def _copy_of(dataset: Any, reading: Reading) -> Any:
    own = object.__new__(type(dataset))
    vars(own).update(vars(dataset))
    memo: dict[int, Any] = {}
    frozen: set[int] = set()
    for name in sorted(reading.attributes):
        value = reading.own(name)
        if isinstance(value, MethodType):
            raise Unfit(f"its {name} is a method of an object, which would be copied with it")
        if name in reading.callables:
            vars(own)[name] = freeze(copy.deepcopy(value, memo), seen=frozen)
        else:
            vars(own)[name] = _copied(value, f"its {name}")
    return own


def _copied(value: Any, what: str, depth: int = 0) -> Any:
    kind = type(value)
    if allowed.is_fixed(value):
        return value
    if depth > _DEEPEST or not allowed.is_data(value):
        raise Unfit(f"{what} is a {kind.__name__}, of which workers have a copy of their own")
    if kind in (list, tuple, set, frozenset):
        if _of_atoms(value) or (set(map(type, value)) == {tuple} and all(map(_of_atoms, value))):
            return kind(value)
        return kind(_copied(item, what, depth + 1) for item in value)
    if isinstance(value, dict):
        return kind((key, _copied(item, what, depth + 1)) for key, item in value.items())
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return _array(value, what)
    return value.copy() if allowed.is_pandas(value) else value


def _of_atoms(items: Any) -> bool:
    return set(map(type, items)) <= _ATOMS


def _array(value: Any, what: str) -> Any:
    if value.nbytes > min(_LARGEST_BYTES, _MEMORY_SHARE * (available_bytes() or 0)):
        raise Unfit(f"{what} is too large to copy, and workers have a copy of their own")
    if isinstance(value, torch.Tensor) and value.is_shared():
        raise Unfit(f"{what} is shared with workers")
    return value.copy(order="K") if isinstance(value, np.ndarray) else value.detach().clone()
