"""Resizing and rotating: every pixel of the result is computed from several of the image's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.draws import area_and_aspect, place, uniform
from stoker.boost.replay.steps.family import act, functional, image_only
from stoker.boost.replay.steps.step import Known
from stoker.boost.replay.stream import Stream


@dataclass(frozen=True, kw_only=True)
class Resize(Known):
    """`Resize`: to a height and width, or by the shorter side."""

    size: tuple[int, ...] | None
    """(height, width), (shorter side,), or None where only `max_size` counts."""
    max_size: int | None

    def after(self, look: Look) -> Look:
        look = image_only(look, self.name)
        if self.size is not None and len(self.size) == 2:
            return replace(look, height=self.size[0], width=self.size[1])
        F = functional(self)
        shape = F if self.family == "v1" else F._geometry
        size = None if self.size is None else list(self.size)
        height, width = shape._compute_resized_output_size((look.height, look.width), size, self.max_size)
        return replace(look, height=int(height), width=int(width))


@dataclass(frozen=True, kw_only=True)
class ResizedCrop(Known):
    """`RandomResizedCrop`. Drawn: (top, left, height, width) of the part that is resized."""

    height: int
    width: int
    scale: tuple[float, float]
    """Of the area."""
    ratio: tuple[float, float]
    """Width to height."""
    log_ratio: tuple[float, float]
    """As torch computes it, in float32."""

    @property
    def draws(self) -> bool:
        return True

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        look = image_only(look, self.name)
        for _ in range(10):
            area, aspect = area_and_aspect(stream, look.height * look.width, self.scale, self.log_ratio)
            width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < width <= look.width and 0 < height <= look.height:
                top = place(stream, look.height - height)
                left = place(stream, look.width - width)
                return (top, left, height, width), self.after(look)
        return middle(look.height, look.width, self.ratio), self.after(look)

    def words(self, look: Look) -> int | None:
        return None

    def after(self, look: Look) -> Look:
        return replace(look, height=self.height, width=self.width)

    def apply(self, image: Any, drawn: Any) -> Any:
        top, left, height, width = drawn
        if self.family == "v2":
            return act(self, image, {"top": top, "left": left, "height": height, "width": width})
        own = self.twin
        return functional(self).resized_crop(image, top, left, height, width, own.size, own.interpolation, antialias=own.antialias)


def middle(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of what a random resized crop takes when ten draws have not fitted."""
    aspect, crop_height, crop_width = float(width) / float(height), height, width
    if aspect < min(ratio):
        crop_height = round(width / min(ratio))
    elif aspect > max(ratio):
        crop_width = round(height * max(ratio))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


@dataclass(frozen=True, kw_only=True)
class Rotation(Known):
    """`RandomRotation` that keeps the size. Drawn: the angle in degrees."""

    degrees: tuple[float, float]

    @property
    def draws(self) -> bool:
        return True

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        if look is not None:
            image_only(look, self.name)
        return uniform(stream, *self.degrees), look

    def words(self, look: Look) -> int | None:
        return None

    def apply(self, image: Any, drawn: Any) -> Any:
        if self.family == "v2":
            return act(self, image, {"angle": drawn})
        F, own = functional(self), self.twin
        return F.rotate(image, drawn, own.interpolation, own.expand, own.center, _fill(own.fill, image, F))


@dataclass(frozen=True, kw_only=True)
class Affine(Known):
    """`RandomAffine`. Drawn: angle, (dx, dy), scale, (shear x, shear y), as torchvision names them."""

    degrees: tuple[float, float]
    translate: tuple[float, float] | None
    scale: tuple[float, float] | None
    shear: tuple[float, ...] | None

    @property
    def draws(self) -> bool:
        return True

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        look = image_only(look, self.name)
        angle, shift, scale, shear_x, shear_y = uniform(stream, *self.degrees), (0, 0), 1.0, 0.0, 0.0
        if self.translate is not None:
            across, down = float(self.translate[0] * look.width), float(self.translate[1] * look.height)
            dx = round(uniform(stream, -across, across))
            shift = (dx, round(uniform(stream, -down, down)))
        if self.scale is not None:
            scale = uniform(stream, self.scale[0], self.scale[1])
        if self.shear is not None:
            shear_x = uniform(stream, self.shear[0], self.shear[1])
            if len(self.shear) == 4:
                shear_y = uniform(stream, self.shear[2], self.shear[3])
        return {"angle": angle, "translate": shift, "scale": scale, "shear": (shear_x, shear_y)}, look

    def words(self, look: Look) -> int | None:
        return None

    def apply(self, image: Any, drawn: Any) -> Any:
        if self.family == "v2":
            return act(self, image, drawn)
        F, own = functional(self), self.twin
        return F.affine(image, *drawn.values(), interpolation=own.interpolation, fill=_fill(own.fill, image, F), center=own.center)


def _fill(fill: Any, image: Any, F: Any) -> Any:
    """Return `fill` as v1's `forward` hands it on: a list of floats for tensors."""
    if not isinstance(image, torch.Tensor):
        return fill
    if isinstance(fill, (int, float)):
        return [float(fill)] * F.get_dimensions(image)[0]
    return [float(value) for value in fill]
