"""Every model of timm, for training from scratch. timm is an optional extra."""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import nn

from stoker.errors import BadValue, ImageSizeUnfit, MissingExtra, UnknownName, nearest
from stoker.train.models.fit import check_output


def installed() -> bool:
    """Return whether timm is there, without the seconds that importing it takes."""
    return importlib.util.find_spec("timm") is not None


def names() -> list[str]:
    """Return the names of timm's models; none when timm is not installed."""
    if not installed():
        return []
    import timm  # an optional extra, and its import takes seconds

    return timm.list_models()


def knows(name: str) -> bool:
    """Return whether timm has a model `name`. Raises MissingExtra when that cannot be known because timm is not installed."""
    if not installed():
        raise MissingExtra(
            f"model '{name}' is not one of our own, and timm, which has over a thousand others, is not installed",
            hint="`pip install timm`, or choose one of our own: small, small1, digits, resnet18, speedrun",
        )
    import timm  # an optional extra, and its import takes seconds

    return timm.is_model(name)


def build(name: str, *, classes: int, channels: int, image_size: int, options: dict[str, Any]) -> nn.Module:
    """Build timm's model `name`; without pretrained weights unless `options` say so. Raises UnknownName, BadValue, ImageSizeUnfit, MissingExtra."""
    if not knows(name):
        near = nearest(name, names())
        raise UnknownName(f"timm has no model '{name}'", hint=f"did you mean '{near}'?" if near else "`timm.list_models()` lists them")
    import timm  # an optional extra, and its import takes seconds

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    arguments = {"pretrained": False, "num_classes": classes, "in_chans": channels, **options}
    # Transformers with fixed position tables are made for one image size, which has to be said when they are made.
    made_for = config.input_size[-1] if config is not None and config.fixed_input_size else None
    if made_for:
        arguments.setdefault("img_size", image_size)
    try:
        model = timm.create_model(name, **arguments)
    except TypeError as error:
        raise BadValue(
            f"timm's model '{name}' does not take these options: {error}", hint="leave the option out, or see timm's documentation"
        ) from error
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError) as error:
        if not made_for:
            raise BadValue(f"timm could not make model '{name}' with {arguments}: {error}", hint="check the options") from error
        raise ImageSizeUnfit(
            f"model '{name}' cannot be made for images of {image_size}x{image_size} pixels ({error})",
            hint=f"it was made for {made_for}: `--set image_size={made_for}`, or choose a multiple of its patch size",
        ) from error
    check_output(name, model, classes=classes, channels=channels, image_size=image_size, made_for=made_for)
    return model
