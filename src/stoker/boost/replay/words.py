"""What PyTorch's CPU generator makes of a raw 32-bit word: the same numbers, for many words at once.

There is no `uniform(low, high)` here: PyTorch computes `x * (high - low) + low` in one instruction where the processor has one (FMA) and in two
where it has not, and the bits differ. It is drawn a number at a time, from `Stream.generator`.
"""

from __future__ import annotations

import numpy as np

LARGEST = 1 << 28
"""From this many values on, `torch.randint` of PyTorch 2.6 and later takes two words for a number (measured: 2.5.1 takes one, 2.13 two)."""

_MASK = np.uint32((1 << 24) - 1)
_UNIT = np.float32(2.0**-24)


def unit(words: np.ndarray) -> np.ndarray:
    """Return what `torch.rand(1)` makes of each word (uint32, any shape): float32, the same shape.

    Source: `uniform_real` in aten/src/ATen/core/TransformationHelper.h. Only where float32 is PyTorch's default type.
    """
    return (words & _MASK).astype(np.float32) * _UNIT


def below(words: np.ndarray, p: float) -> np.ndarray:
    """Return what `torch.rand(1) < p` makes of each word (uint32, any shape): bool, the same shape.

    PyTorch rounds `p` to float32 before it compares; `torch.rand(1).item() < p` does not, and may differ in one word of 2**24.
    """
    return unit(words) < np.float32(p)


def integers(words: np.ndarray, n: int) -> np.ndarray:
    """Return what `torch.randint(0, n, (1,))` makes of each word (uint32, any shape): int64, the same shape. Raises ValueError when
    `n` is not between 1 and `LARGEST` - 1.

    Source: `uniform_int_from_to_distribution` in aten/src/ATen/core/DistributionsHelper.h.
    """
    if not 0 < n < LARGEST:
        raise ValueError(f"randint of {n} values does not take one word for each")
    return (words % np.uint32(n)).astype(np.int64)
