"""2x2 max pool and ReLU as one operation: by the C kernel on a CPU in channels_last memory, else by torch, with the same numbers."""

from __future__ import annotations

import ctypes
import functools
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

VERSION = 1


def relu_max_pool2(images_NCHW: torch.Tensor) -> torch.Tensor:
    """Return relu(max_pool2d(images, 2)): (N, C, H // 2, W // 2), any dtype and device; differentiable once.

    ReLU stands after the pool: the two commute, as both are monotone, and it has a quarter of the values to go through. While training on a
    CPU the pair is a third of the small CNN's step with torch's own operations (benchmarks/pool.py).
    """
    if _takes(images_NCHW) and (loaded := library()) is not None:
        pooled: torch.Tensor = _ReluMaxPool2.apply(images_NCHW, loaded)
        return pooled
    return F.relu(F.max_pool2d(images_NCHW, 2))


def _takes(images: torch.Tensor) -> bool:
    """Whether the kernel is meant for this call: a training step on the CPU that nobody traces, compiles or exports."""
    return (
        images.device.type == "cpu"
        and images.requires_grad
        and torch.is_grad_enabled()
        and images.dtype in (torch.bfloat16, torch.float32)
        and images.shape[2] % 2 == 0
        and images.shape[3] % 2 == 0
        and images.numel() > 0
        and images.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the kernel that was built with the package; None when there is none, or another version's."""
    folder = Path(__file__).parent
    for path in (folder / f"_pool{suffix}" for suffix in EXTENSION_SUFFIXES):
        if path.is_file():
            try:
                return load(path)
            except OSError:
                return None
    return None


def load(path: Path) -> ctypes.CDLL:
    """Load the kernel at `path`. Raises OSError when it is not one of this version."""
    found = ctypes.CDLL(str(path))
    if not hasattr(found, "stoker_pool_version") or found.stoker_pool_version() != VERSION:
        raise OSError(f"{path} is not the pooling kernel of version {VERSION}")
    sizes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int)
    for function in (found.stoker_pool_forward, found.stoker_pool_backward):
        function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, *sizes), None
    return found


class _ReluMaxPool2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, kernel: ctypes.CDLL) -> torch.Tensor:
        count, channels, height, width = images.shape
        shape = (count, channels, height // 2, width // 2)
        out = torch.empty(shape, dtype=images.dtype, memory_format=torch.channels_last)
        which = torch.empty(out.numel(), dtype=torch.uint8)
        sizes = (count * height // 2, width, channels, images.dtype == torch.bfloat16)
        kernel.stoker_pool_forward(images.data_ptr(), out.data_ptr(), which.data_ptr(), *sizes)
        ctx.which, ctx.sizes, ctx.shape, ctx.kernel = which, sizes, images.shape, kernel
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad = grad.contiguous(memory_format=torch.channels_last)
        out = torch.empty(ctx.shape, dtype=grad.dtype, memory_format=torch.channels_last)
        ctx.kernel.stoker_pool_backward(grad.data_ptr(), ctx.which.data_ptr(), out.data_ptr(), *ctx.sizes)
        return out, None
