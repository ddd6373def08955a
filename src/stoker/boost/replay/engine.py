"""What makes batches: draws in the order of the random streams, pixels afterwards in any thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from stoker.boost.replay.form import Rest
from stoker.boost.replay.stream import Stream


@dataclass(kw_only=True)
class Room:
    """Where a batch is written: one tensor a field of the sample, in the order of the fields."""

    tensors: list[torch.Tensor]
    """[B, ...] each, contiguous, on the CPU; pinned where the loader pins."""
    rest: Rest | None = None
    """What stands around the images, where a batch is more than `tensors` in their order."""


class Engine(Protocol):
    """Makes the batches of one loader. `draw` is called batch by batch in the order in which the stream's worker would make them."""

    what: str
    """What was recognised, for --explain: `CIFAR10 -> RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor(), Normalize(...)`."""
    draws: bool
    """Whether any random number is drawn from the streams."""
    serial: bool
    """True: code of the user's runs in it, so `draw` does all the work, in the consumer's thread with the stream's state made global
    (`Stream.made_global`), and `fill` only copies. False: `draw` is cheap and pure, `fill` may run in any thread."""
    ahead: bool
    """Whether samples cost so much (decoding, resizing) that several threads should work on several batches at once."""

    def shapes(self, count: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Return shape and dtype of every tensor of a batch of `count` samples."""
        ...

    def draw(self, stream: Stream, index_B: np.ndarray) -> Any:
        """Draw all random numbers of the samples `index_B` (int64, places in the data set), sample after sample, as the user's pipeline would.

        Raises what opening a sample raises (a missing file): the caller then lets the user's own code meet the same.
        """
        ...

    def fill(self, drawn: Any, room: Room, start: int, stop: int) -> None:
        """Write the rows `start` to `stop` of the batch. Raises what decoding raises."""
        ...

    def read(self, index_B: np.ndarray) -> list[Any]:
        """Return what the samples `index_B` are made of, for `plainly.same`: asked where batches are made ahead of their time (only engines
        that are `ahead` make any), and again when such a batch is handed out. Costs no decoding."""
        ...

    def current(self) -> bool:
        """Whether data set and transforms still are what the engine was made from (parameters compared, cheaply): asked before every batch
        of a loader without workers, and before every epoch of one with them."""
        ...
