"""What a uint8 value becomes: one table of 256 numbers a channel that every way of making batches agrees with, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from stoker.errors import BadValue

DTYPES = (torch.float32, torch.bfloat16)


class Normalise:
    """(v / 255 - mean) / std of uint8 values, as one multiply-add with one rounding.

    number = float32 of the exact v * scale + bias, rounded once, where scale = 1 / (255 * std) and bias = -mean / std are float32;
    a bfloat16 is that float32 rounded to nearest even.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take mean and standard deviation of each channel (1 or 3) on the scale 0..1. Raises BadValue for what cannot be one."""
        if len(mean) != len(std) or len(mean) not in (1, 3):
            raise BadValue(f"mean has {len(mean)} and std {len(std)} numbers", hint="give one number a channel: 1 (grey) or 3 (RGB)")
        if not all(math.isfinite(m) and abs(m) < 1e6 and math.isfinite(s) and 1e-6 < s < 1e6 for m, s in zip(mean, std, strict=True)):
            raise BadValue(f"mean={tuple(mean)} and std={tuple(std)} cannot normalise", hint="std must be above 0, both on the scale 0..1")
        wide_mean, wide_std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
        self.scale_C = np.ascontiguousarray((1 / (255 * wide_std)).astype(np.float32))
        self.bias_C = np.ascontiguousarray((-wide_mean / wide_std).astype(np.float32))
        self.table_CV = _rounded_once(self.scale_C, self.bias_C)
        self.table_bf16_CV = _bfloat16_bits(self.table_CV)

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float], channels: int) -> Normalise:
        """Return the normalisation of images with `channels`; a single number stands for every channel. Raises BadValue."""
        means, stds = (tuple(numbers) * channels if len(numbers) == 1 else tuple(numbers) for numbers in (mean, std))
        if len(means) != channels:
            raise BadValue(f"mean has {len(means)} numbers, the images have {channels} channels", hint="give one number a channel, or a single one")
        return cls(means, stds)

    @property
    def channels(self) -> int:
        """1 or 3."""
        return len(self.scale_C)

    def table(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the table as a tensor [channels, 256] of float32 or bfloat16, on the CPU."""
        if dtype == torch.float32:
            return torch.from_numpy(self.table_CV)
        return torch.from_numpy(self.table_bf16_CV.view(np.int16)).view(torch.bfloat16)


def check_dtype(dtype: torch.dtype) -> None:
    """Raise BadValue unless batches can be made in `dtype`."""
    if dtype not in DTYPES:
        raise BadValue(f"batches cannot be made as {dtype}", hint="choose torch.float32 or torch.bfloat16")


def _rounded_once(scale_C: np.ndarray, bias_C: np.ndarray) -> np.ndarray:
    """Return float32(v * scale + bias) [channels, 256], rounded once though computed in float64.

    The product of 8 and 24 bits is exact in float64; the sum is rounded to odd, which makes the second rounding harmless
    (Boldo & Melquiond, "When double rounding is odd", 2004).
    """
    product = np.arange(256, dtype=np.float64)[None, :] * scale_C.astype(np.float64)[:, None]
    bias = np.broadcast_to(bias_C.astype(np.float64)[:, None], product.shape)
    total = product + bias
    part = total - product
    error = (product - (total - part)) + (bias - part)
    even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & even, odd, total).astype(np.float32)


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Return the bits (uint16) of finite float32 values rounded to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
