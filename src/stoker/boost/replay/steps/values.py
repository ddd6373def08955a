"""Between images and tensors, and from one type of number to another: every value of the result is a function of one value of the image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.step import Known
from stoker.boost.replay.unfit import Unfit


@dataclass(frozen=True, kw_only=True)
class ToTensor(Known):
    """`ToTensor`: bytes become float32 in [0, 1], other types keep their values."""

    def after(self, look: Look) -> Look:
        if look.form in ("tensor", "image"):
            return _as_it_was(self, look)
        return replace(look, form="tensor", dtype=torch.float32 if look.dtype == torch.uint8 else look.dtype)


@dataclass(frozen=True, kw_only=True)
class PILToTensor(Known):
    """`PILToTensor`: a tensor of bytes."""

    def after(self, look: Look) -> Look:
        return replace(look, form="tensor") if look.form == "pil" else _as_it_was(self, look)


@dataclass(frozen=True, kw_only=True)
class ToArray(Known):
    """timm's `ToNumpy` at the end of a pipeline: an array C H W of bytes."""

    def after(self, look: Look) -> Look:
        if look.form != "pil":
            raise Unfit(f"{self.name} is given a {look.form}")
        return replace(look, form="array")


@dataclass(frozen=True, kw_only=True)
class ToImage(Known):
    """`v2.ToImage`: a `tv_tensors.Image` of the same values."""

    def after(self, look: Look) -> Look:
        return replace(look, form="image")


@dataclass(frozen=True, kw_only=True)
class ToPureTensor(Known):
    """`v2.ToPureTensor`: a plain tensor of the same memory."""

    def after(self, look: Look) -> Look:
        return replace(look, form="tensor") if look.form == "image" else look


@dataclass(frozen=True, kw_only=True)
class ToPILImage(Known):
    """`ToPILImage` without a mode, or with the one that goes with the channels: bytes as they are, floats times 255, cut off."""

    mode: str | None

    def after(self, look: Look) -> Look:
        if look.form == "pil":
            return _as_it_was(self, look)
        floats = look.form != "array" and look.dtype.is_floating_point
        if not (look.dtype == torch.uint8 or floats) or look.channels not in (1, 3) or self.mode not in (None, {1: "L", 3: "RGB"}[look.channels]):
            raise Unfit(f"{self.name} makes an image of a mode that is not followed")
        return replace(look, form="pil", dtype=torch.uint8)


@dataclass(frozen=True, kw_only=True)
class ToDtype(Known):
    """`v2.ToDtype`: another type; with `scale` the range of the one type becomes the range of the other. PIL images pass as they are."""

    dtypes: dict[str, torch.dtype | None]
    """By form: `tensor`, `image`; a form that is missing is an error, None leaves it as it is."""
    scale: bool

    def after(self, look: Look) -> Look:
        if look.form in ("pil", "array"):
            return look
        if look.form not in self.dtypes:
            raise Unfit(f"{self.name} has no type for it")
        return replace(look, dtype=self.dtypes[look.form] or look.dtype)


@dataclass(frozen=True, kw_only=True)
class ConvertImageDtype(Known):
    """`ConvertImageDtype`: another type, and its range."""

    dtype: torch.dtype

    def after(self, look: Look) -> Look:
        return replace(look, dtype=self.dtype) if look.form in ("tensor", "image") else _as_it_was(self, look)


@dataclass(frozen=True, kw_only=True)
class Normalize(Known):
    """`Normalize`: minus `mean`, divided by `std`, a channel at a time."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    inplace: bool

    def after(self, look: Look) -> Look:
        if look.form not in ("tensor", "image") or not look.dtype.is_floating_point:
            raise Unfit(f"{self.name} wants a tensor of floats")
        channels = max(look.channels, len(self.mean), len(self.std))
        fits = {look.channels, len(self.mean), len(self.std)} <= {1, channels}
        # v2 lets one channel become as many as there are means; v1 and in-place refuse.
        if not fits or (channels != look.channels and (self.family == "v1" or self.inplace or len(self.mean) != channels)):
            raise Unfit(f"{self.name} does not fit an image of {look.channels} channels")
        return replace(look, channels=channels)


def _as_it_was(step: Known, look: Look) -> Look:
    """Return `look`: v2 hands through what is not its own. Raises `Unfit` for v1, which raises."""
    if step.family == "v1":
        raise Unfit(f"{step.name} is given a {look.form}")
    return look
