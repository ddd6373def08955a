"""timm's policies, `RandAugment` and `AutoAugment`: what they draw from Python's `random` and from numpy, apart from what they do to the image."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from stoker.boost.replay.classes import body_unknown
from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.makers import Shared, number
from stoker.boost.replay.steps.step import Known
from stoker.boost.replay.steps.watch import Watch
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit

MODULE = "timm.data.auto_augment"
_INNER = ("_check_args_tf", "_interpolation", "_randomly_negate", "gaussian_blur")
"""Functions that those of an operation call, or that stand in for one."""

Operation = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function of timm's, and what it is given besides the image: nothing in it draws any more."""


@dataclass(frozen=True, kw_only=True)
class TimmPolicy(Known):
    """`RandAugment` or `AutoAugment`. Drawn: the operations that run."""

    watches: tuple[Watch, ...] = field(repr=False)
    """Of every operation."""

    @property
    def draws(self) -> bool:
        return True

    def current(self) -> bool:
        return self.watch.same() and all(watch.same() for watch in self.watches)

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        if look is not None and look.form != "pil":
            raise Unfit(f"{self.name} is given a {look.form}")
        drawn = [_operation(stream.python, one) for one in self._chosen(stream)]
        return [one for one in drawn if one is not None], look

    def _chosen(self, stream: Stream) -> list[Any]:
        own = self.twin
        if type(own).__name__ == "AutoAugment":
            policy: list[Any] = stream.python.choice(own.policy)
            return policy
        weights = own.choice_weights
        places = stream.numpy.choice(len(own.ops), own.num_layers, replace=weights is None, p=weights)
        return [own.ops[place] for place in places]

    def words(self, look: Look) -> int | None:
        return None

    def apply(self, image: Any, drawn: Any) -> Any:
        for function, arguments, keywords in drawn:
            image = function(image, *arguments, **keywords)
        return image


def _operation(python: random.Random, one: Any) -> Operation | None:
    """Draw what an `AugmentOp` draws, None where it leaves the image as it is."""
    if one.prob < 1.0 and python.random() > one.prob:
        return None
    level = _level(python, one)
    arguments = () if one.level_fn is None else _drawing_from(python, one.level_fn)(level, one.hparams)
    keywords = dict(one.kwargs)
    if one.aug_fn.__name__ == "gaussian_blur_rand":
        return vars(sys.modules[MODULE])["gaussian_blur"], (python.uniform(0.1, 2.0 * arguments[0]),), keywords
    if "_check_args_tf" in one.aug_fn.__code__.co_names and isinstance(keywords.get("resample"), (list, tuple)):
        keywords["resample"] = python.choice(keywords["resample"])
    return one.aug_fn, arguments, keywords


def _level(python: random.Random, one: Any) -> float:
    level: float = one.magnitude
    if one.magnitude_std > 0:
        level = python.uniform(0, level) if one.magnitude_std == float("inf") else python.gauss(level, one.magnitude_std)
    return max(0.0, min(level, one.magnitude_max or vars(sys.modules[MODULE])["_LEVEL_DENOM"]))


def _drawing_from(python: random.Random, function: Any) -> Callable[..., tuple[Any, ...]]:
    """Return timm's function from a magnitude to arguments with its coin tossed by `python`, not by the global generator."""
    if isinstance(function, functools.partial) or "_randomly_negate" not in function.__code__.co_names:
        found: Callable[..., tuple[Any, ...]] = function
        return found
    return FunctionType(function.__code__, {**function.__globals__, "_randomly_negate": lambda value: -value if python.random() > 0.5 else value})


def policy(of: Any, shared: Shared) -> TimmPolicy:
    """Return the step of a policy. Raises TypeError, ValueError or AttributeError where not all in it was read."""
    operations = [one for part in of.policy for one in part] if type(of).__name__ == "AutoAugment" else list(of.ops)
    inner = [vars(sys.modules[MODULE])[name] for name in _INNER]
    if not operations or not all(map(_was_read, [*inner, *(function for one in operations for function in _functions(one))])):
        raise ValueError(of)
    watches = tuple(Watch(one, ("__call__",)) for one in operations)
    return TimmPolicy(**shared, name=f"{type(of).__name__}(...)", watches=watches)


def _functions(one: Any) -> list[Any]:
    if type(one) is not vars(sys.modules[MODULE])["AugmentOp"] or "__call__" in vars(one):
        raise TypeError(one)
    for value in (one.prob, one.magnitude, one.magnitude_std):
        number(value)
    level = one.level_fn
    if isinstance(level, functools.partial):
        level = level.func
    return [type(one).__call__, one.aug_fn, *([] if level is None else [level])]


def _was_read(function: Any) -> bool:
    return body_unknown(function, function.__qualname__) is None
