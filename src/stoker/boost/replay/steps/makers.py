"""From a transform of torchvision's to its step.

A maker raises TypeError, ValueError or AttributeError for parameters that it does not know what to make of.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any, Literal

import torch

from stoker.boost.replay.steps.colours import Blur, ColorJitter, Grayscale, Sometimes, ToRGB
from stoker.boost.replay.steps.draws import log_ratio
from stoker.boost.replay.steps.erasing import Erasing
from stoker.boost.replay.steps.geometry import CenterCrop, Crop, Flip, Pad, Sides
from stoker.boost.replay.steps.policies import Policy
from stoker.boost.replay.steps.resampling import Affine, Resize, ResizedCrop, Rotation
from stoker.boost.replay.steps.step import Known
from stoker.boost.replay.steps.values import ConvertImageDtype, Normalize, PILToTensor, ToDtype, ToImage, ToPILImage, ToPureTensor, ToTensor

Shared = dict[str, Any]
"""`of`, `twin`, `watch` and `family`, as every step has them."""
Maker = Callable[[Any, Shared], Known]


def _whole(value: Any, least: int = 0) -> int:
    number = operator.index(value)
    if number < least or isinstance(value, bool):
        raise ValueError(value)
    return number


def number(value: Any) -> float:
    """Return a plain number. Raises TypeError for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(value)
    return float(value)


def pair(values: Any) -> tuple[float, float]:
    """Return two plain numbers. Raises TypeError and ValueError."""
    first, second = values
    return number(first), number(second)


def size_of(values: Any) -> tuple[int, int]:
    """Return height and width. Raises TypeError and ValueError."""
    height, width = values
    return _whole(height, 1), _whole(width, 1)


def _sides(padding: Any) -> Sides:
    """Return left, top, right, bottom from 1, 2 (sideways, up and down) or 4 numbers."""
    if not isinstance(padding, (list, tuple)):
        padding = (padding,)
    numbers = [_whole(number) for number in padding]
    if len(numbers) not in (1, 2, 4):
        raise ValueError(padding)
    left, top, right, bottom = (numbers * 4 if len(numbers) == 1 else numbers * 2)[:4]
    return left, top, right, bottom


def _fill(of: Any, shared: Shared) -> Any:
    """Return the fill: a number, a tuple, None, or a dict of these by type."""
    fill = of._fill if shared["family"] == "v2" else of.fill
    return {key: _fill_value(value) for key, value in fill.items()} if isinstance(fill, dict) else _fill_value(fill)


def _fill_value(fill: Any) -> Any:
    if isinstance(fill, (list, tuple)):
        return tuple(number(value) if isinstance(value, float) else _whole(value) for value in fill)
    if fill is not None and not isinstance(fill, (int, float)):
        raise TypeError(fill)
    return fill


