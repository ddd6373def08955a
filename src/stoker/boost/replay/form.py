"""What a batch looks like around its images: of samples that are more, or other, than an image and a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import default_collate

Place = tuple[int | str, ...]
"""The keys that lead to the image, from the outermost: `(0,)` in `(image, path)`, `("image",)` in a dict, none where the image is all."""


@dataclass(frozen=True, kw_only=True)
class Rest:
    """All of a batch but its images, in whose place there is something else."""

    place: Place
    batch: Any

    def around(self, images: torch.Tensor) -> Any:
        """Return the batch with `images` in it; in the caller's mode, as PyTorch's would be."""
        made = _copied(self.batch)
        if not self.place:
            return images
        holder = made
        for key in self.place[:-1]:
            holder = holder[key]
        holder[self.place[-1]] = images
        return made


def collated(place: Place, samples: list[Any]) -> Rest:
    """Return what PyTorch makes of samples that hold a number where their images are. Raises what `default_collate` raises."""
    with torch.inference_mode(False):
        return Rest(place=place, batch=default_collate(samples))


def begun(batch: Any, rows: int) -> Any:
    """Return the first `rows` samples of a batch."""
    if isinstance(batch, dict):
        return {key: begun(part, rows) for key, part in batch.items()}
    if isinstance(batch, torch.Tensor) or (isinstance(batch, (list, tuple)) and all(isinstance(part, (str, bytes)) for part in batch)):
        return batch[:rows]
    return type(batch)(begun(part, rows) for part in batch) if isinstance(batch, (list, tuple)) else batch


def in_mode(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor as one that is made, or received from a worker, in the caller's mode."""
    if not torch.is_inference_mode_enabled():
        return tensor
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def _copied(batch: Any) -> Any:
    """Return a copy of the containers of `batch`, with tensors of the caller's mode."""
    if isinstance(batch, dict):
        return {key: _copied(part) for key, part in batch.items()}
    if isinstance(batch, list):
        return [_copied(part) for part in batch]
    return in_mode(batch) if isinstance(batch, torch.Tensor) else batch
