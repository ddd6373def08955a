"""What a sampler gives, as numbers that an engine can take; and why not, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from stoker.boost.replay.unfit import Unfit


def indices(index: Any, length: int) -> np.ndarray:
    """Return a sampler's batch as int64. Raises Unfit for anything but a list of whole numbers within the data set."""
    if not isinstance(index, (list, tuple)) or not index:
        raise Unfit(f"its sampler gives {type(index).__name__}, not lists of indices")
    # By types, not one by one: this runs for every batch.
    if not all(kind is int or issubclass(kind, np.integer) for kind in set(map(type, index))):
        raise Unfit("its sampler gives indices that are no plain numbers")
    index_B = np.array(index, dtype=np.int64)
    if int(index_B.min()) < 0 or int(index_B.max()) >= length:
        raise Unfit("its sampler gives indices outside the data set")
    return index_B


def why_not(error: Exception) -> str:
    return str(error) if isinstance(error, Unfit) else f"a batch could not be made ({type(error).__name__}: {error})"
