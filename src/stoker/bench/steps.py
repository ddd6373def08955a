"""The two workloads of the compute check: a conv-relu-pool forward pass and a training step of ResNet-50, in a precision and a layout."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from stoker.bench.ceilings import DTYPES
from stoker.bench.resnet import resnet50
from stoker.bench.switches import set_tf32

IMAGE_SIZE = 224
POOL_CHANNELS = 64
POOL_FLOPS = 2.0 * 27 * POOL_CHANNELS * IMAGE_SIZE**2
"""Of one image: a 3x3 convolution from 3 to 64 channels."""
POOL_NUMBERS = (3 + 4 * POOL_CHANNELS + POOL_CHANNELS / 4) * IMAGE_SIZE**2
"""Of one image, moved when the three run one after the other: the image is read, the convolution's output written, read and written by
ReLU in place, read by the pool, and a quarter of it written."""
_CLASSES = 1000

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def cast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a forward pass has a precision; sets TF32 too."""
    set_tf32(precision == "tf32")
    dtype = DTYPES[precision]
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def pool_step(batch: int, precision: str, layout: str, device: torch.device, *, compiled: bool = False) -> Callable[[], object]:
    """Return a call that computes conv-relu-pool of `batch` images without gradients."""
    model: nn.Module = nn.Sequential(nn.Conv2d(3, POOL_CHANNELS, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    # Weights and images have the precision already: autocast would convert the images anew each time.
    model = model.to(device=device, dtype=DTYPES[precision]).to(memory_format=LAYOUTS[layout]).eval()  # type: ignore[call-overload]
    images_NCHW = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, device=device, dtype=DTYPES[precision]).contiguous(memory_format=LAYOUTS[layout])
    if compiled:
        model.compile()

    def step() -> None:
        set_tf32(precision == "tf32")
        with torch.no_grad():
            model(images_NCHW)

    return step


def resnet_step(batch: int, precision: str, layout: str, device: torch.device, *, compiled: bool = False) -> Callable[[], object]:
    """Return a call that trains ResNet-50 one step on random images: forward, cross entropy, backward, SGD with momentum."""
    model = resnet50(_CLASSES).to(device).to(memory_format=LAYOUTS[layout]).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images_NCHW = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, device=device).contiguous(memory_format=LAYOUTS[layout])
    labels_N = torch.randint(0, _CLASSES, (batch,), device=device)
    if compiled:
        model.compile()

    def step() -> None:
        with cast(precision, device):
            scores = model(images_NCHW)
        loss = F.cross_entropy(scores.float(), labels_N)
        if precision == "fp16":
            loss = loss * 1024.0  # half precision loses small gradients otherwise; the numbers do not matter here
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
