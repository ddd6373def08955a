"""How many operations and how many bytes a network costs at least, by formula, and so how fast a machine with given ceilings could be.

A convolution costs 2 K FLOPs for each number that it puts out (K multiplications and K additions; K = kernel height x width x channels
in / groups), a linear layer likewise. Each layer reads its input once and writes its output once; batch normalisation reads its input
twice (statistics come before normalising). ReLU and the residual addition are counted as part of it. The backward pass of a convolution
is two products of the size of the forward one (for the input and for the weights; the first layer has only the latter); that of batch
normalisation reads two tensors twice and writes one. SGD with momentum reads three numbers a parameter and writes two. A layer cannot
take less than the larger of FLOPs / matrix rate and bytes / bandwidth; the layers' times add up (the roofline model of Williams,
Waterman and Patterson, 2009, a layer at a time).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

_OPTIMIZER_NUMBERS = 5
_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer's least work for one image, forward."""

    kind: str
    """product, norm or pool."""
    flops: float
    numbers_in: int
    numbers_out: int
    first: bool
    """Whether it needs no gradient of its input."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A network's layers and parameters."""

    layers: tuple[Layer, ...]
    parameters: int

    @property
    def forward_flops(self) -> float:
        """FLOPs of the forward pass of one image."""
        return sum(layer.flops for layer in self.layers)

    @property
    def training_flops(self) -> float:
        """FLOPs of forward and backward pass of one image: three times forward, less the first layer's input gradient."""
        return sum(layer.flops * (2 if layer.first else 3) for layer in self.layers)

    def training_s(self, batch: int, *, number_bytes: int, flops_s: float, bytes_s: float) -> float:
        """Return the least seconds of a training step of `batch` images with activations of `number_bytes` bytes a number."""
        update_s = _OPTIMIZER_NUMBERS * _FLOAT32_BYTES * self.parameters / bytes_s
        return update_s + sum(_layer_s(layer, batch, number_bytes, flops_s, bytes_s) for layer in self.layers)


def work_of(model: nn.Module, image_size: int) -> Work:
    """Return the work of a network of convolutions, batch normalisations, max pools and linear layers for square RGB images."""
    layers: list[Layer] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        numbers_in, numbers_out = inputs[0].numel(), output.numel()
        if isinstance(module, nn.Conv2d | nn.Linear):
            flops = 2.0 * numbers_out * module.weight[0].numel()
            layers.append(Layer(kind="product", flops=flops, numbers_in=numbers_in, numbers_out=numbers_out, first=not layers))
        else:
            kind = "norm" if isinstance(module, nn.BatchNorm2d) else "pool"
            layers.append(Layer(kind=kind, flops=0.0, numbers_in=numbers_in, numbers_out=numbers_out, first=False))

    copy = model.to("meta").eval()  # shapes only: no memory, no time
    counted = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.MaxPool2d)
    hooks = [module.register_forward_hook(note) for module in copy.modules() if isinstance(module, counted)]
    with torch.no_grad():
        copy(torch.empty(1, 3, image_size, image_size, device="meta"))
    for hook in hooks:
        hook.remove()
    return Work(layers=tuple(layers), parameters=sum(parameter.numel() for parameter in copy.parameters()))


def _layer_s(layer: Layer, batch: int, number_bytes: int, flops_s: float, bytes_s: float) -> float:
    touched = batch * number_bytes / bytes_s
    if layer.kind == "product":
        once_s = max(batch * layer.flops / flops_s, (layer.numbers_in + layer.numbers_out) * touched)
        return once_s * (2 if layer.first else 3)
    if layer.kind == "norm":
        return (3 + 5) * layer.numbers_out * touched
    return 2 * (layer.numbers_in + layer.numbers_out) * touched
