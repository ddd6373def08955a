"""Batches of resident pixels on a GPU: many batches are augmented in one launch and handed out as slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from stoker.data.draws import Draws
from stoker.data.gather import CompiledGather
from stoker.data.sets import Resident

CHUNK_BYTES = 64 << 20
"""Of batches made at once. Large enough that a launch costs nothing, small beside the model's activations."""
STAGED_CHUNK_BYTES = 16 << 20
"""The same where pixels come from host memory: a second chunk must not wait long for the first."""
SHARE_OF_FREE_MEMORY = 0.8
_COPY_BYTES = 64 << 20


class DevicePixels:
    """Pixels that stay on the device."""

    where = "device"
    chunk_bytes = CHUNK_BYTES

    def __init__(self, pixels_NHWC: np.ndarray, device: torch.device, why: str) -> None:
        """Copy all pixels to `device`. Raises torch.OutOfMemoryError."""
        self.why, self.device, self.shape = why, device, pixels_NHWC.shape
        self._pixels_NHWC = torch.empty(pixels_NHWC.shape, dtype=torch.uint8, device=device)
        step = max(1, _COPY_BYTES // max(1, pixels_NHWC[0].nbytes))
        for start in range(0, len(pixels_NHWC), step):
            self._pixels_NHWC[start : start + step].copy_(torch.from_numpy(np.array(pixels_NHWC[start : start + step])))

    def of(self, index_B: np.ndarray, index_on_device_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pixels on the device, and the places of images `index_B` in them."""
        return self._pixels_NHWC, index_on_device_B


class StagedPixels:
    """Pixels in host memory that are gathered into pinned memory and copied: a quarter of the bytes of float32."""

    where = "host"
    chunk_bytes = STAGED_CHUNK_BYTES

    def __init__(self, pixels_NHWC: np.ndarray, device: torch.device, why: str) -> None:
        """Keep `pixels_NHWC` where it is."""
        self.why, self.device, self.shape, self._pixels_NHWC = why, device, pixels_NHWC.shape, pixels_NHWC

    def of(self, index_B: np.ndarray, index_on_device_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pixels on the device, and the places of images `index_B` in them."""
        gathered = pinned((len(index_B), *self.shape[1:]), torch.uint8, self.device)
        # mode="raise" would gather into a second buffer first; the indices come from an order of these very images.
        np.take(self._pixels_NHWC, index_B, axis=0, out=gathered.numpy(), mode="clip")
        return gathered.to(self.device, non_blocking=True), torch.arange(len(index_B), device=self.device)


def pinned(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return host memory that `device` can copy from while the host goes on.

    PyTorch keeps such memory for re-use, and re-uses it only when the copies out of it have ended: it can be let go of right after `to`.
    """
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


class OnDevice:
    """Makes batches on a device. `how` says whether the operation is compiled, or why it is not."""

    def __init__(
        self,
        pixels: DevicePixels | StagedPixels,
        labels_N: np.ndarray,
        table_CV: torch.Tensor,
        *,
        padding: int,
        reflect: bool,
        channels_last: bool,
        compiled: bool,
        chunk_bytes: int | None = None,
    ) -> None:
        """Make batches of the numbers in `table_CV` [C, 256] out of `pixels`; `chunk_bytes` of images in one launch."""
        self.where, self.why, self._pixels, self._labels_N = pixels.where, pixels.why, pixels, labels_N
        self._table_CV = table_CV.to(pixels.device)
        self._padding, self._reflect, self._channels_last = padding, reflect, channels_last
        self._gather = CompiledGather(compiled)
        _, height, width, channels = pixels.shape
        self._image_bytes = height * width * channels * table_CV.element_size()
        self._chunk_bytes = chunk_bytes or pixels.chunk_bytes

    @property
    def how(self) -> str:
        """By what batches are made."""
        because = self._gather.eager_because
        return "one compiled operation" if because is None else f"torch operations, not compiled: {because}"

    def batches(self, indices: Sequence[np.ndarray], drawn: Draws | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (images, labels) for each array of dataset indices."""
        if not indices:
            return
        together = self._batches_a_chunk(len(indices), max(len(index_B) for index_B in indices))
        full = together * max(len(index_B) for index_B in indices)
        for start in range(0, len(indices), together):
            some = indices[start : start + together]
            images, labels = self._chunk(np.concatenate(some), full, drawn)
            at = 0
            for index_B in some:
                yield images[at : at + len(index_B)], labels[at : at + len(index_B)]
                at += len(index_B)
            del images, labels  # else the next chunk would be made beside this one

    def _batches_a_chunk(self, steps: int, batch_size: int) -> int:
        most = max(1, self._chunk_bytes // max(1, batch_size * self._image_bytes))
        chunks = -(-steps // most)
        return -(-steps // chunks)

    def _chunk(self, index: np.ndarray, full: int, drawn: Draws | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Make images and labels of `index`, filled up to `full` so that every launch has the one shape it was compiled for."""
        # A caller that evaluates may hand the batch on to one that trains, and the operation must not be compiled again for either.
        with torch.inference_mode(False), torch.no_grad():
            return self._made(index, full, drawn)

    def _made(self, index: np.ndarray, full: int, drawn: Draws | None) -> tuple[torch.Tensor, torch.Tensor]:
        padded = np.concatenate((index, np.full(full - len(index), index[0] if len(index) else 0)))
        index_on_device, labels = self._sent(padded), self._sent(self._labels_N[padded])
        offsets = (None, None, None) if drawn is None else tuple(self._sent(a[padded]) for a in (drawn.dy_N, drawn.dx_N, drawn.flip_N))
        pixels_NHWC, places = self._pixels.of(padded, index_on_device)
        crop = (0, False) if drawn is None else (self._padding, self._reflect)
        return self._gather(pixels_NHWC, self._table_CV, places, *offsets, *crop, self._channels_last), labels

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        # From memory that is not pinned, the copy would first wait for everything that the device still has to do.
        tensor = pinned(array.shape, torch.from_numpy(array).dtype, self._pixels.device)
        np.copyto(tensor.numpy(), array)
        return tensor.to(self._pixels.device, non_blocking=True)


def resident_pixels(resident: Resident, device: torch.device) -> DevicePixels | StagedPixels:
    """Put the pixels on the device when they fit there, else keep them in host memory."""
    free_bytes = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    where, why = placement(resident.pixels_NHWC.nbytes, free_bytes)
    if where == "device":
        try:
            return DevicePixels(resident.pixels_NHWC, device, why)
        except torch.OutOfMemoryError:
            why = f"the device ran out of memory while {resident.pixels_NHWC.nbytes / 1e6:,.0f} MB of pixels were copied there"
    return StagedPixels(resident.pixels_NHWC, device, why)


def placement(pixels_bytes: int, free_bytes: int) -> tuple[str, str]:
    """Say where pixels are kept, "device" or "host", and why: the model needs a part of the device's memory too."""
    room = int(free_bytes * SHARE_OF_FREE_MEMORY)
    sizes = f"{pixels_bytes / 1e6:,.0f} MB of pixels, {free_bytes / 1e6:,.0f} MB free on the device"
    if pixels_bytes <= room:
        return "device", f"they fit: {sizes}"
    return "host", f"they do not fit: {sizes}, of which a fifth is left to the model"
