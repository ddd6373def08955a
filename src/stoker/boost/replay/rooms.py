"""The memory of batches: used again when nobody holds it any more, or page-locked memory from PyTorch's own cache."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from stoker.boost.replay.engine import Room
from stoker.boost.replay.form import in_mode
from stoker.data.buffers import Buffers

_SMALL_BYTES = 1 << 16
"""Below this malloc is cheaper than looking for a buffer that nobody holds."""


class Rooms:
    """Rooms for the batches of one loader; for any thread."""

    def __init__(self, *, pinned: bool, keep: int) -> None:
        """Keep at most `keep` batches of a shape. `pinned`: page-locked, for copies to a GPU.

        Page-locked memory is asked for anew for every batch: PyTorch's allocator of it keeps blocks, and gives one out again only when the
        copies from it are done, which it alone can know.
        """
        self._pinned, self._keep = pinned, keep
        self._buffers: dict[tuple[tuple[int, ...], torch.dtype], Buffers] = {}

    def take(self, shapes: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> Room:
        """Return a room with one tensor a shape. Raises RuntimeError or MemoryError when there is no memory for it."""
        return Room(tensors=[self._tensor(shape, dtype) for shape, dtype in shapes])

    def _tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        count = 1
        for size in shape:
            count *= size
        if self._pinned or count * dtype.itemsize < _SMALL_BYTES:
            # Entering it costs more than a small tensor does.
            with torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext():
                return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=self._pinned)
        buffers = self._buffers.get((shape, dtype))
        if buffers is None:
            buffers = self._buffers.setdefault((shape, dtype), Buffers(shape, dtype, keep=self._keep))
        return buffers.take()


def handed(room: Room, kind: type[list[Any]] | type[tuple[Any, ...]] = list) -> Any:
    """Return a batch as one that is made, or received from a worker, in the caller's mode: inference tensors inside `torch.inference_mode()`.

    `kind`: list or tuple, what it stands in.
    """
    tensors = [in_mode(tensor) for tensor in room.tensors]
    return kind(tensors) if room.rest is None else room.rest.around(tensors[0])
