"""Bytes as people read them, and how many a DataLoader's workers take of shared memory."""

from __future__ import annotations

import math

_BATCH = (64, 3, 224, 224)
BATCH_BYTES = 4 * math.prod(_BATCH)
"""float32: 38.5 MB."""
_PREFETCH = 2
"""The DataLoader's default prefetch_factor."""


def size(count_bytes: float) -> str:
    """Return bytes as `64 MiB` or `1.2 GiB`."""
    for unit, step in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count_bytes >= step:
            amount = count_bytes / step
            return f"{amount:.0f} {unit}" if amount >= 10 or abs(amount - round(amount)) < 0.05 else f"{amount:.1f} {unit}"
    return f"{count_bytes:.0f} bytes"


def loader_shm_bytes(workers: int) -> int:
    """Return the shared memory that a DataLoader needs: each worker holds 2 batches of 64x3x224x224 float32, the training a further one."""
    return BATCH_BYTES * (_PREFETCH * workers + 1)
