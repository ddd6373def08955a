"""Other arithmetic is tried on a copy of the model first: what it cannot do must not be found out in the user's own step."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from stoker.boost.models import outputs
from stoker.boost.models.operations import Kernels
from stoker.boost.replay.available import share_bytes

_own_backward = torch.autograd.backward
"""As it was when boost came: who replaces it later, as recording does, is to see the script's own only."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

AUTOCAST_LIMIT = 0.1
"""Largest difference of the outputs, in norms, that is still rounding: bfloat16 has 8 bits, and deep nets add up to a few per cent."""

LAYOUT_LIMIT = 1e-3

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def user_hooks(module: nn.Module) -> str | None:
    """Return the class name of a submodule (or `module`) with hooks that are not torch's own (weight_norm and the like); None without."""
    for part in module.modules():
        for kind in _HOOKS:
            if any(not _torchs(hook) for hook in getattr(part, kind, {}).values()):
                return type(part).__name__
    return None


def _torchs(hook: Any) -> bool:
    named = hook if hasattr(hook, "__qualname__") else type(hook)
    return str(getattr(named, "__module__", "")).split(".")[0] == "torch"


def rehearse(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, device: torch.device, autocast: bool, layout: bool, operations: bool = False
) -> str | None:
    """Run a copy of `module` forward and backward in other arithmetic, and compare its outputs with the plain ones.

    Returns why the arithmetic cannot be used (one sentence), None when it can. Parameters, buffers, hooks and random states of the user are
    as they were afterwards. Raises nothing but what is no Exception.
    """
    if not room_for_copy(module, device):
        return "there is too little memory for a copy of the model to try it on"
    try:
        with undisturbed(device), torch.enable_grad():
            copied, inputs = bare_copy(module), Inputs(args, kwargs, device)
            why = _rehearsed(copied, inputs, autocast, layout)
            return _with_kernels(copied.train(module.training), inputs, autocast, layout) if operations and why is None else why
    except Exception as error:
        return f"a copy of the model failed with it: {type(error).__name__}: {first_line(error)}"


def room_for_copy(module: nn.Module, device: torch.device) -> bool:
    """Whether a copy, its gradients and its activations fit into half of the free memory."""
    needed = 3 * sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))
    if device.type == "cuda":
        return needed < torch.cuda.mem_get_info(device)[0] / 2
    half_bytes = share_bytes(0.5)
    return half_bytes is None or needed < half_bytes


def first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:200]


class Inputs:
    """The arguments of a call, as copies: a forward may change what it is given."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> None:
        self._args, self._kwargs, self._device = args, kwargs, device

    def _fresh(self, value: Any) -> Any:
        return outputs.replaced(value, lambda tensor: tensor.detach().to(self._device, copy=True).requires_grad_(tensor.requires_grad))

    def seed(self, seed: int) -> None:
        """Seed the generators that the model may draw from, and no other device's."""
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            torch.cuda.default_generators[self._device.index or 0].manual_seed(seed)

    def into(self, module: Callable[..., Any], *, autocast: bool, layout: bool) -> Any:
        """Call `module` with copies, and return its outputs in float32."""
        args, kwargs = self._fresh(self._args), self._fresh(self._kwargs)
        if layout:
            args, kwargs = outputs.replaced(args, channels_last), outputs.replaced(kwargs, channels_last)
        with torch.autocast(self._device.type, dtype=torch.bfloat16) if autocast else contextlib.nullcontext():
            found = module(*args, **kwargs)
        return outputs.in_float32(found) if autocast else found


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """Return images N C H W of floats with the channels last in memory; anything else as it is."""
    if tensor.dim() == 4 and tensor.is_floating_point() and tensor.layout == torch.strided:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def convolution_weights(module: nn.Module) -> list[nn.Parameter]:
    """Return the weights of the two-dimensional convolutions, each once; those that are computed anew for every call are no parameters of theirs."""
    weights = (part._parameters.get("weight") for part in module.modules() if isinstance(part, CONVOLUTIONS))
    return list({id(weight): weight for weight in weights if weight is not None}.values())


def _rehearsed(copied: nn.Module, inputs: Inputs, autocast: bool, layout: bool) -> str | None:
    if layout:
        for weight in convolution_weights(copied):
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    found = inputs.into(copied, autocast=autocast, layout=layout)
    stranger = outputs.strange(found)
    if stranger:
        return f"it returns a {stranger}, inside which tensors cannot be reached"
    backward(found)
    copied.eval()
    with torch.no_grad():
        same = [_seeded(copied, inputs, seed, False, False) for seed in (0, 1)]
        if difference(*same) > 0:
            return None  # It draws random numbers in evaluation too: two runs of the same arithmetic differ as well.
        return too_far(same[0], _seeded(copied, inputs, 0, autocast, layout), AUTOCAST_LIMIT if autocast else LAYOUT_LIMIT)


def _with_kernels(copied: nn.Module, inputs: Inputs, autocast: bool, layout: bool) -> str | None:
    plain = _seeded(copied, inputs, 0, autocast, layout)
    with Kernels() as kernels:
        found = _seeded(copied, inputs, 0, autocast, layout)
    if not kernels.taken:
        return "the model calls no max pool and no dropout that they take"
    backward(found)
    return too_far(plain, found, LAYOUT_LIMIT)


def too_far(before: Any, after: Any, limit: float) -> str | None:
    """Return the sentence that says that outputs differ by more than rounding, None when they do not."""
    apart = difference(before, after)
    if apart <= limit:
        return None
    return f"the outputs of a copy of the model differ by {apart:.2g} with it, more than rounding explains ({limit:g})"


def _seeded(module: nn.Module, inputs: Inputs, seed: int, autocast: bool, layout: bool) -> Any:
    inputs.seed(seed)
    return inputs.into(module, autocast=autocast, layout=layout)


def backward(found: Any) -> None:
    """Go backward from the sum of everything that can."""
    parts = [tensor.sum() for tensor in outputs.tensors(found) if tensor.requires_grad and tensor.is_floating_point()]
    if parts:
        _own_backward(torch.stack([part.float() for part in parts]).sum())


def difference(before: Any, after: Any) -> float:
    """Return the norm of the difference by the norm of `before`, over all floating-point tensors; nan where numbers are not finite."""
    pairs = zip(_floats(before), _floats(after), strict=True)
    squares = [((old - new).square().sum().item(), old.square().sum().item()) for old, new in pairs]
    apart, size = (sum(column) for column in zip(*squares, strict=True)) if squares else (0.0, 0.0)
    return float((apart / size) ** 0.5 if size else apart)


def _floats(found: Any) -> list[torch.Tensor]:
    return [tensor.double() for tensor in outputs.tensors(found) if tensor.is_floating_point()]


def bare_copy(module: nn.Module) -> nn.Module:
    """Return a copy without the user's hooks: they must fire in the user's own steps only."""
    copied = copy.deepcopy(module)
    for part in copied.modules():
        for kind in _HOOKS:
            hooks: dict[int, Any] = getattr(part, kind, {})
            for key in [key for key, hook in hooks.items() if not _torchs(hook)]:
                del hooks[key]
    return copied


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leave torch's, Python's and numpy's global random states as they are."""
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy is not None else None
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices, device_type="cuda"):
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(drawn)
