"""ResNet-50 v1.5 (He et al. 2015; stride in the 3x3 convolution), written out so that the check needs no torchvision."""

from __future__ import annotations

import torch
from torch import nn

_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolution, and the input added."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = width * _EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(channels_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return features; the height and width shrink by the stride."""
        out = self.relu(self.bn1(self.conv1(images_NCHW)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.downsample(images_NCHW)
        return self.relu(out)


def resnet50(classes: int = 1000) -> nn.Module:
    """Return the network with random weights: 25,557,032 parameters for 1,000 classes, as torchvision's."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for stage, (width, blocks) in enumerate(_STAGES):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, 2 if stage > 0 and block == 0 else 1))
            channels = width * _EXPANSION
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
