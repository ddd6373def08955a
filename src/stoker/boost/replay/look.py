"""What a sample looks like between two transforms: known before any pixel of it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Form = Literal["pil", "array", "tensor", "image"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """Form, size and type of one image."""

    form: Form
    """A PIL image, a numpy array H W C, a plain tensor C H W, or a `torchvision.tv_tensors.Image` C H W."""
    height: int
    width: int
    channels: int
    """1 for PIL mode L, 3 for RGB."""
    dtype: torch.dtype
    """uint8 for PIL images."""
