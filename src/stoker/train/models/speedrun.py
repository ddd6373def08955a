"""The network of the CIFAR-10 speed run: 94 % within seconds on one GPU.

Re-implemented from the ideas published by Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498),
who credits David Page, tysam-code and others: a first layer that whitens 2x2 patches and is never trained, convolutions that begin as
the identity, batch norm without a trained scale, GELU, and an output that is scaled down.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WHITENING_SIDE = 2
WHITENING_EPSILON = 5e-4
"""Added to the eigenvalues, so that directions without variance are not blown up."""
PREPARATION_IMAGES = 5000
"""Patches of this many images give the covariance."""
WHITENING_BIAS_SPAN = 3 / 8
"""Share of the run in which the first layer's bias learns: 3 of 8 epochs."""


class Group(nn.Module):
    """Convolution, 2x2 max pool, norm, GELU; convolution, norm, GELU."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = _identity_convolution(inputs, width)
        self.norm1 = _norm(width)
        self.conv2 = _identity_convolution(width, width)
        self.norm2 = _norm(width)

    def forward(self, inputs_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the activations (N, width, H // 2, W // 2)."""
        hidden = F.gelu(self.norm1(F.max_pool2d(self.conv1(inputs_NCHW), 2)))
        return F.gelu(self.norm2(self.conv2(hidden)))


class Speedrun(nn.Module):
    """Whitening 2x2 convolution, three groups, a max pool over what is left of the image, a linear layer without bias, a scale."""

    def __init__(self, *, classes: int, channels: int, image_size: int, widths: tuple[int, ...] | list[int] = (64, 256, 256)) -> None:
        super().__init__()
        filters = 2 * channels * WHITENING_SIDE**2
        self.whiten = nn.Conv2d(channels, filters, WHITENING_SIDE)
        self.whiten.weight.requires_grad_(False)
        groups = [Group(inputs, width) for inputs, width in zip((filters, *widths), widths, strict=False)]
        self.groups = nn.Sequential(*groups)
        self.pool = nn.MaxPool2d((image_size - WHITENING_SIDE + 1) // 2 ** len(groups))
        self.head = nn.Linear(widths[-1], classes, bias=False)
        # The head's weights have a standard deviation of 1 and its output is scaled down: logits begin near 0, and its rate is the others' kind.
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())
        self.output_scale = 1 / widths[-1]

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes)."""
        hidden = self.groups(F.gelu(self.whiten(images_NCHW)))
        return self.head(self.pool(hidden).flatten(1)) * self.output_scale

    def prepare(self, images_NCHW: torch.Tensor) -> None:
        """Set the first layer from normalised training images (N, C, H, W): each filter projects a patch on an eigenvector of the
        patches' covariance and divides by its standard deviation; the second half of the filters are the negatives of the first,
        because GELU keeps only one sign. A few thousand images suffice. Draws no random numbers."""
        weight = whitening_filters(images_NCHW[:PREPARATION_IMAGES])
        with torch.no_grad():
            self.whiten.weight.copy_(torch.cat((weight, -weight)))
            assert self.whiten.bias is not None
            self.whiten.bias.zero_()

    def parameter_groups(self, optimizer: str) -> list[dict[str, Any]] | None:
        """Return the groups with their rates for muon, None (no special rates) for others; see `stoker.train.optimizers`.

        The factors belong to a learning rate of 0.24 and a weight decay of 3.8e-5. Published are 0.24 for the convolutions, and for a loss
        summed over 2000 images 0.053 for the biases and 0.67 for the head: for the mean loss 2000 times as much, 106 and 1340. The
        decay is 0.004 a step in all of them (0.004 / 106 = 3.8e-5), hence the head's smaller factor. Convolutions keep their norm instead.
        """
        if optimizer != "muon":
            return None
        assert self.whiten.bias is not None
        convolutions = [parameter for key, parameter in self.named_parameters() if "conv" in key]
        norm_biases = [parameter for key, parameter in self.named_parameters() if "norm" in key and key.endswith("bias")]
        # All gradients behind the output scale shrink with the last width, of which the published rates suppose 256.
        share = self.head.in_features / 256
        bias = {"kind": "sgd", "momentum": 0.85, "rate_factor": share * 106 / 0.24}
        head = {"kind": "sgd", "momentum": 0.85, "rate_factor": share * 1340 / 0.24, "decay_factor": 106 / 1340}
        return [
            {"name": "convolutions", "params": convolutions, "kind": "muon", "keep_norm": True, "iterations": 3},
            {"name": "norm biases", "params": norm_biases, **bias},
            {"name": "whitening bias", "params": [self.whiten.bias], "span": WHITENING_BIAS_SPAN, **bias},
            {"name": "head", "params": [self.head.weight], **head},
        ]


def whitening_filters(images_NCHW: torch.Tensor) -> torch.Tensor:
    """Return the filters (C * 4, C, 2, 2) that whiten the 2x2 patches of the images, the strongest direction first."""
    side = WHITENING_SIDE
    images = images_NCHW.detach().float()
    patches = images.unfold(2, side, 1).unfold(3, side, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * side**2)
    # In double precision on the CPU: a 12x12 problem, whose answer then hardly depends on the machine.
    covariance = (patches.T @ patches / len(patches)).double().cpu()
    values, vectors = torch.linalg.eigh(covariance)
    filters = (vectors / (values.clamp(min=0) + WHITENING_EPSILON).sqrt()).T.flip(0)
    return filters.reshape(-1, images.shape[1], side, side).to(images_NCHW.device, torch.float32)


def _identity_convolution(inputs: int, width: int) -> nn.Conv2d:
    """A 3x3 convolution whose first filters hand their input through, so that depth costs no signal at the start."""
    convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[:inputs].detach())
    return convolution


def _norm(width: int) -> nn.BatchNorm2d:
    """Batch norm with a trained bias and no trained scale; the running figures move fast because the run is short."""
    norm = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
