"""The two small CNNs that everybody writes first on CIFAR-10: conv32-pool-conv64-pool-linear, and conv32-pool-linear."""

from __future__ import annotations

import torch
from torch import nn

from stoker.pool import relu_max_pool2


class Small(nn.Module):
    """Two 3x3 convolutions of 32 and 64 filters, each followed by a 2x2 max pool, and a linear classifier."""

    def __init__(self, *, classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear = nn.Linear(64 * (image_size // 4) ** 2, classes)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes)."""
        hidden = relu_max_pool2(self.conv1(images_NCHW))
        hidden = relu_max_pool2(self.conv2(hidden))
        return self.linear(hidden.flatten(1))


class Small1(nn.Module):
    """One 3x3 convolution of 32 filters, a 2x2 max pool and a linear classifier."""

    def __init__(self, *, classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.linear = nn.Linear(32 * (image_size // 2) ** 2, classes)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes)."""
        hidden = relu_max_pool2(self.conv1(images_NCHW))
        return self.linear(hidden.flatten(1))
