"""Running out of memory: recognised on every device, answered with the batch size that would fit."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch

from stoker.errors import OutOfMemory

_CPU_TEXTS = ("can't allocate memory", "not enough memory", "std::bad_alloc", "DefaultCPUAllocator")


def is_shortage(error: BaseException) -> bool:
    """Whether `error` says that a device, or the host, has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_TEXTS)


@contextlib.contextmanager
def explained(batch_size: int, try_step: Callable[[int], object], device: torch.device) -> Iterator[None]:
    """Turn a shortage of memory into OutOfMemory, with the largest batch size for which `try_step(size)` gets through."""
    shortage: str | None = None
    try:
        yield
    except BaseException as error:
        if not is_shortage(error):
            raise
        shortage = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    # Outside of the except block: the traceback holds the tensors that filled the memory.
    if shortage is not None:
        fits = _largest(batch_size, try_step, device)
        hint = (
            f"a batch of {fits} fits: --set batch_size={fits}"
            if fits
            else "not even one image fits: a smaller model, smaller images (--set image_size=...) or a larger device"
        )
        raise OutOfMemory(f"{device} has too little memory for a step of {batch_size} images ({shortage})", hint=hint)


def _largest(batch_size: int, try_step: Callable[[int], object], device: torch.device) -> int | None:
    """Halve the batch until a step gets through; what gets through is tried, not computed."""
    size = batch_size // 2
    while size >= 1:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            try_step(size)
        except BaseException as error:
            if not is_shortage(error):
                raise
        else:
            return size
        size //= 2
    return None
