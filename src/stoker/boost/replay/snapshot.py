"""A data set as a forked worker process has it: what the script changes later is not seen by it."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import numpy as np
import torch
import torch.utils.data as loading

from stoker.boost.replay.available import available_bytes
from stoker.boost.replay.classes import OWN, known_class
from stoker.boost.replay.frozen import freeze
from stoker.boost.replay.own.attributes import copied_dataset
from stoker.boost.replay.unfit import Unfit

_TRANSFORMS = ("transform", "target_transform", "transforms")
_LISTS = ("targets", "samples", "imgs", "indices", "labels", "_labels")
_PIXELS = ("data", "tensors", "labels", "targets")
_LARGEST_BYTES = 2 << 30
_MEMORY_SHARE = 0.1
"""Pixels up to this size, and this share of the available memory, are copied."""

_copies: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def snapshot(dataset: Any) -> Any:
    """Return a copy of `dataset` with transforms, lists and pixels of its own, as its workers would have them.

    Pixels too large for that are shared: a script that writes into them while an epoch runs is the one case that differs (`written` sees it
    for tensors). Tensors in shared memory are shared with workers too. Raises Unfit, and what copying a transform raises.
    """
    if not hasattr(dataset, "__dict__") or not isinstance(dataset, loading.Dataset):
        raise Unfit(f"its data set is a {type(dataset).__name__}")
    if not isinstance(dataset, (loading.Subset, loading.ConcatDataset)) and known_class(dataset) == OWN:
        return copied_dataset(dataset)
    own: Any = copy.copy(dataset)
    if isinstance(dataset, loading.ConcatDataset):
        own.datasets = [snapshot(part) for part in dataset.datasets]
        own.cumulative_sizes = list(dataset.cumulative_sizes)
        return own
    if isinstance(dataset, loading.Subset):
        own.dataset = snapshot(dataset.dataset)
    memo: dict[int, Any] = {}
    frozen: set[int] = set()
    for name in _TRANSFORMS:
        if vars(own).get(name) is not None:
            setattr(own, name, freeze(copy.deepcopy(vars(own)[name], memo), seen=frozen))
    for name in _LISTS:
        if isinstance(vars(own).get(name), list):
            setattr(own, name, list(vars(own)[name]))
    for name in _PIXELS:
        if name in vars(own):
            setattr(own, name, _copied(dataset, name, vars(own)[name]))
    reader = vars(own).get("reader")
    if type(reader).__module__.startswith("timm.data.readers.") and isinstance(vars(reader).get("samples"), list):
        own.reader = copy.copy(reader)
        own.reader.samples = list(reader.samples)
    return own


def tensors_of(dataset: Any) -> list[tuple[torch.Tensor, int]]:
    """Return the tensors that a snapshot shares with the script's data set, each with the number of writes into it so far."""
    if isinstance(dataset, loading.ConcatDataset):
        return [pair for part in dataset.datasets for pair in tensors_of(part)]
    if isinstance(dataset, loading.Subset):
        return tensors_of(dataset.dataset)
    found = []
    for name in _PIXELS:
        value = vars(dataset).get(name)
        found += [part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, torch.Tensor)]
    return [(tensor, tensor._version) for tensor in found if not tensor.is_inference() and not tensor.is_shared()]


def _copied(dataset: Any, name: str, value: Any) -> Any:
    """Return a copy of the arrays in `value`; the last epoch's where nothing has changed since."""
    size = _size(value)
    if not size or size > min(_LARGEST_BYTES, _MEMORY_SHARE * (available_bytes() or 0)):
        return value
    try:
        kept = _copies.setdefault(dataset, {})
    except TypeError:  # a class that cannot be referred to weakly
        kept = {}
    if name not in kept or not _equal(kept[name], value):
        # Never written into: an iterator of an earlier epoch may still read the old one.
        kept[name] = tuple(_clone(part) for part in value) if isinstance(value, tuple) else _clone(value)
    return kept[name]


def _size(value: Any) -> int:
    if isinstance(value, tuple):
        sizes = [_size(part) for part in value]
        return sum(sizes) if all(sizes) else 0
    if type(value) is np.ndarray and value.dtype != object:
        return int(value.nbytes)
    plain = type(value) is torch.Tensor and value.device.type == "cpu" and value.layout == torch.strided
    return value.numel() * value.element_size() if plain and not value.requires_grad and not value.is_shared() else 0


def _clone(part: Any) -> Any:
    return part.copy(order="K") if isinstance(part, np.ndarray) else part.detach().clone(memory_format=torch.preserve_format)


def _equal(kept: Any, value: Any) -> bool:
    if isinstance(value, tuple):
        return len(kept) == len(value) and all(_equal(one, other) for one, other in zip(kept, value, strict=True))
    if type(kept) is not type(value) or kept.shape != value.shape or kept.dtype != value.dtype:
        return False
    if isinstance(value, np.ndarray):
        return kept.strides == value.strides and bool(_same_bytes(kept, value))
    return kept.stride() == value.stride() and bool(_same_bytes(kept.numpy(), value.detach().numpy())) if _plain_bytes(value) else False


def _plain_bytes(tensor: torch.Tensor) -> bool:
    return not (tensor.is_conj() or tensor.is_neg() or tensor.dtype in (torch.bfloat16, torch.complex32)) and not tensor.is_inference()


def _same_bytes(one: np.ndarray, other: np.ndarray) -> bool:
    """Compare as bytes, a piece at a time: no array as large as the data is made, and NaN equals itself."""
    if not (one.flags.c_contiguous and other.flags.c_contiguous):
        return bool(np.array_equal(one, other))
    a, b = one.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8)
    step = 1 << 22
    return all(np.array_equal(a[start : start + step], b[start : start + step]) for start in range(0, len(a), step))
