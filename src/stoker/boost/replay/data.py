"""A user's data set taken apart: sources of samples, and which sample of which source stands at which place."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch

from stoker.boost.replay.classes import OWN, check_loader, known_class, known_reader, look_at_methods, methods
from stoker.boost.replay.glance import Glance
from stoker.boost.replay.own.reading import Reading
from stoker.boost.replay.own.source import OwnSource, own_source, transform_of
from stoker.boost.replay.sources import (
    ArraySource,
    FakeSource,
    FilesSource,
    ReaderSource,
    Source,
    TensorsSource,
    array_source,
    facts_of,
    pil_backend,
    reader_facts,
)
from stoker.boost.replay.unfit import Unfit

_DEEPEST = 16
"""Subset of Subset of ...: beyond that something else is wrong."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Leaf:
    """One data set that holds samples itself."""

    source: Source
    transform: Any
    """The image's, None when there is none."""
    target_transform: Any
    methods: tuple[Any, ...] = field(repr=False)
    """The class and its functions that make samples."""

    @property
    def name(self) -> str:
        """Return the class's name."""
        return type(self.source.dataset).__name__

    def current(self) -> bool:
        """Whether class, pixels and transform objects still are those that were recognised."""
        own = vars(self.source.dataset)
        named = not isinstance(self.source, OwnSource)
        if named and (own.get("transform") is not self.transform or own.get("target_transform") is not self.target_transform):
            return False
        return methods(self.source.dataset) == self.methods and self.source.current()

    def look_at(self, glance: Glance) -> None:
        """Have `glance` find out what `current` does."""
        dataset = self.source.dataset
        if isinstance(self.source, OwnSource):
            glance.asks(self.current)
            return
        own = vars(dataset)
        glance.holds(vars, dataset, own)
        glance.holds(own.get, "transform", self.transform)
        glance.holds(own.get, "target_transform", self.target_transform)
        look_at_methods(dataset, self.methods, glance)
        if isinstance(self.source, ArraySource):
            self.source.look_at(glance)
        else:
            glance.asks(self.source.current)


