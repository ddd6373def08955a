"""ResNet-18 (He et al. 2015, arXiv 1512.03385), with the stem that fits the image size; parameter names are torchvision's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from stoker.errors import BadValue

STEMS = ("auto", "small", "large")


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, inputs_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the activations (N, width, H / stride, W / stride)."""
        hidden = F.relu(self.bn1(self.conv1(inputs_NCHW)))
        hidden = self.bn2(self.conv2(hidden))
        return F.relu(hidden + (inputs_NCHW if self.downsample is None else self.downsample(inputs_NCHW)))


class ResNet(nn.Module):
    """A stem, four stages of blocks with 64 to 512 filters, the mean over the pixels, and a linear classifier."""

    def __init__(self, *, blocks: tuple[int, int, int, int], classes: int, channels: int, small_stem: bool, width: int) -> None:
        super().__init__()
        kernel, stride = (3, 1) if small_stem else (7, 2)
        self.conv1 = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, blocks[0], stride=1)
        self.layer2 = _stage(width, 2 * width, blocks[1], stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks[2], stride=2)
        self.layer4 = _stage(4 * width, 8 * width, blocks[3], stride=2)
        self.fc = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes)."""
        hidden = self.maxpool(F.relu(self.bn1(self.conv1(images_NCHW))))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return self.fc(hidden.mean((2, 3)))


def resnet18(*, classes: int, channels: int, image_size: int, stem: str = "auto", width: int = 64) -> ResNet:
    """Build ResNet-18.

    `stem`: "small" is the 3x3 convolution at full resolution without a max pool, which reaches 95 % on CIFAR-10; "large" the 7x7
    convolution of stride 2 and the max pool of the paper; "auto" takes "small" up to 64 pixels, because above it costs 16 times the work.
    """
    if stem not in STEMS:
        raise BadValue(f"option stem of model 'resnet18' is {stem!r}", hint=f"it is one of {', '.join(STEMS)}")
    small = image_size <= 64 if stem == "auto" else stem == "small"
    return ResNet(blocks=(2, 2, 2, 2), classes=classes, channels=channels, small_stem=small, width=width)


def _stage(inputs: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, width, stride), *(Block(width, width, 1) for _ in range(blocks - 1)))
