"""Dropout by the C kernel on a CPU: the very values that torch would drop, and the random state that it would leave."""

from __future__ import annotations

import ctypes
import functools
import math
from pathlib import Path
from typing import Any

import torch

from stoker.kernels import built, of_version

VERSION = 1

LEAST = 4096
"""Values below which reading and writing the generator's state, 5 kB, takes longer than torch's own drawing."""

_STATE_BYTES = 5056
_BITS = 53
_FLOATS = (torch.float32, torch.bfloat16)


def dropout(values: torch.Tensor, p: float, kernel: ctypes.CDLL) -> torch.Tensor:
    """Return dropout(values, p) while training, of values that the kernel takes: same shape, type and memory layout; differentiable.

    The random numbers come from torch's default generator. Raises RuntimeError where its state is not laid out as known; nothing was drawn then.
    """
    found: torch.Tensor = _Dropout.apply(values, p, kernel)
    return found


def takes(values: torch.Tensor, p: float) -> bool:
    """Whether the kernel is meant for this call: dense float32 or bfloat16 on the CPU, and enough of it."""
    return (
        values.device.type == "cpu"
        and values.dtype in _FLOATS
        and values.numel() >= LEAST
        and 0.0 < p < 1.0
        and (values.is_contiguous() or (values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)))
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the kernel that was built with the package, if it draws what torch draws here; None else."""
    found = built(Path(__file__).with_name("_dropout"), load)
    return None if isinstance(found, str) or not _same(found) else found


def load(path: Path) -> ctypes.CDLL:
    """Load the kernel at `path`. Raises OSError when it is not one of this version."""
    found = of_version(path, "stoker_dropout_version", VERSION)
    pointer, scale = ctypes.c_void_p, (ctypes.c_float, ctypes.c_int)
    found.stoker_dropout_forward.argtypes = (pointer, pointer, pointer, pointer, ctypes.c_int64, ctypes.c_uint64, *scale)
    found.stoker_dropout_forward.restype = ctypes.c_int
    found.stoker_dropout_backward.argtypes = (pointer, pointer, pointer, ctypes.c_int64, *scale)
    found.stoker_dropout_backward.restype = None
    return found


def _same(kernel: ctypes.CDLL) -> bool:
    """Whether masks and the state afterwards are torch's: with MKL, on Intel's processors, torch draws otherwise (and in bulk as well)."""
    ours, theirs = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    for kind in _FLOATS:
        values = torch.linspace(-1, 1, LEAST + 1).to(kind)
        for p in (0.5, 0.1):
            wanted = values * torch.empty_like(values).bernoulli_(1 - p, generator=theirs).div_(1 - p)
            if not torch.equal(_drawn(values, p, kernel, ours)[0], wanted):
                return False
    return torch.equal(torch.rand(3, generator=ours), torch.rand(3, generator=theirs))


def _drawn(values: torch.Tensor, p: float, kernel: ctypes.CDLL, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values after dropout, and which were kept: uint8, 1 or 0."""
    state = generator.get_state()
    out, kept = torch.empty_like(values), torch.empty_like(values, dtype=torch.uint8)
    addresses = (tensor.data_ptr() for tensor in (state, values, kept, out))
    sizes = (values.numel(), math.ceil((1 - p) * 2**_BITS), *_scale(p, values.dtype))
    if state.numel() != _STATE_BYTES or kernel.stoker_dropout_forward(*addresses, *sizes) != 0:
        raise RuntimeError("the state of PyTorch's random generator is not laid out as known")
    generator.set_state(state)
    return out, kept


@functools.lru_cache(maxsize=64)
def _scale(p: float, kind: torch.dtype) -> tuple[float, bool]:
    """Return what kept values are multiplied with, as torch rounds it (many at once, as one alone may be rounded otherwise); whether in bfloat16."""
    return float(torch.ones(64, dtype=kind).div_(1 - p)[0]), kind == torch.bfloat16


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, p: float, kernel: ctypes.CDLL) -> torch.Tensor:
        out, kept = _drawn(values, p, kernel, torch.default_generator)
        ctx.save_for_backward(kept)
        ctx.p, ctx.kernel = p, kernel
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        scale, in_bf16 = _scale(ctx.p, grad.dtype)
        if torch.is_grad_enabled():  # create_graph: this has to be differentiable itself
            return grad * (kept.to(grad.dtype) * scale), None, None
        if grad.stride() != kept.stride():
            grad = torch.empty_like(kept, dtype=grad.dtype).copy_(grad)
        out = torch.empty_like(grad)
        ctx.kernel.stoker_dropout_backward(grad.data_ptr(), kept.data_ptr(), out.data_ptr(), grad.numel(), scale, in_bf16)
        return out, None, None
