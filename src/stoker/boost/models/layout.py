"""The part `layout`: the channels of a pixel next to each other in memory, as convolutions like them."""

from __future__ import annotations

import weakref

import torch
from torch import nn
from torch.optim import Optimizer

from stoker.boost.models.rehearsal import CONVOLUTIONS, convolution_weights
from stoker.boost.models.ways import Group

_OWNERS = 2
"""References to the storage of a tensor that nobody else shares, counting the one that asks."""


class Layout:
    """Weights of convolutions as `module.to(memory_format=torch.channels_last)` lays them, gradients and optimizer states with them."""

    name = "layout"
    rehearsed = True
    told = "channels_last"

    def __init__(self) -> None:
        self._changed: list[weakref.ref[nn.Parameter]] = []

    def fits(self, training: Group) -> str | None:
        """Decline where weights are already laid out, by the script or into DistributedDataParallel's buckets, or shared."""
        weights = _weights(training, everything=True)
        if not weights:
            return _why_none(training)
        if any(isinstance(entry.module, nn.parallel.DistributedDataParallel) for entry in training.entries):
            return "DistributedDataParallel has laid out its buckets for the weights as they are"
        if any(weight.dtype != torch.float32 or weight.layout != torch.strided for weight in weights):
            return "convolutions with weights that are not dense float32"
        if any(not weight.is_contiguous() for weight in weights):
            return "the script has chosen a memory format"
        if any(weight.device.type == "cpu" and weight.is_shared() for weight in weights):
            return "the weights are shared with other processes"
        if any(_shared(weight) for weight in weights):
            return "the script holds other tensors on the memory of the weights"
        return None

    def on(self, training: Group) -> None:
        """Lay the weights out anew."""
        for entry in training.able():
            entry.layout = True
        weights = _weights(training)
        self._changed = [weakref.ref(weight) for weight in weights]
        _lay_out(weights, training.optimizers(), torch.channels_last)

    def off(self, training: Group) -> None:
        """As they were."""
        for entry in training.entries:
            entry.layout = False
        weights = [weight for ref in self._changed if (weight := ref()) is not None]
        self._changed = []
        _lay_out(weights, training.optimizers(), torch.contiguous_format)

    def joined(self, optimizer: Optimizer) -> None:
        """Nothing: a new state is made in the layout of its parameter."""

    def owner(self, tensor: torch.Tensor) -> tuple[nn.Parameter, bool] | None:
        """Return the weight that a tensor is, or lies on, and whether it is the weight's gradient; None when it is neither."""
        for ref in self._changed:
            weight = ref()
            if weight is not None and weight.data_ptr() == tensor.data_ptr():
                return weight, False
            if weight is not None and weight.grad is not None and weight.grad.data_ptr() == tensor.data_ptr():
                return weight, True
        return None


def _why_none(training: Group) -> str:
    found = any(isinstance(part, CONVOLUTIONS) for entry in training.entries if entry.root is not None for part in entry.root.modules())
    return "the weights of its convolutions are computed anew for every call" if found else "there is no two-dimensional convolution"


def _weights(training: Group, *, everything: bool = False) -> list[nn.Parameter]:
    entries = training.entries if everything else training.able()
    found = [weight for entry in entries if entry.root is not None for weight in convolution_weights(entry.root)]
    return list({id(weight): weight for weight in found}.values())


def _shared(weight: nn.Parameter) -> bool:
    storage = weight.untyped_storage()
    return int(torch._C._storage_Use_Count(storage._cdata)) > _OWNERS


def _lay_out(weights: list[nn.Parameter], optimizers: list[Optimizer], to: torch.memory_format) -> None:
    for weight in weights:
        # Through .data: objects, hooks and what autograd knows stay as they are; only the memory is another.
        weight.data = weight.data.contiguous(memory_format=to)
        beside = [weight.grad] + [value for optimizer in optimizers for value in _state(optimizer, weight)]
        for tensor in beside:
            if isinstance(tensor, torch.Tensor) and tensor.shape == weight.shape and tensor.layout == torch.strided:
                tensor.data = tensor.data.contiguous(memory_format=to)


def _state(optimizer: Optimizer, weight: nn.Parameter) -> list[object]:
    state = optimizer.state.get(weight)
    return list(state.values()) if isinstance(state, dict) else []
