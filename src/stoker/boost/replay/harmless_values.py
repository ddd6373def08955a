"""What is known of a value while code is read: where it comes from, and so whether changing it can be seen by anybody else."""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MADE, GIVEN, TENSOR, ATOMS, SHARED = range(5)
"""From harmless to change to not: made by the code itself (or nothing that can be changed), its argument, a tensor or array of somebody else's, a
container of somebody else's that holds numbers and texts only, any container of somebody else's."""

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), range, slice, torch.dtype, torch.Size, torch.layout, torch.memory_format)
_MOST = 1 << 20


@dataclass(frozen=True)
class Value:
    """A value; or several, of which any may be met."""

    kind: int = MADE
    others: tuple[Any, ...] = ()
    """Live objects that it may be and that are no data: modules, functions, objects of classes, containers of these."""
    only_dtype: bool = False
    calls: bool = False
    """Whether it may be called: a transform that the code makes itself, or (then its kind is SHARED) a function inside the function."""
    solid: bool = True
    """Whether it may be data, too, when there are `others`."""

    @property
    def void(self) -> bool:
        """Whether it is nothing at all: None, or no value yet."""
        return not (self.others or self.solid or self.calls)

    def held(self) -> Value:
        """What is known of a new container that may hold it."""
        return Value(SHARED if self.kind >= TENSOR else self.kind, self.others)

    def __or__(self, other: Value) -> Value:
        if self.void or other.void:
            return other if self.void else self
        fresh = tuple(one for one in other.others if not any(one is known for known in self.others))
        return Value(
            kind=max(self.kind, other.kind),
            others=self.others + fresh,
            only_dtype=self.only_dtype and other.only_dtype,
            calls=self.calls and other.calls,
            solid=self.solid or other.solid,
        )


def of(obj: Any) -> Value:
    """Return what is known of a live object."""
    if obj is None:
        return Value(solid=False)
    kind = data(obj)
    return Value(MADE, (obj,), solid=False) if kind is None else Value(kind, only_dtype=isinstance(obj, torch.dtype))


def data(obj: Any) -> int | None:
    """Return the kind of an object that is nothing but data, None for any other."""
    kind = type(obj)
    if kind in _ATOMS or isinstance(obj, (np.generic, np.dtype)):
        return MADE
    if isinstance(obj, enum.Enum):
        return MADE if str(kind.__module__).partition(".")[0] in ("torchvision", "PIL", "torch") else None
    if kind in (torch.Tensor, torch.nn.Parameter):
        return TENSOR
    if kind is torch.device:
        return MADE if obj.type == "cpu" else None
    if kind is np.ndarray:
        return TENSOR if obj.dtype != object else None
    if kind in (tuple, frozenset):
        return _inside(obj, MADE)
    if kind in (list, set):
        return _inside(obj, ATOMS)
    if kind in (dict, OrderedDict):
        keys, values = _inside(obj.keys(), ATOMS), _inside(obj.values(), ATOMS)
        return None if keys is None or values is None else max(keys, values)
    return None


def _inside(items: Any, least: int) -> int | None:
    if len(items) > _MOST:
        return None
    if not items and least == ATOMS:
        return SHARED  # nobody knows what it will hold
    worst = MADE
    for kind in {type(item) for item in items} - set(_ATOMS):
        for item in items:
            if type(item) is kind:
                found = data(item)
                if found is None:
                    return None
                worst = max(worst, found)
    return least if worst in (MADE, least) else SHARED
