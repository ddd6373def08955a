"""The models by name: our own families, and beside them every model of timm."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from stoker.errors import BadValue, ImageSizeUnfit, UnknownName, nearest
from stoker.train.models import digits, resnet, small, speedrun, zoo


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model of our own."""

    builder: Callable[..., nn.Module]
    """Called with `classes`, `channels`, `image_size` and the options."""
    smallest: int
    """The smallest image side, in pixels, that leaves at least one pixel for the classifier."""
    what: str
    """What it is, in a line."""


FAMILIES: dict[str, Family] = {
    "small": Family(builder=small.Small, smallest=4, what="conv32-pool-conv64-pool-linear"),
    "small1": Family(builder=small.Small1, smallest=2, what="conv32-pool-linear"),
    "digits": Family(builder=digits.Digits, smallest=4, what="three convolutions with batch norm, for 8x8 grey digits"),
    "resnet18": Family(builder=resnet.resnet18, smallest=8, what="ResNet-18; up to 64 px with the 3x3 stem of the CIFAR papers"),
    "speedrun": Family(builder=speedrun.Speedrun, smallest=9, what="whitened first layer and six convolutions, for the 94 % speed run"),
}
"""Our own names. A name that also exists in timm means ours; `timm:resnet18` asks for timm's."""


def build(name: str, *, classes: int, channels: int, image_size: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the model `name` with fresh weights on the CPU, and make sure that it takes its images.

    `options` go to the model's constructor. The module maps images_NCHW (float, C = `channels`, H = W = `image_size` pixels) to
    logits (N, `classes`). Two methods are optional on a model: `prepare(images_NCHW)`, called once before training with a batch of
    normalised training images, and `parameter_groups()`, see `stoker.train.optimizers`.

    Raises UnknownName (model or option), BadValue (a count below one, an option's value), ImageSizeUnfit and MissingExtra (timm).
    """
    for field, value, least in (("classes", classes, 1), ("channels", channels, 1), ("image_size", image_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise BadValue(f"{field} is {value!r} for model '{name}'", hint=f"{field} is a whole number, {least} or more")
    given = dict(options or {})
    if name in FAMILIES:
        return _own(name, classes, channels, image_size, given)
    if name.startswith("timm:") or zoo.knows(name):
        return zoo.build(name.removeprefix("timm:"), classes=classes, channels=channels, image_size=image_size, options=given)
    near = nearest(name, [*FAMILIES, *zoo.names()])
    likely = f"did you mean '{near}'? " if near else ""
    raise UnknownName(f"there is no model '{name}'", hint=f"{likely}Our own are {', '.join(FAMILIES)}; all others are timm's (`timm.list_models()`)")


def _own(name: str, classes: int, channels: int, image_size: int, options: dict[str, Any]) -> nn.Module:
    family = FAMILIES[name]
    known = [key for key in inspect.signature(family.builder).parameters if key not in ("classes", "channels", "image_size")]
    for key in options:
        if key not in known:
            near = nearest(key, known)
            likely = f"did you mean '{near}'? " if near else ""
            raise UnknownName(f"model '{name}' has no option '{key}'", hint=f"{likely}its options are: {', '.join(known) or 'none'}")
    if image_size < family.smallest:
        raise ImageSizeUnfit(
            f"model '{name}' cannot take images of {image_size}x{image_size} pixels",
            hint=f"the smallest that works is {family.smallest}: `--set image_size={family.smallest}`, or choose another model",
        )
    try:
        return family.builder(classes=classes, channels=channels, image_size=image_size, **options)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise BadValue(
            f"model '{name}' cannot be made for {image_size}x{image_size} pixels with the options {options}: {str(error).splitlines()[0]}",
            hint="check the values of the options and the image size",
        ) from error
