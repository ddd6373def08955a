"""What an image that is there looks like."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.family import is_pil


def look_of(image: Any) -> Look | None:
    """Return the look of a PIL image of bytes, a tensor C H W or an array H W C (or H W); None for anything else."""
    if is_pil(image):
        bands = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}.get(image.mode)
        return None if bands is None else Look(form="pil", height=image.height, width=image.width, channels=bands, dtype=torch.uint8)
    if isinstance(image, torch.Tensor) and image.ndim == 3:
        channels, height, width = image.shape
        own = sys.modules.get("torchvision.tv_tensors")
        if type(image) is torch.Tensor:
            return Look(form="tensor", height=height, width=width, channels=channels, dtype=image.dtype)
        if own is not None and type(image) is own.Image:
            return Look(form="image", height=height, width=width, channels=channels, dtype=image.dtype)
    if type(image) is np.ndarray and image.ndim in (2, 3):
        try:
            dtype = torch.from_numpy(image[:0]).dtype
        except TypeError:
            return None
        return Look(form="array", height=image.shape[0], width=image.shape[1], channels=image.shape[2] if image.ndim == 3 else 1, dtype=dtype)
    return None