class _Node(Protocol):
    """A data set as Subset and ConcatDataset have put it together."""

    def find(self, place_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the leaf and the place in it, int64 [B] each. Raises IndexError for places outside."""
        ...

    def current(self) -> bool:
        """Whether the parts still are the same objects."""
        ...

    def __len__(self) -> int: ...

    @property
    def name(self) -> str:
        """As it is told."""
        ...


@dataclass(frozen=True, eq=False)
class _Whole:
    """All samples of one leaf."""

    number: int
    leaf: Leaf

    def find(self, place_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _within(place_B, len(self.leaf.source))
        return np.full(len(place_B), self.number, np.int64), place_B

    def current(self) -> bool:
        return self.leaf.current()

    def __len__(self) -> int:
        return len(self.leaf.source)

    @property
    def name(self) -> str:
        return self.leaf.name


@dataclass(frozen=True, eq=False)
class _Part:
    """A Subset; its indices are read when they are used, as the Subset itself does."""

    dataset: Any
    inner: _Node
    methods: tuple[Any, ...]

    def find(self, place_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _within(place_B, len(self))
        return self.inner.find(_picked(self.dataset.indices, place_B))

    def current(self) -> bool:
        return methods(self.dataset) == self.methods and self.inner.current() and _fit_indices(self.dataset.indices)

    def __len__(self) -> int:
        return len(self.dataset.indices)

    @property
    def name(self) -> str:
        inner = self.inner.name
        return inner if inner.startswith("part of") else f"part of {inner}"


@dataclass(frozen=True, eq=False)
class _Joined:
    """A ConcatDataset."""

    dataset: Any
    inner: list[_Node]
    own: list[Any]
    """The data sets that were joined."""
    methods: tuple[Any, ...]

    def find(self, place_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _within(place_B, len(self))
        ends = np.asarray(self.dataset.cumulative_sizes, np.int64)
        part_B = np.searchsorted(ends, place_B, side="right")
        leaf_B, local_B = np.empty_like(place_B), np.empty_like(place_B)
        for part in np.unique(part_B):
            mine = part_B == part
            leaf_B[mine], local_B[mine] = self.inner[part].find(place_B[mine] - (ends[part - 1] if part else 0))
        return leaf_B, local_B

    def current(self) -> bool:
        same = len(self.own) == len(self.dataset.datasets) and all(map(operator.is_, self.own, self.dataset.datasets))
        return same and methods(self.dataset) == self.methods and all(node.current() for node in self.inner)

    def __len__(self) -> int:
        return int(self.dataset.cumulative_sizes[-1])

    @property
    def name(self) -> str:
        return " + ".join(node.name for node in self.inner)


class Data:
    """A data set that can be replayed."""

    def __init__(self, root: Any, node: _Node, leaves: list[Leaf]) -> None:
        self.root = root
        self.leaves = leaves
        self.is_leaf = isinstance(node, _Whole)
        """Whether places are places in the source: neither a Subset nor a ConcatDataset."""
        self._node = node

    def locate(self, index_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for places `index_B` (int64) the leaf's number and the place in its source, int64 each. Raises IndexError outside."""
        return self._node.find(index_B)

    def look_at(self, glance: Glance) -> None:
        """Have `glance` find out what `current` does."""
        if self.is_leaf:
            self.leaves[0].look_at(glance)
        else:
            glance.asks(self._node.current)

    def current(self) -> bool:
        """Whether the data sets still are what was recognised: the same objects with the same pixels and transform objects."""
        return self._node.current()

    @property
    def what(self) -> str:
        """Return the data sets' names: `CIFAR10`, `part of MNIST`, `CIFAR10 + SVHN`."""
        return self._node.name

    def __len__(self) -> int:
        return len(self._node)


def recognise_data(dataset: Any, *, copied: bool = False) -> Data:
    """Take `dataset` apart. Draws nothing and changes nothing. Raises Unfit for what is not known.

    `copied`: it is a copy as workers have it, of which the script does not know.
    """
    leaves: list[Leaf] = []
    return Data(dataset, _node(dataset, leaves, _DEEPEST, copied), leaves)


def _node(dataset: Any, leaves: list[Leaf], deeper: int, copied: bool) -> _Node:
    title = known_class(dataset)
    if not deeper:
        raise Unfit(f"{_DEEPEST} data sets stand within each other")
    if title == "Subset":
        if not _fit_indices(dataset.indices):
            raise Unfit(f"the indices of a {type(dataset).__name__} are a {type(dataset.indices).__name__}")
        part = _node(dataset.dataset, leaves, deeper - 1, copied)
        if not _plain_numbers(dataset.indices) and any(isinstance(leaf.source, OwnSource) for leaf in leaves):
            raise Unfit("the indices of a Subset of the script's own data set are no plain numbers, which its code would see")
        return _Part(dataset, part, methods(dataset))
    if title == "ConcatDataset":
        own = list(dataset.datasets)
        sizes = [int(size) for size in dataset.cumulative_sizes]
        inner = [_node(part, leaves, deeper - 1, copied) for part in own]
        if sizes != list(np.cumsum([len(node) for node in inner])):
            raise Unfit("the data sets of a ConcatDataset have changed their lengths since it was made")
        return _Joined(dataset, inner, own, methods(dataset))
    for number, leaf in enumerate(leaves):
        if leaf.source.dataset is dataset:
            return _Whole(number, leaf)
    leaves.append(_own_leaf(dataset, copied) if title == OWN else _known_leaf(dataset, title))
    return _Whole(len(leaves) - 1, leaves[-1])


def _own_leaf(dataset: Any, copied: bool) -> Leaf:
    try:
        source = own_source(dataset, Reading(dataset), copied=copied)
        return Leaf(source=source, transform=transform_of(source), target_transform=None, methods=methods(dataset))
    except Unfit as reason:
        raise Unfit(f"{type(dataset).__name__} is the script's own class: {reason}") from None


def _known_leaf(dataset: Any, title: str) -> Leaf:
    own_attributes = vars(dataset)
    return Leaf(
        source=_source(dataset, title),
        transform=own_attributes.get("transform") if title != "TensorDataset" else None,
        target_transform=own_attributes.get("target_transform") if title != "TensorDataset" else None,
        methods=methods(dataset),
    )


def _source(dataset: Any, title: str) -> Source:
    if title == "TensorDataset":
        tensors = dataset.tensors
        if type(tensors) is not tuple or not tensors or not all(type(tensor) is torch.Tensor for tensor in tensors):
            raise Unfit("the tensors of a TensorDataset are not plain tensors")
        if any(tensor.dim() == 0 or tensor.layout is not torch.strided for tensor in tensors):
            raise Unfit("a tensor of a TensorDataset has no rows")
        return TensorsSource(dataset=dataset, tensors=tensors, facts=facts_of(tensors))
    if title in ("MNIST", "QMNIST"):
        return array_source(dataset, "NHW", "targets", _labelling(dataset, title))
    if title == "CIFAR10":
        return array_source(dataset, "NHWC", "targets", "plain")
    if title in ("SVHN", "STL10"):
        return array_source(dataset, "NCHW", "labels", "int")
    if title == "DatasetFolder":
        check_loader(dataset.loader)
        if not pil_backend():
            raise Unfit("torchvision does not open images with PIL here")
        return FilesSource(dataset=dataset, loader=dataset.loader)
    return _read_by_timm(dataset) if title == "ImageDataset" else _fake(dataset)


def _read_by_timm(dataset: Any) -> ReaderSource:
    known_reader(dataset.reader)
    facts = reader_facts(dataset)
    if facts[:3] != (False, "RGB", None):
        raise Unfit("an ImageDataset that gives bytes, other features, or images that are not RGB")
    return ReaderSource(dataset=dataset, loader=dataset.reader, facts=facts)


def _labelling(dataset: Any, title: str) -> Literal["int", "first"]:
    if title == "MNIST":
        return "int"
    if dataset.compat is not True:
        raise Unfit("QMNIST with compat=False has labels of eight numbers")
    return "first"


def _fake(dataset: Any) -> FakeSource:
    size = dataset.image_size
    whole = (type(dataset.size), type(dataset.num_classes), type(dataset.random_offset)) == (int, int, int)
    if not whole or type(size) is not tuple or len(size) != 3 or size[0] not in (1, 3) or any(type(number) is not int for number in size):
        raise Unfit("FakeData has sizes that are not followed")
    return FakeSource(dataset=dataset, count=dataset.size, size=size, classes=dataset.num_classes, offset=dataset.random_offset)


def _plain_numbers(indices: Any) -> bool:
    """Return whether code that is given these cannot tell them from Python's whole numbers, by their range or by what is computed of them."""
    if type(indices) is np.ndarray:
        return indices.dtype == np.int64
    return type(indices) is not torch.Tensor and set(map(type, indices)) <= {int, np.int64}


def _fit_indices(indices: Any) -> bool:
    """Return whether `indices` are read by place, like a list."""
    if type(indices) is torch.Tensor:
        return indices.dim() == 1 and indices.device.type == "cpu" and indices.dtype in (torch.int64, torch.int32)
    if type(indices) is np.ndarray:
        return indices.ndim == 1 and indices.dtype.kind in "iu"
    return type(indices) in (list, tuple, range)


def _picked(indices: Any, place_B: np.ndarray) -> np.ndarray:
    if type(indices) is torch.Tensor:
        indices = indices.numpy()
    if type(indices) is np.ndarray:
        return indices[place_B].astype(np.int64, copy=False)
    listed: Sequence[Any] = indices
    return np.array([operator.index(listed[place]) for place in place_B.tolist()], np.int64)


def _within(place_B: np.ndarray, count: int) -> None:
    if len(place_B) and (place_B.min() < 0 or place_B.max() >= count):
        raise IndexError(f"a place is outside the {count} samples")
