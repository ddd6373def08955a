"""torchvision as the user's script has loaded it: version 1 and version 2 of its transforms."""

from __future__ import annotations

import sys
from typing import Any

import torch

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.step import Known
from stoker.boost.replay.unfit import Unfit

_FUNCTIONAL = {"v1": "torchvision.transforms.functional", "v2": "torchvision.transforms.v2.functional"}


def functional(step: Known) -> Any:
    """Return the module of functions that the step's class is made of. It is loaded: the class is."""
    return sys.modules[_FUNCTIONAL[step.family]]


def act(step: Known, image: Any, params: dict[str, Any]) -> Any:
    """Return what a v2 transform makes of `image` with drawn `params`. Raises `Unfit` for what is no image: the transform would hand it through."""
    if not (isinstance(image, torch.Tensor) or is_pil(image)):
        raise Unfit(f"{step.name} is given a {type(image).__name__}")
    twin = step.twin
    # torchvision 0.21 made `_transform` public.
    return twin.transform(image, params) if hasattr(twin, "transform") else twin._transform(image, params)


def is_pil(image: Any) -> bool:
    """Return whether this is a PIL image, without importing PIL."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(image, pil.Image)


def image_only(look: Look | None, name: str) -> Look:
    """Return `look`. Raises `Unfit` where it is not known or not an image's, for steps whose draws depend on it."""
    if look is None:
        raise Unfit(f"what {name} draws hangs on the size of what code of the script's own makes")
    if look.form == "array":
        raise Unfit(f"{name} is given a numpy array")
    return look
