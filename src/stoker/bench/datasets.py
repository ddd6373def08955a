"""The plain data sets of the feeding check: what a user's script would give to torch's DataLoader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, as torchvision's recipes use them."""
SIDE = 224


class DecodedImages(Dataset[tuple[torch.Tensor, int]]):
    """Images that are pixels in memory already: normalised one at a time, as plain code does it."""

    def __init__(self, pixels_NHWC: np.ndarray, length: int) -> None:
        self._pixels_NCHW = torch.from_numpy(np.ascontiguousarray(pixels_NHWC.transpose(0, 3, 1, 2)))
        self._length = length
        self._mean_C11, self._std_C11 = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return float32 3 H W and a label."""
        place = index % len(self._pixels_NCHW)
        return self._pixels_NCHW[place].float().div_(255).sub_(self._mean_C11).div_(self._std_C11), place % 10


class Photos(Dataset[tuple[torch.Tensor, int]]):
    """JPEG files, opened as torchvision's ImageFolder does and cropped at random by its transforms."""

    def __init__(self, paths: tuple[str, ...], length: int, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self._paths, self._length, self._transform = paths, length, transform

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return float32 3 H W and a label."""
        place = index % len(self._paths)
        with open(self._paths[place], "rb") as file:
            return self._transform(Image.open(file).convert("RGB")), place % 10


def torchvision_transform(transforms: Any) -> Callable[[Image.Image], torch.Tensor]:
    """Return the usual training transform out of the module torchvision.transforms."""
    made: Callable[[Image.Image], torch.Tensor] = transforms.Compose(
        [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    return made
