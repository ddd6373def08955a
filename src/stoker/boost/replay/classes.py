"""Which data set classes are known: torchvision's, PyTorch's and timm's own, and subclasses that change nothing that matters."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stoker.boost.replay.bodies import BODIES, TIMM, fingerprint
from stoker.boost.replay.glance import Glance
from stoker.boost.replay.unfit import Unfit

_ABSENT = object()
_VISION = "torchvision.datasets"
_TORCH = "torch.utils.data"
_TIMM = "timm.data"
_LIBRARIES = ("torch", "torchvision", "timm")

KNOWN: dict[str, tuple[str, tuple[str, ...]]] = {
    "TensorDataset": (_TORCH, ("tensors",)),
    "Subset": (_TORCH, ("dataset", "indices")),
    "ConcatDataset": (_TORCH, ("datasets", "cumulative_sizes")),
    "QMNIST": (_VISION, ("data", "targets", "transform", "target_transform", "compat")),
    "MNIST": (_VISION, ("data", "targets", "transform", "target_transform")),
    "CIFAR10": (_VISION, ("data", "targets", "transform", "target_transform")),
    "SVHN": (_VISION, ("data", "labels", "transform", "target_transform")),
    "STL10": (_VISION, ("data", "labels", "transform", "target_transform")),
    "DatasetFolder": (_VISION, ("samples", "loader", "transform", "target_transform")),
    "FakeData": (_VISION, ("size", "image_size", "num_classes", "random_offset", "transform", "target_transform")),
    "ImageDataset": (_TIMM, ("reader", "load_bytes", "input_img_mode", "transform", "target_transform")),
}
"""By class: where it is, and the attributes that its `__getitem__` reads from the instance.

FashionMNIST, KMNIST and EMNIST are MNIST's subclasses, CIFAR100 is CIFAR10's, ImageFolder is DatasetFolder's.
A class stands behind its own subclasses.
"""

_FOLLOWED = ("DatasetFolder",)
"""Classes whose subclasses are read where they have a `__getitem__` of their own."""
_METHODS = ("__getitem__", "__getitems__", "__len__", "__getattr__", "__getattribute__")


OWN = "own"
"""Stands for a class of the script's own."""


def known_class(dataset: Any) -> str:
    """Return the name in `KNOWN` of the class that `dataset` behaves like, or `OWN`. Raises Unfit."""
    kind = type(dataset)
    for title, (module, attributes) in KNOWN.items():
        known = getattr(sys.modules.get(module), title, None)
        if isinstance(known, type) and issubclass(kind, known) and known.__module__.startswith(module):
            if title in _FOLLOWED and _is_own(kind, known):
                return OWN
            _check_methods(kind, known, title)
            _check_instance(dataset, attributes)
            return title
    library = kind.__module__.partition(".")[0]
    if library in ("torchvision", "timm"):
        raise Unfit(f"{library}'s {kind.__name__} is not among the data sets that are replayed")
    if not isinstance(dataset, torch.utils.data.Dataset):
        raise Unfit(f"{kind.__name__} is the script's own class, and no Dataset of PyTorch's")
    return OWN


def _is_own(kind: type, known: type) -> bool:
    """Whether a subclass of torchvision's has a `__getitem__` of the script's."""
    found = inspect.getattr_static(kind, "__getitem__", None)
    return found is not inspect.getattr_static(known, "__getitem__") and str(getattr(found, "__module__", "")).partition(".")[0] not in _LIBRARIES


def methods(dataset: Any) -> tuple[Any, ...]:
    """Return the functions that make samples, as they are now: they may be replaced while a script runs."""
    kind = type(dataset)
    return kind, *(getattr(kind, name, None) for name in _METHODS)


def look_at_methods(dataset: Any, found: tuple[Any, ...], glance: Glance) -> None:
    """Have `glance` find out whether `methods` would return `found`."""
    glance.holds(type, dataset, found[0])
    glance.holds_functions(found[0], _METHODS, found[1:])


def check_loader(loader: Any) -> None:
    """Raise Unfit unless `loader` is torchvision's `default_loader` or `pil_loader` as they were read."""
    folder = sys.modules.get(f"{_VISION}.folder")
    if loader is not getattr(folder, "default_loader", _ABSENT) and loader is not getattr(folder, "pil_loader", _ABSENT):
        raise Unfit(f"its loader is the script's own: {getattr(loader, '__qualname__', type(loader).__name__)}{line_of(loader)}")
    for title in ("default_loader", "pil_loader"):
        if (reason := body_unknown(getattr(folder, title), title)) is not None:
            raise Unfit(reason)


def known_reader(reader: Any) -> None:
    """Raise Unfit unless `reader`, which a data set of timm's has its files from, is timm's reader of folders as it was read."""
    kind = type(reader)
    if kind is not getattr(sys.modules.get(f"{_TIMM}.readers.reader_image_folder"), "ReaderImageFolder", None):
        raise Unfit(f"its samples come from a {kind.__name__}, not from a folder of images")
    _check_methods(kind, kind, "ReaderImageFolder")
    _check_instance(reader, ("samples",))


def body_unknown(function: Callable[..., Any], title: str) -> str | None:
    """Return None where the source of `function` is one that was read, else the reason."""
    try:
        known = _hash(function) in (BODIES.get(title) or TIMM.get(title, ()))
        top = str(function.__globals__["__name__"]).partition(".")[0]
    except (AttributeError, KeyError, OSError, TypeError, ValueError, SyntaxError) as error:
        return f"{title} cannot be read ({type(error).__name__})"
    if top not in _LIBRARIES:
        return f"{title} was replaced{line_of(function)}"
    return None if known else f"{top} {getattr(sys.modules.get(top), '__version__', '')} has another {title} than is known"


@functools.cache
def _hash(function: Callable[..., Any]) -> str:
    return fingerprint(function)


def _check_methods(kind: type, known: type, title: str) -> None:
    for name in _METHODS:
        found, own = inspect.getattr_static(kind, name, _ABSENT), inspect.getattr_static(known, name, _ABSENT)
        if found is not own:
            raise Unfit(f"{kind.__name__} has its own {name}{line_of(found)}")
        if own is _ABSENT or name in ("__getattribute__", "__getattr__"):
            continue
        if (reason := body_unknown(own, f"{title}.{name}")) is not None:
            raise Unfit(reason)
    for name in ("__getattribute__", "__getattr__"):
        # Neither torchvision's data sets nor PyTorch's have any but object's.
        if inspect.getattr_static(kind, name, _ABSENT) not in (_ABSENT, inspect.getattr_static(object, name, _ABSENT)):
            raise Unfit(f"{kind.__name__} has its own {name}")


def _check_instance(dataset: Any, attributes: tuple[str, ...]) -> None:
    kind, own = type(dataset), vars(dataset)
    if "__getitems__" in own:
        raise Unfit(f"this {kind.__name__} has a __getitems__ of its own")
    for name in attributes:
        if hasattr(inspect.getattr_static(kind, name, None), "__get__"):
            raise Unfit(f"{kind.__name__} computes its attribute {name}")
        if name not in own:
            raise Unfit(f"this {kind.__name__} has no {name} of its own")


def line_of(function: Any) -> str:
    """Return the place of a function for a reason, ` (train.py:12)`; empty where it is not known."""
    code = getattr(function, "__code__", None)
    return "" if code is None else f" ({Path(code.co_filename).name}:{code.co_firstlineno})"
