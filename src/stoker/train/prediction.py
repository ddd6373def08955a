"""Logits of test images, as they are or averaged over variants of each image (test-time augmentation)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from stoker.errors import UnknownName, nearest

MODES = ("none", "flip", "flip+shift")


def predict(model: nn.Module, images_NCHW: torch.Tensor, mode: str = "none") -> torch.Tensor:
    """Return logits (N, classes) in float32; the caller chooses autocast, evaluation mode and no_grad.

    `flip` averages the image and its mirror image. `flip+shift` gives half of the weight to these two and half to both again,
    shifted by one pixel towards the upper left and towards the lower right, edges reflected: six passes (Jordan 2024, arXiv
    2404.00498). Averaging is of the logits. Raises UnknownName.
    """
    if mode not in MODES:
        near = nearest(mode, MODES)
        likely = f"did you mean '{near}'? " if near else ""
        raise UnknownName(f"there is no test-time augmentation '{mode}'", hint=f"{likely}there are: {', '.join(MODES)}")
    if mode == "none":
        return model(images_NCHW).float()
    straight = _mirrored(model, images_NCHW)
    if mode == "flip":
        return straight
    height, width = images_NCHW.shape[-2:]
    padded = F.pad(images_NCHW, (1, 1, 1, 1), mode="reflect")
    layout = torch.channels_last if images_NCHW.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    upper_left = padded[:, :, :height, :width].contiguous(memory_format=layout)
    lower_right = padded[:, :, 2:, 2:].contiguous(memory_format=layout)
    return 0.5 * straight + 0.25 * (_mirrored(model, upper_left) + _mirrored(model, lower_right))


def _mirrored(model: nn.Module, images_NCHW: torch.Tensor) -> torch.Tensor:
    return 0.5 * (model(images_NCHW).float() + model(images_NCHW.flip(-1)).float())
