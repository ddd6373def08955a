"""A CNN for very small grey images such as scikit-learn's 8x8 handwritten digits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Digits(nn.Module):
    """Three 3x3 convolutions with batch norm, two 2x2 max pools and a linear classifier."""

    def __init__(self, *, classes: int, channels: int, image_size: int, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)
        self.linear = nn.Linear(4 * width * (image_size // 4) ** 2, classes)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes)."""
        hidden = F.relu(self.norm1(self.conv1(images_NCHW)))
        hidden = F.relu(self.norm2(F.max_pool2d(self.conv2(hidden), 2)))
        hidden = F.relu(self.norm3(F.max_pool2d(self.conv3(hidden), 2)))
        return self.linear(hidden.flatten(1))
