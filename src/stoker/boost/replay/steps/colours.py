"""Grey, brightness, contrast, saturation, hue and other changes of colour that keep the size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import CodeType, FunctionType
from typing import Any, Literal

import torch

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.draws import uniform
from stoker.boost.replay.steps.family import act, functional, image_only
from stoker.boost.replay.steps.step import Known
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit

_ARGUMENTS = CO_VARARGS | CO_VARKEYWORDS
Range = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Grayscale(Known):
    """`Grayscale`: one channel, or three equal ones."""

    channels: int

    def after(self, look: Look) -> Look:
        look = image_only(look, self.name)
        if look.form == "pil":
            return replace(look, channels=self.channels)
        if look.channels not in (1, 3):
            raise Unfit(f"{self.name} is given {look.channels} channels")
        # v1 hands one channel through, however many are wanted.
        return look if self.family == "v1" and look.channels == 1 else replace(look, channels=self.channels)


@dataclass(frozen=True, kw_only=True)
class ToRGB(Known):
    """`v2.RGB`: one channel becomes three equal ones."""

    def after(self, look: Look) -> Look:
        look = image_only(look, self.name)
        if look.form == "pil" or look.channels == 1:
            return replace(look, channels=3)
        if look.channels == 2:
            raise Unfit(f"{self.name} is given two channels")
        return look


@dataclass(frozen=True, kw_only=True)
class Sometimes(Known):
    """A change with probability `p`, all of one kind: `RandomGrayscale`, `RandomInvert`, `RandomEqualize`, ... Drawn: whether."""

    p: float
    function: str
    """In torchvision's functional module."""
    arguments: tuple[Any, ...]
    """After the image."""
    compared: Literal["tensor", "number"]
    """v1 compares either the tensor with `p` (then in float32) or its `item()` (then in float64)."""

    @property
    def draws(self) -> bool:
        return True

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        if look is not None:
            image_only(look, self.name)
        drawn = torch.rand(1, generator=stream.generator)
        return bool((drawn if self.compared == "tensor" else drawn.item()) < self.p), look

    def words(self, look: Look) -> int | None:
        return None

    def apply(self, image: Any, drawn: Any) -> Any:
        if not drawn:
            return image
        F = functional(self)
        grey = self.function == "rgb_to_grayscale"
        channels = F.get_dimensions(image)[0] if grey else 0
        if self.family == "v2":
            return act(self, image, {"num_input_channels": channels} if grey else {})
        if grey:
            return F.rgb_to_grayscale(image, num_output_channels=channels)
        return getattr(F, self.function)(image, *self.arguments)


@dataclass(frozen=True, kw_only=True)
class ColorJitter(Known):
    """`ColorJitter`. Drawn: the order, then the factors of brightness, contrast, saturation and hue (None where there is none)."""

    brightness: Range
    contrast: Range
    saturation: Range
    hue: Range

    @property
    def draws(self) -> bool:
        return True

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        if look is not None:
            image_only(look, self.name)
        order = torch.randperm(4, generator=stream.generator).tolist()
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        return (order, *(None if limits is None else uniform(stream, *limits) for limits in ranges)), look

    def words(self, look: Look) -> int | None:
        return None

    def apply(self, image: Any, drawn: Any) -> Any:
        order, *factors = drawn
        if self.family == "v2":
            names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
            return act(self, image, {"fn_idx": order, **dict(zip(names, factors, strict=True))})
        F = functional(self)
        functions = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        for place in order:
            if factors[place] is not None:
                image = functions[place](image, factors[place])
        return image


@dataclass(frozen=True, kw_only=True)
class Blur(Known):
    """`GaussianBlur`. Drawn: sigma in pixels."""

    sigma: tuple[float, float]

    @property
    def draws(self) -> bool:
        return True

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        if look is not None:
            image_only(look, self.name)
        return uniform(stream, *self.sigma), look

    def words(self, look: Look) -> int | None:
        return None

    def apply(self, image: Any, drawn: Any) -> Any:
        if self.family == "v2":
            return act(self, image, {"sigma": [drawn, drawn]})
        return functional(self).gaussian_blur(image, self.twin.kernel_size, [drawn, drawn])


@dataclass(frozen=True, kw_only=True)
class Convert(Known):
    """A function of the user's that is nothing but `image.convert("RGB")`."""

    def after(self, look: Look) -> Look:
        if look.form != "pil":
            raise Unfit(f"{self.name} is given a {look.form}")
        return replace(look, channels=3)

    def apply(self, image: Any, drawn: Any) -> Any:
        return image.convert("RGB")


def converts(function: Any) -> bool:
    """Return whether this is a plain function of one argument that returns `argument.convert("RGB")`: the same bytecode, names and constants."""
    code, known = getattr(function, "__code__", None), _to_rgb.__code__
    return isinstance(function, FunctionType) and code is not None and code.co_argcount == 1 and _body(code) == _body(known)


def _body(code: CodeType) -> tuple[Any, ...]:
    constants = tuple(value for value in code.co_consts if value is not None)
    return code.co_code, code.co_names, constants, code.co_freevars, code.co_cellvars, code.co_kwonlyargcount, code.co_flags & _ARGUMENTS


def _to_rgb(image: Any) -> Any:
    return image.convert("RGB")
