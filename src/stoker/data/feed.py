"""An epoch's batches out of pixels that stay in memory: on the device when they fit, else augmented from host memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from stoker.data import draws
from stoker.data.augment import Augment, check_padding, check_reflection
from stoker.data.buffers import Buffers
from stoker.data.device import DevicePixels, OnDevice, StagedPixels, resident_pixels
from stoker.data.kernel import Places
from stoker.data.normalise import Normalise, check_dtype
from stoker.data.sets import Resident
from stoker.data.shares import Shared, Shares

TOGETHER_BYTES = 8 * 2**20
"""Batches that are made in one call on the CPU fill no more than this: it stays in the processor's last cache."""
MOST_TOGETHER = 16

Batch = tuple[torch.Tensor, torch.Tensor]


class _Maker(Protocol):
    """What turns shares of an epoch into batches."""

    where: str
    why: str

    @property
    def how(self) -> str:
        """By what batches are made."""

    def batches(self, indices: Sequence[np.ndarray], drawn: draws.Draws | None) -> Iterator[Batch]:
        """Yield (images, labels) for each array of dataset indices."""


class Feed(Shared):
    """The batches of a resident data set.

    Images are float32 or bfloat16 [B, C, H, W], labels int64 [B], both on `device`. A batch is never written over while anybody holds it or
    a view of it; one who lets go of each batch costs no new memory. Any number of epochs may be iterated at once.

    Every batch is a function of (seed, epoch, step): with `world_size` ranks each gets its share of the very batch that one rank would see.
    """

    def __init__(
        self,
        *,
        resident: Resident,
        batch_size: int,
        device: torch.device | str,
        dtype: torch.dtype,
        channels_last: bool,
        mean: Sequence[float],
        std: Sequence[float],
        padding: int = 0,
        padding_mode: str = "zeros",
        flip: str = "none",
        seed: int,
        shuffle: bool,
        drop_last: bool,
        rank: int = 0,
        world_size: int = 1,
        buffers: int = 2,
        compiled: bool = True,
    ) -> None:
        """`batch_size` is that of all ranks together; `buffers` batches are kept for re-use; `compiled`: the operation on a GPU.

        Raises BadValue for values out of range and for a batch larger than the data set (with drop_last).
        """
        check_dtype(dtype)
        check_padding(padding, padding_mode)
        draws.check(padding, flip)
        images, height, width, channels = resident.pixels_NHWC.shape
        check_reflection(padding, padding_mode == "reflect", height, width)
        self.shares = Shares(images=images, batch_size=batch_size, drop_last=drop_last, rank=rank, world_size=world_size)
        self._seed, self._shuffle, self._padding, self._flip = seed, shuffle, padding, flip
        normalise = Normalise.of(mean, std, channels)
        self.bytes = resident.pixels_NHWC.nbytes + resident.labels_N.nbytes
        self._maker: _Maker
        if torch.device(device).type == "cpu":
            augment = Augment(normalise, dtype=dtype, channels_last=channels_last, padding=padding, padding_mode=padding_mode)
            self._maker = _OnHost(resident, augment, self.shares.local_batch_size, buffers)
        else:
            pixels: DevicePixels | StagedPixels = resident_pixels(resident, torch.device(device))
            reflect = padding_mode == "reflect"
            self._maker = OnDevice(
                *(pixels, resident.labels_N, normalise.table(dtype)), padding=padding, reflect=reflect, channels_last=channels_last, compiled=compiled
            )

    @property
    def where(self) -> str:
        """Where the pixels are kept: "device" or "host"."""
        return self._maker.where

    @property
    def why(self) -> str:
        """Why they are kept there."""
        return self._maker.why

    @property
    def how(self) -> str:
        """By what batches are made."""
        return self._maker.how

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield (images, labels) of an epoch from batch `start` on. Raises BadValue, at once, when there is no such batch."""
        self.shares.check_start(start)
        order = draws.order(self._seed, epoch, self.images) if self._shuffle else np.arange(self.images, dtype=np.int64)
        drawn = draws.augmentation(self._seed, epoch, self.images, self._padding, self._flip) if self._padding or self._flip != "none" else None
        parts = [self.shares.of(step) for step in range(start, self.steps)]
        return self._maker.batches([order[part.start : part.stop] for part in parts], drawn)


class _OnHost:
    """Batches on the CPU, made in the thread that asks for them, a few at a time.

    After a training step neither Python's code nor the kernel's is in the cache any more: a batch of 64 CIFAR images made alone took
    237 us between steps of the small CNN, against 73 us in a loop without steps. Several in one call share that cost.
    """

    where = "host"
    why = "the device is the CPU"

    def __init__(self, resident: Resident, augment: Augment, batch_size: int, buffers: int) -> None:
        self._pixels_NHWC, self._labels_N, self._augment = np.ascontiguousarray(resident.pixels_NHWC), resident.labels_N, augment
        self.how = augment.how
        _, height, width, channels = resident.pixels_NHWC.shape
        batch_bytes = batch_size * height * width * channels * augment.dtype.itemsize
        self._together = max(1, min(MOST_TOGETHER, TOGETHER_BYTES // batch_bytes))
        shape = (self._together * batch_size, channels, height, width)
        self._buffers = Buffers(shape, augment.dtype, channels_last=augment.channels_last, keep=buffers)

    def batches(self, indices: Sequence[np.ndarray], drawn: draws.Draws | None) -> Iterator[Batch]:
        """Yield (images, labels) for each array of dataset indices."""
        for first in range(0, len(indices), self._together):
            parts = indices[first : first + self._together]
            index_B = np.concatenate(parts)
            images = self._buffers.take()[: len(index_B)]
            places = None if drawn is None else Places(dy_B=drawn.dy_N[index_B], dx_B=drawn.dx_N[index_B], flip_B=drawn.flip_N[index_B])
            self._augment.into(images, self._pixels_NHWC, index_B, places)
            sizes = [len(part) for part in parts]
            made = list(zip(images.split(sizes), torch.from_numpy(self._labels_N[index_B]).split(sizes), strict=True))
            del images  # while the next ones are made, the caller alone decides whether these are still needed
            made.reverse()
            while made:
                yield made.pop()
