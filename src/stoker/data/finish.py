"""Decoded uint8 batches become normalised batches on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from stoker.data.augment import Augment
from stoker.data.buffers import Buffers
from stoker.data.device import pinned
from stoker.data.gather import CompiledGather
from stoker.data.normalise import Normalise
from stoker.data.readahead import RawBatch


class Finish(Protocol):
    """The last step of a batch, on one kind of device."""

    @property
    def how(self) -> str:
        """By what batches are normalised."""

    def room(self, ahead: int) -> Callable[[], torch.Tensor]:
        """Return a source of uint8 buffers for an epoch with `ahead` batches on their way."""

    def __call__(self, raw: RawBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images [B, C, H, W] and labels [B] on the device."""


def finish_for(
    device: torch.device, shape_BHWC: tuple[int, int, int, int], normalise: Normalise, *, dtype: torch.dtype, channels_last: bool, compiled: bool
) -> Finish:
    """Return the last step for `device`; `compiled`: the operation on a GPU."""
    if device.type == "cpu":
        return _OnHost(shape_BHWC, Augment(normalise, dtype=dtype, channels_last=channels_last))
    return OnDevice(device, shape_BHWC, normalise.table(dtype), channels_last=channels_last, compiled=compiled)


class _OnHost:
    def __init__(self, shape_BHWC: tuple[int, int, int, int], augment: Augment) -> None:
        count, height, width, channels = shape_BHWC
        self._shape, self._augment, self.how = shape_BHWC, augment, augment.how
        self._out = Buffers((count, channels, height, width), augment.dtype, channels_last=augment.channels_last)

    def room(self, ahead: int) -> Callable[[], torch.Tensor]:
        return Buffers(self._shape, torch.uint8, keep=ahead + 1).take

    def __call__(self, raw: RawBatch) -> tuple[torch.Tensor, torch.Tensor]:
        present = np.flatnonzero(raw.present_B)
        images = self._out.take()[: len(present)]
        self._augment.into(images, raw.pixels_BHWC, present, None)
        return images, torch.from_numpy(raw.labels_B[present])


class OnDevice:
    """Copies uint8 and normalises on the device, always a whole buffer, so that the operation is compiled for one shape."""

    def __init__(
        self, device: torch.device, shape_BHWC: tuple[int, int, int, int], table_CV: torch.Tensor, *, channels_last: bool, compiled: bool
    ) -> None:
        self._device, self._shape, self._channels_last = device, shape_BHWC, channels_last
        self._table_CV = table_CV.to(device)
        self._gather = CompiledGather(compiled)

    @property
    def how(self) -> str:
        because = self._gather.eager_because
        return "one compiled operation" if because is None else f"torch operations, not compiled: {because}"

    def room(self, ahead: int) -> Callable[[], torch.Tensor]:
        return lambda: pinned(self._shape, torch.uint8, self._device)

    def __call__(self, raw: RawBatch) -> tuple[torch.Tensor, torch.Tensor]:
        present = np.flatnonzero(raw.present_B)
        index = pinned((self._shape[0],), torch.int64, self._device).zero_()
        labels = pinned((len(present),), torch.int64, self._device)
        np.copyto(index.numpy()[: len(present)], present)
        np.copyto(labels.numpy(), raw.labels_B[present])
        # A caller that evaluates may hand the batch on to one that trains, and the operation must not be compiled again for either.
        with torch.inference_mode(False), torch.no_grad():
            pixels = raw.tensor_BHWC.to(self._device, non_blocking=True)
            places = index.to(self._device, non_blocking=True)
            images = self._gather(pixels, self._table_CV, places, None, None, None, 0, False, self._channels_last)
            return images[: len(present)], labels.to(self._device, non_blocking=True)