def _shown(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else str(size)


def _shown_sides(sides: Sides) -> str:
    return str(sides[0]) if len(set(sides)) == 1 else str(sides)


def crop(of: Any, shared: Shared) -> Known:
    size, padding = size_of(of.size), of.padding
    if padding is not None and shared["family"] == "v2":
        left, right, top, bottom = padding
        padding = (left, top, right, bottom)
    sides = None if padding is None else _sides(padding)
    name = f"RandomCrop({_shown(size)}" + (f", padding={_shown_sides(sides)}" if sides else "")
    name += (", pad_if_needed=True" if of.pad_if_needed else "") + (f", padding_mode={of.padding_mode!r})" if of.padding_mode != "constant" else ")")
    return Crop(
        **shared,
        name=name,
        height=size[0],
        width=size[1],
        padding=sides,
        pad_if_needed=bool(of.pad_if_needed),
        fill=_fill(of, shared),
        padding_mode=of.padding_mode,
    )


def pad(of: Any, shared: Shared) -> Known:
    sides = _sides(of.padding)
    name = f"Pad({_shown_sides(sides)}" + (f", padding_mode={of.padding_mode!r})" if of.padding_mode != "constant" else ")")
    return Pad(**shared, name=name, padding=sides, fill=_fill(of, shared), padding_mode=of.padding_mode)


def center_crop(of: Any, shared: Shared) -> Known:
    size = size_of(of.size)
    return CenterCrop(**shared, name=f"CenterCrop({_shown(size)})", height=size[0], width=size[1])


def flip(of: Any, shared: Shared) -> Known:
    title, p = type(of).__name__, number(of.p)
    return Flip(**shared, name=f"{title}({'' if p == 0.5 else p})", horizontal=title == "RandomHorizontalFlip", p=p)


def resize(of: Any, shared: Shared) -> Known:
    size = of.size
    if size is not None:
        size = tuple(_whole(side, 1) for side in size) if isinstance(size, (list, tuple)) else (_whole(size, 1),)
        if len(size) not in (1, 2):
            raise ValueError(size)
    shown = size[0] if size and len(size) == 1 else size
    longest = None if of.max_size is None else _whole(of.max_size, 1)
    return Resize(**shared, name=f"Resize({shown}{'' if longest is None else f', max_size={longest}'})", size=size, max_size=longest)


def resized_crop(of: Any, shared: Shared) -> Known:
    size, ratio = size_of(of.size), pair(of.ratio)
    name = f"RandomResizedCrop({_shown(size)})"
    return ResizedCrop(**shared, name=name, height=size[0], width=size[1], scale=pair(of.scale), ratio=ratio, log_ratio=log_ratio(of.ratio))


def rotation(of: Any, shared: Shared) -> Known:
    if of.expand:
        raise ValueError("the size is drawn")
    low, high = degrees = pair(of.degrees)
    return Rotation(**shared, name=f"RandomRotation({high if low == -high else degrees})", degrees=degrees)


def affine(of: Any, shared: Shared) -> Known:
    translate, scale = (None if limits is None else pair(limits) for limits in (of.translate, of.scale))
    shear = None if of.shear is None else tuple(number(value) for value in of.shear)
    if shear is not None and len(shear) not in (2, 4):
        raise ValueError(shear)
    degrees = pair(of.degrees)
    return Affine(**shared, name=f"RandomAffine({degrees})", degrees=degrees, translate=translate, scale=scale, shear=shear)


def normalize(of: Any, shared: Shared) -> Known:
    mean, std = (tuple(float(number) for number in values) for values in (of.mean, of.std))
    return Normalize(**shared, name=f"Normalize({mean}, {std})", mean=mean, std=std, inplace=bool(of.inplace))


def to_dtype(of: Any, shared: Shared) -> Known:
    forms: dict[str, Any] = {}
    for kind, form in ((torch.Tensor, "tensor"), (sys.modules["torchvision.tv_tensors"].Image, "image")):
        if isinstance(of.dtype, torch.dtype):
            forms[form] = of.dtype
            continue
        found = [key for key in of.dtype if key is kind]
        if found or "others" in of.dtype:
            forms[form] = of.dtype[found[0] if found else "others"]
    if not all(dtype is None or isinstance(dtype, torch.dtype) for dtype in forms.values()):
        raise TypeError(of.dtype)
    shown = of.dtype if isinstance(of.dtype, torch.dtype) else "{...}"
    return ToDtype(**shared, name=f"ToDtype({shown}{', scale=True' if of.scale else ''})", dtypes=forms, scale=bool(of.scale))


def convert_dtype(of: Any, shared: Shared) -> Known:
    if not isinstance(of.dtype, torch.dtype):
        raise TypeError(of.dtype)
    return ConvertImageDtype(**shared, name=f"ConvertImageDtype({of.dtype})", dtype=of.dtype)


def to_pil(of: Any, shared: Shared) -> Known:
    return ToPILImage(**shared, name=f"ToPILImage({'' if of.mode is None else repr(of.mode)})", mode=of.mode)


def grayscale(of: Any, shared: Shared) -> Known:
    channels = _whole(of.num_output_channels, 1)
    if channels not in (1, 3):
        raise ValueError(channels)
    return Grayscale(**shared, name=f"Grayscale({channels})", channels=channels)


def jitter(of: Any, shared: Shared) -> Known:
    names = ("brightness", "contrast", "saturation", "hue")
    ranges: Shared = {name: None if getattr(of, name) is None else pair(getattr(of, name)) for name in names}
    return ColorJitter(**shared, **ranges, name=f"ColorJitter({', '.join(f'{key}={value}' for key, value in ranges.items() if value)})")


def blur(of: Any, shared: Shared) -> Known:
    return Blur(**shared, name=f"GaussianBlur({_shown(size_of(of.kernel_size))})", sigma=pair(of.sigma))


def erasing(of: Any, shared: Shared) -> Known:
    value, p = of.value, number(of.p)
    if value == "random":
        value = None
    elif isinstance(value, (int, float)):
        value = (float(value),)
    elif value is not None:
        value = tuple(float(number) for number in value)
    logs = log_ratio(of.ratio)
    return Erasing(**shared, name=f"RandomErasing({p})", p=p, scale=pair(of.scale), log_ratio=logs, value=value, inplace=bool(of.inplace))


def _policy(kind: Literal["auto", "random", "trivial"]) -> Maker:
    """Return the maker for a policy; those of v2 draw in another way and are not taken apart."""

    def make(of: Any, shared: Shared) -> Known:
        if shared["family"] != "v1":
            raise ValueError(shared["family"])
        return Policy(**shared, name=f"{type(of).__name__}()", kind=kind)

    return make


def _sometimes(function: str, *arguments: str) -> Maker:
    """Return the maker for a change of one kind with a probability; `arguments` are the attributes that go to torchvision's function."""

    def make(of: Any, shared: Shared) -> Known:
        compared: Literal["tensor", "number"] = "number" if shared["family"] == "v1" and function != "rgb_to_grayscale" else "tensor"
        values = tuple(getattr(of, name) for name in arguments)
        name = f"{type(of).__name__}({', '.join(str(value) for value in (*values, f'p={number(of.p)}'))})"
        return Sometimes(**shared, name=name, p=number(of.p), function=function, arguments=values, compared=compared)

    return make


def _plain(kind: type[Known]) -> Maker:
    """Return the maker for a step without parameters."""
    return lambda of, shared: kind(**shared, name=f"{type(of).__name__}()")


MAKERS: dict[str, Maker] = {
    "AutoAugment": _policy("auto"),
    "CenterCrop": center_crop,
    "ColorJitter": jitter,
    "ConvertImageDtype": convert_dtype,
    "GaussianBlur": blur,
    "Grayscale": grayscale,
    "Normalize": normalize,
    "PILToTensor": _plain(PILToTensor),
    "Pad": pad,
    "RGB": _plain(ToRGB),
    "RandAugment": _policy("random"),
    "RandomAdjustSharpness": _sometimes("adjust_sharpness", "sharpness_factor"),
    "RandomAffine": affine,
    "RandomAutocontrast": _sometimes("autocontrast"),
    "RandomCrop": crop,
    "RandomEqualize": _sometimes("equalize"),
    "RandomErasing": erasing,
    "RandomGrayscale": _sometimes("rgb_to_grayscale"),
    "RandomHorizontalFlip": flip,
    "RandomInvert": _sometimes("invert"),
    "RandomPosterize": _sometimes("posterize", "bits"),
    "RandomResizedCrop": resized_crop,
    "RandomRotation": rotation,
    "RandomSolarize": _sometimes("solarize", "threshold"),
    "RandomVerticalFlip": flip,
    "Resize": resize,
    "ToDtype": to_dtype,
    "ToImage": _plain(ToImage),
    "ToPILImage": to_pil,
    "ToPureTensor": _plain(ToPureTensor),
    "ToTensor": _plain(ToTensor),
    "TrivialAugmentWide": _policy("trivial"),
}
"""By the name of torchvision's class; the same for both families unless a maker looks at the family."""
