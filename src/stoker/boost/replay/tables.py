"""What the values of a pipeline become: tables made by the user's own transforms, so that every bit is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stoker.boost.replay.look import Look
from stoker.boost.replay.sources import pillow
from stoker.boost.replay.steps.colours import Convert, Grayscale, ToRGB
from stoker.boost.replay.steps.step import Step
from stoker.boost.replay.steps.values import ConvertImageDtype, Normalize, PILToTensor, ToArray, ToDtype, ToImage, ToPILImage, ToPureTensor, ToTensor
from stoker.boost.replay.unfit import Unfit

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, kw_only=True)
class Table:
    """The values of a chain of steps of which each makes of one value one value."""

    dtype: torch.dtype
    bits_CV: np.ndarray
    """[C, 256]: the bits of the results, as an integer type of their size; C channels of the output."""
    from_C: np.ndarray
    """int32: the channel of the image that each channel of the output is made of."""

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return len(self.from_C)


def by_value(step: Step, look: Look) -> bool:
    """Return whether each value of the result of `step`, on images of that look, hangs on one value of the image alone.

    A step from floats to integers does not count: what numbers out of range become hangs on the place where they stand in the tensor.
    """
    if isinstance(step, (Grayscale, ToRGB, Convert)):
        return look.channels == 1 or (isinstance(step, Convert) and look.form == "pil")
    if not isinstance(step, (ToTensor, PILToTensor, ToArray, ToImage, ToPureTensor, ToPILImage, ToDtype, ConvertImageDtype, Normalize)):
        return False
    return not (look.dtype.is_floating_point and not step.after(look).dtype.is_floating_point)


def value_table(steps: Sequence[Step], channels: int) -> Table:
    """Run `steps`, each `by_value`, on all 256 values of a PIL image with 1 (mode L) or 3 (RGB) channels.

    Raises Unfit when they raise or do not end in a plain dense tensor of a type of 1, 2, 4 or 8 bytes.
    """
    values_NC = np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels, axis=1)
    result = finished(picture(values_NC[None]), steps)
    if result.shape[1:] != (1, 256) or (channels != 1 and len(result) != channels):
        raise Unfit(f"its transforms make {tuple(result.shape)} of an image of 256 pixels")
    bits_CV = bits(result.reshape(-1, 256).contiguous()).copy()
    sources = np.arange(channels) if channels != 1 else np.zeros(len(bits_CV))
    return Table(dtype=result.dtype, bits_CV=bits_CV, from_C=sources.astype(np.int32))


def picture(pixels_HWC: np.ndarray) -> Any:
    """Return a PIL image of bytes [H, W, 1 or 3]."""
    return pillow().fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[2] == 1 else pixels_HWC)


def finished(image: Any, steps: Sequence[Step]) -> torch.Tensor:
    """Return what `steps`, which draw nothing, make of `image`: what a batch is then stacked of. Raises Unfit as `value_table`."""
    try:
        for step in steps:
            image = step.apply(image, None)
        if type(image) is np.ndarray:
            image = torch.from_numpy(image)
        # A tensor of torchvision's own class may or may not become a plain one when it is stacked, as the user has set it.
        plain = isinstance(image, torch.Tensor) and type(torch.stack([image])) is torch.Tensor
    except Exception as error:
        raise Unfit(f"its transforms raise {type(error).__name__}: {error}") from error
    if not plain:
        raise Unfit(f"its transforms end in a {type(image).__name__}, not in a tensor")
    result: torch.Tensor = torch.stack([image])[0]
    if result.layout is not torch.strided or result.dtype.itemsize not in _BITS or result.is_quantized or result.requires_grad or result.dim() != 3:
        raise Unfit(f"its transforms end in a tensor {tuple(result.shape)} of {result.dtype}")
    return result


def bits(tensor: torch.Tensor) -> np.ndarray:
    """Return the memory of a contiguous CPU tensor as an array of integers of the same size: also of types that numpy does not have."""
    array: np.ndarray = tensor.detach().view(_BITS[tensor.dtype.itemsize]).numpy()
    return array
