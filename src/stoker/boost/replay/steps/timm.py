"""Transforms of timm's own: its random resized crop and its erasing draw from Python's `random`."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch

from stoker.boost.replay.classes import body_unknown
from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.family import functional, image_only
from stoker.boost.replay.steps.makers import Shared, number, pair, size_of
from stoker.boost.replay.steps.resampling import middle
from stoker.boost.replay.steps.step import Known
from stoker.boost.replay.steps.timm_policies import policy
from stoker.boost.replay.steps.timm_sizes import crop_or_pad, interpolation_of, kept_ratio, middle_or_pad
from stoker.boost.replay.steps.values import PILToTensor, ToArray, ToTensor
from stoker.boost.replay.steps.watch import Watch
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit

_MODULES = ("timm.data.transforms", "timm.data.random_erasing", "timm.data.auto_augment")
_LOOKS = ("__init__", "__repr__")
"""Functions that no sample passes through."""


@dataclass(frozen=True, kw_only=True)
class InterpolatedCrop(Known):
    """`RandomResizedCropAndInterpolation`. Drawn: (top, left, height, width) of the part that is resized, and by which interpolation."""

    height: int
    width: int
    scale: tuple[float, float]
    """Of the area."""
    ratio: tuple[float, float]
    """Width to height."""

    @property
    def draws(self) -> bool:
        return True

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        look = image_only(look, self.name)
        part = self._part(stream, look.height, look.width)
        return (*part, interpolation_of(self.twin, stream.python)), self.after(look)

    def _part(self, stream: Stream, height: int, width: int) -> tuple[int, int, int, int]:
        python, area = stream.python, width * height
        for _ in range(10):
            part = python.uniform(*self.scale) * area
            aspect = math.exp(python.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            part_width, part_height = round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))
            if part_width <= width and part_height <= height:
                top = python.randint(0, height - part_height)
                return top, python.randint(0, width - part_width), part_height, part_width
        return middle(height, width, self.ratio)

    def words(self, look: Look) -> int | None:
        return None

    def after(self, look: Look) -> Look:
        return replace(look, height=self.height, width=self.width)

    def apply(self, image: Any, drawn: Any) -> Any:
        top, left, height, width, interpolation = drawn
        return functional(self).resized_crop(image, top, left, height, width, self.twin.size, interpolation)


@dataclass(frozen=True, kw_only=True)
class Spots(Known):
    """timm's `RandomErasing` of one image on the CPU. Drawn: (top, left, height, width, pixels) of every block, pixels as a tensor."""

    @property
    def draws(self) -> bool:
        return True

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        look = image_only(look, self.name)
        if look.form != "tensor" or not look.dtype.is_floating_point:
            raise Unfit(f"{self.name} is given a {look.form} of {look.dtype}")
        python, own = stream.python, self.twin
        if python.random() > own.probability:
            return [], look
        count = own.min_count if own.min_count == own.max_count else python.randint(own.min_count, own.max_count)
        spots = [self._spot(stream, look, count) for _ in range(count)]
        return [spot for spot in spots if spot is not None], look

    def _spot(self, stream: Stream, look: Look, count: int) -> tuple[int, int, int, int, torch.Tensor] | None:
        python, own = stream.python, self.twin
        for _ in range(10):
            area = python.uniform(own.min_area, own.max_area) * (look.height * look.width) / count
            aspect = math.exp(python.uniform(*own.log_aspect_ratio))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if width < look.width and height < look.height:
                top = python.randint(0, look.height - height)
                left = python.randint(0, look.width - width)
                return top, left, height, width, self._pixels(stream, look, height, width)
        return None

    def _pixels(self, stream: Stream, look: Look, height: int, width: int) -> torch.Tensor:
        if self.twin.per_pixel:
            return torch.empty((look.channels, height, width), dtype=look.dtype).normal_(generator=stream.generator)
        colour = torch.empty((look.channels, 1, 1), dtype=look.dtype)
        return colour.normal_(generator=stream.generator) if self.twin.rand_color else colour.zero_()

    def words(self, look: Look) -> int | None:
        return None

    def apply(self, image: Any, drawn: Any) -> Any:
        for top, left, height, width, pixels in drawn:
            image[:, top : top + height, left : left + width] = pixels
        return image


def timm_step(transform: Any) -> Known | None:
    """Return the step of a transform of timm's own, None for any other and for one that was not read."""
    kind = type(transform)
    if kind.__name__ not in _MAKERS or kind.__module__ not in _MODULES or not _was_read(kind):
        return None
    functions = ("__call__", *(name for name, value in vars(kind).items() if isinstance(value, (FunctionType, staticmethod))))
    try:
        shared = {"of": transform, "twin": copy.deepcopy(transform), "watch": Watch(transform, functions), "family": "v1"}
        return _MAKERS[kind.__name__](transform, shared)
    except (TypeError, ValueError, AttributeError):
        return None


def _was_read(kind: type) -> bool:
    module = sys.modules[kind.__module__]
    members = {name: value.__func__ if isinstance(value, staticmethod) else value for name, value in vars(kind).items()}
    functions = {f"{kind.__name__}.{name}": value for name, value in members.items() if isinstance(value, FunctionType) and name not in _LOOKS}
    if kind.__name__ == "RandomErasing":
        functions["_get_pixels"] = vars(module)["_get_pixels"]
    return vars(module).get(kind.__name__) is kind and all(body_unknown(function, title) is None for title, function in functions.items())


def _crop(of: Any, shared: Shared) -> Known:
    height, width = size_of(of.size)
    name = f"RandomResizedCropAndInterpolation({height if height == width else (height, width)})"
    return InterpolatedCrop(**shared, name=name, height=height, width=width, scale=pair(of.scale), ratio=pair(of.ratio))


def _erasing(of: Any, shared: Shared) -> Known:
    if str(of.device) != "cpu":
        raise ValueError(of.device)
    return Spots(**shared, name=f"RandomErasing({number(of.probability)}, mode={of.mode!r})")


def _named(kind: type[Known], name: str) -> Callable[[Any, Shared], Known]:
    return lambda of, shared: kind(**shared, name=name)


_MAKERS: dict[str, Callable[[Any, Shared], Known]] = {
    "AutoAugment": policy,
    "CenterCropOrPad": middle_or_pad,
    "MaybePILToTensor": _named(PILToTensor, "MaybePILToTensor()"),
    "MaybeToTensor": _named(ToTensor, "MaybeToTensor()"),
    "RandAugment": policy,
    "RandomCropOrPad": crop_or_pad,
    "RandomErasing": _erasing,
    "RandomResizedCropAndInterpolation": _crop,
    "ResizeKeepRatio": kept_ratio,
    "ToNumpy": _named(ToArray, "ToNumpy()"),
}
