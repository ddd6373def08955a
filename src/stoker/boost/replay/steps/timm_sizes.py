"""timm's transforms that bring an image to a size: keeping its shape, cropping or padding."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import dataclass, replace
from typing import Any

from stoker.boost.replay.classes import body_unknown
from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.family import functional, image_only
from stoker.boost.replay.steps.makers import Shared, number, pair, size_of
from stoker.boost.replay.steps.step import Known
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit

MODULE = "timm.data.transforms"


@dataclass(frozen=True, kw_only=True)
class KeptRatio(Known):
    """`ResizeKeepRatio`. Drawn: (height, width), and by which interpolation."""

    size: tuple[int, int]
    """Height and width to come close to."""
    varies: bool
    """Whether anything of it is drawn."""

    @property
    def draws(self) -> bool:
        return self.varies

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        if not self.varies:
            return super().draw(stream, look)
        look = image_only(look, self.name)
        height, width = self._sized(look, *self._factors(stream.python))
        return (height, width, interpolation_of(self.twin, stream.python)), replace(look, height=height, width=width)

    def _factors(self, python: random.Random) -> tuple[float, float]:
        own, down, across = self.twin, 1.0, 1.0
        if own.random_scale_prob > 0 and python.random() < own.random_scale_prob:
            factor = python.uniform(*own.random_scale_range)
            down = across = 1.0 / math.sqrt(factor) if own.random_scale_area else factor
        if own.random_aspect_prob > 0 and python.random() < own.random_aspect_prob:
            low, high = own.random_aspect_range
            aspect = math.sqrt(math.exp(python.uniform(math.log(low), math.log(high))))
            down, across = down / aspect, across * aspect
        return down, across

    def _sized(self, look: Look, down: float, across: float) -> tuple[int, int]:
        rows, columns = look.height / self.size[0], look.width / self.size[1]
        ratio = max(rows, columns) * self.twin.longest + min(rows, columns) * (1.0 - self.twin.longest)
        return round(look.height * down / ratio), round(look.width * across / ratio)

    def words(self, look: Look) -> int | None:
        return None if self.varies else 0

    def after(self, look: Look) -> Look:
        if self.varies:
            raise Unfit(f"the size after {self.name} is drawn")
        height, width = self._sized(image_only(look, self.name), 1.0, 1.0)
        return replace(look, height=height, width=width)

    def apply(self, image: Any, drawn: Any) -> Any:
        if drawn is None:
            return self.twin(image)
        height, width, interpolation = drawn
        return functional(self).resize(image, [height, width], interpolation)


@dataclass(frozen=True, kw_only=True)
class MiddleOrPad(Known):
    """`CenterCropOrPad`: the middle, with a border where the image is too small."""

    size: tuple[int, int]
    """Height and width."""

    def after(self, look: Look) -> Look:
        return replace(image_only(look, self.name), height=self.size[0], width=self.size[1])


@dataclass(frozen=True, kw_only=True)
class CropOrPad(Known):
    """`RandomCropOrPad`. Drawn: (top, left), below zero where the image is too small."""

    size: tuple[int, int]
    """Height and width."""

    @property
    def draws(self) -> bool:
        return True

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        look = image_only(look, self.name)
        top = self._place(stream.python, look.height - self.size[0])
        return (top, self._place(stream.python, look.width - self.size[1])), self.after(look)

    @staticmethod
    def _place(python: random.Random, spare: int) -> int:
        return int(math.copysign(python.randint(0, abs(spare)), spare))

    def words(self, look: Look) -> int | None:
        return None

    def after(self, look: Look) -> Look:
        return replace(look, height=self.size[0], width=self.size[1])

    def apply(self, image: Any, drawn: Any) -> Any:
        place = {"top": drawn[0], "left": drawn[1], "height": self.size[0], "width": self.size[1]}
        return vars(sys.modules[MODULE])["crop_or_pad"](image, **place, fill=self.twin.fill, padding_mode=self.twin.padding_mode)


def interpolation_of(of: Any, python: random.Random) -> Any:
    """Return the interpolation of a transform, drawn where it has several."""
    return python.choice(of.interpolation) if _has_several(of) else of.interpolation


def _has_several(of: Any) -> bool:
    return isinstance(of.interpolation, (tuple, list))


def kept_ratio(of: Any, shared: Shared) -> KeptRatio:
    """Return the step. Raises TypeError, ValueError or AttributeError for parameters that are no plain numbers, as all makers do."""
    for part in (of.random_scale_range, of.random_aspect_range):
        pair(part)
    varies = _has_several(of) or number(of.random_scale_prob) > 0 or number(of.random_aspect_prob) > 0
    if number(of.longest) < 0:
        raise ValueError(of.longest)
    size = size_of(of.size)
    return KeptRatio(**shared, name=f"ResizeKeepRatio({size})", size=size, varies=varies)


def middle_or_pad(of: Any, shared: Shared) -> MiddleOrPad:
    """As `kept_ratio`."""
    return MiddleOrPad(**shared, name=f"CenterCropOrPad({size_of(of.size)})", size=_read(of, "center_crop_or_pad", "_setup_size"))


def crop_or_pad(of: Any, shared: Shared) -> CropOrPad:
    """As `kept_ratio`."""
    return CropOrPad(**shared, name=f"RandomCropOrPad({size_of(of.size)})", size=_read(of, "crop_or_pad"))


def _read(of: Any, *functions: str) -> tuple[int, int]:
    """Return the transform's size. Raises ValueError where one of timm's functions that it calls was not read."""
    if any(body_unknown(vars(sys.modules[MODULE])[name], name) is not None for name in functions):
        raise ValueError(functions)
    return size_of(of.size)
