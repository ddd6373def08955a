"""Batch tensors that are used again: a fresh one a batch costs more in page faults than the batch itself."""

from __future__ import annotations

import threading

import torch

_use_count = getattr(torch._C, "_storage_Use_Count", None)


class Buffers:
    """A few tensors of one shape, for any thread; one is handed out again only when nobody holds it, or anything made from it, any more."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, *, channels_last: bool = False, keep: int = 2) -> None:
        """Keep at most `keep` tensors; made when first needed."""
        self._shape, self._dtype, self._keep = shape, dtype, keep
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._kept: list[tuple[torch.Tensor, int]] = []
        self._lock = threading.Lock()

    def take(self) -> torch.Tensor:
        """Return a tensor whose content nobody needs. It counts as held until the last reference to it, its views and its storage is gone.

        Where this PyTorch cannot count holders, tensors alternate: the batch before the last one is written over.
        """
        with self._lock:
            return self._taken()

    def _taken(self) -> torch.Tensor:
        for place, (tensor, unheld) in enumerate(self._kept):
            if _use_count is None and len(self._kept) < self._keep:
                break
            if _use_count is None or _holders(tensor) == unheld:
                self._kept.append(self._kept.pop(place))
                return tensor.detach()
        with torch.inference_mode(False):  # a tensor made while somebody evaluates must serve a training too
            tensor = torch.empty(self._shape, dtype=self._dtype, memory_format=self._layout)
        self._kept.append((tensor, _holders(tensor)))
        del self._kept[: -self._keep]
        # A tensor of its own over the same storage: it is this one's life that the count of holders sees.
        return tensor.detach()


def _holders(tensor: torch.Tensor) -> int:
    return int(_use_count(tensor.untyped_storage()._cdata)) if _use_count is not None else 0
