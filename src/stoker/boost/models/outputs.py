"""What a model returns: tensors inside tuples, lists, dicts and dataclasses, seen and replaced without the user noticing."""

from __future__ import annotations

import copy
import dataclasses
import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

_PLAIN = (str, bytes, bool, numbers.Number, type(None), torch.Size, torch.dtype, torch.device)

Change = Callable[[torch.Tensor], torch.Tensor]


def replaced(value: Any, change: Change) -> Any:
    """Return `value` with `change` applied to every tensor; the very object where nothing changes, else one of the same type."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple):
        return _tuple(value, change)
    if isinstance(value, list):
        items = [replaced(item, change) for item in value]
        return value if _same(value, items) else _like(value, enumerate(items))
    if isinstance(value, Mapping):
        return _mapping(value, change)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _dataclass(value, change)
    return value


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors that `replaced` reaches."""
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    replaced(value, note)
    yield from found


def strange(value: Any) -> str | None:
    """Return the name of a type inside `value` that `replaced` does not look into; None when it reaches everything."""
    if isinstance(value, (torch.Tensor, *_PLAIN)):
        return None
    if isinstance(value, tuple | list):
        return next((name for item in value if (name := strange(item))), None)
    if isinstance(value, Mapping):
        return next((name for item in value.values() if (name := strange(item))), None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = (getattr(value, field.name, None) for field in dataclasses.fields(value))
        return next((name for item in items if (name := strange(item))), None)
    return type(value).__name__


def in_float32(value: Any) -> Any:
    """Return `value` with its bfloat16 tensors as float32."""
    return replaced(value, lambda tensor: tensor.float() if tensor.dtype == torch.bfloat16 else tensor)


def _same(old: Any, new: Any) -> bool:
    return all(before is after for before, after in zip(old, new, strict=True))


def _like(value: Any, items: Any) -> Any:
    # A copy keeps the type and whatever else the object carries (transformers' ModelOutput keeps keys and attributes in step by itself).
    made = copy.copy(value)
    for key, item in items:
        made[key] = item
    return made


def _tuple(value: tuple[Any, ...], change: Change) -> Any:
    items = [replaced(item, change) for item in value]
    if _same(value, items):
        return value
    if hasattr(value, "_make"):
        return value._make(items)
    return tuple(items) if type(value) is tuple else type(value)(items)


def _mapping(value: Mapping[Any, Any], change: Change) -> Any:
    items = {key: replaced(item, change) for key, item in value.items()}
    changed = {key: item for key, item in items.items() if item is not value[key]}
    return _like(value, changed.items()) if changed else value


def _dataclass(value: Any, change: Change) -> Any:
    made = value
    for field in dataclasses.fields(value):
        old = getattr(value, field.name, None)
        new = replaced(old, change)
        if new is not old:
            made = copy.copy(value) if made is value else made
            object.__setattr__(made, field.name, new)
    return made
