"""2x2 max pool, alone or with ReLU, as one operation: by the C kernel on a CPU in channels_last memory, else by torch, with the same numbers."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from stoker.kernels import built, of_version

VERSION = 2

_NOWHERE = 4
"""In place of one of a window's four values: ReLU let nothing through."""


def relu_max_pool2(images_NCHW: torch.Tensor) -> torch.Tensor:
    """Return relu(max_pool2d(images, 2)): (N, C, H // 2, W // 2), any dtype and device; differentiable.

    ReLU stands after the pool: the two commute, as both are monotone, and it has a quarter of the values to go through. While training on a
    CPU the pair is a third of the small CNN's step with torch's own operations (benchmarks/pool.py).
    """
    if takes(images_NCHW) and (loaded := library()) is not None:
        return pooled(images_NCHW, loaded, relu=True)
    return F.relu(F.max_pool2d(images_NCHW, 2))


def takes(images: torch.Tensor) -> bool:
    """Whether the kernel is meant for this call: a training step on the CPU that nobody traces, compiles or exports."""
    return (
        images.device.type == "cpu"
        and images.dim() == 4
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


def pooled(images_NCHW: torch.Tensor, kernel: ctypes.CDLL, *, relu: bool) -> torch.Tensor:
    """Return max_pool2d(images, 2), with ReLU if `relu`, of images that the kernel takes."""
    found: torch.Tensor = _MaxPool2.apply(images_NCHW, kernel, relu)
    return found


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the kernel that was built with the package; None when there is none, or another version's."""
    found = built(Path(__file__).with_name("_pool"), load)
    return None if isinstance(found, str) else found


def load(path: Path) -> ctypes.CDLL:
    """Load the kernel at `path`. Raises OSError when it is not one of this version."""
    found = of_version(path, "stoker_pool_version", VERSION)
    sizes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int)
    for function, more in ((found.stoker_pool_forward, (ctypes.c_int,)), (found.stoker_pool_backward, ())):
        function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, *sizes, *more), None
    return found


class _MaxPool2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, kernel: ctypes.CDLL, relu: bool) -> torch.Tensor:
        count, channels, height, width = images.shape
        shape = (count, channels, height // 2, width // 2)
        out = torch.empty(shape, dtype=images.dtype, memory_format=torch.channels_last)
        which = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        sizes = (count * height // 2, width, channels, images.dtype == torch.bfloat16)
        kernel.stoker_pool_forward(images.data_ptr(), out.data_ptr(), which.data_ptr(), *sizes, relu)
        ctx.save_for_backward(which)
        ctx.sizes, ctx.shape, ctx.kernel = sizes, images.shape, kernel
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (which,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: this has to be differentiable itself
            return _spread(grad, which), None, None
        grad = grad.contiguous(memory_format=torch.channels_last)
        out = torch.empty(ctx.shape, dtype=grad.dtype, memory_format=torch.channels_last)
        ctx.kernel.stoker_pool_backward(grad.data_ptr(), which.data_ptr(), out.data_ptr(), *ctx.sizes)
        return out, None, None


def _spread(grad_NCHW: torch.Tensor, which_NCHW: torch.Tensor) -> torch.Tensor:
    """Return `grad` where the largest of each window was, 0 elsewhere, by torch's operations."""
    count, channels, height, width = grad_NCHW.shape
    windows_NCHW4 = torch.stack([torch.where(which_NCHW == place, grad_NCHW, 0) for place in range(_NOWHERE)], dim=-1)
    rows_NCHYWX = windows_NCHW4.reshape(count, channels, height, width, 2, 2).transpose(3, 4)
    return rows_NCHYWX.reshape(count, channels, 2 * height, 2 * width)
