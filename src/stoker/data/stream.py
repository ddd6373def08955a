"""An epoch's batches out of image files that are decoded again every epoch, by threads, ahead of the training."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from stoker.data import draws
from stoker.data.decode import decode_crop
from stoker.data.finish import finish_for
from stoker.data.normalise import Normalise, check_dtype
from stoker.data.readahead import RawBatch, ReadAhead
from stoker.data.sets import Files
from stoker.data.shares import Shared, Shares
from stoker.errors import BadValue, BrokenImage, DataInvalid
from stoker.host import find_limits

_CHANNELS = 3


class Stream(Shared):
    """The batches of image files; the same interface as Feed.

    Training: a random resized crop (torchvision's numbers: 8 to 100 % of the area, ratio 3/4 to 4/3) and flips. Evaluation: the centre crop.
    With `skip_broken` a broken image is replaced, in training, by the next good one of the epoch's order, and left out of its batch in
    evaluation, so that nothing counts twice; `broken` names them. Without, BrokenImage is raised when its batch is due.
    """

    where = "host"
    why = "image files are decoded every epoch"

    def __init__(
        self,
        *,
        files: Files,
        size: int,
        train: bool,
        batch_size: int,
        device: torch.device | str,
        dtype: torch.dtype,
        channels_last: bool,
        mean: Sequence[float],
        std: Sequence[float],
        flip: str = "none",
        seed: int,
        shuffle: bool,
        drop_last: bool,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        ahead: int = 2,
        skip_broken: bool = False,
        compiled: bool = True,
    ) -> None:
        """Images become `size` x `size`; `threads` None: as many as there are cores to use; `ahead`: batches decoded before they are asked for.

        Raises BadValue for values out of range and for a batch larger than the data set (with drop_last).
        """
        check_dtype(dtype)
        draws.check(0, flip)
        if not 1 <= size <= 8192:
            raise BadValue(f"size={size} lies outside 1..8192", hint="ImageNet models are usually trained at 224")
        self.shares = Shares(images=files.images, batch_size=batch_size, drop_last=drop_last, rank=rank, world_size=world_size)
        self._files, self._size, self._train, self._seed, self._shuffle, self._flip = files, size, train, seed, shuffle, flip
        self._threads, self._ahead, self._skip_broken = threads or find_limits().cores, ahead, skip_broken
        self._broken: dict[int, str] = {}
        self._lock = threading.Lock()
        self._finish = finish_for(
            torch.device(device), self._shape, Normalise.of(mean, std, _CHANNELS), dtype=dtype, channels_last=channels_last, compiled=compiled
        )

    @property
    def bytes(self) -> int:
        """Memory of the decoded batches on their way."""
        return (self._ahead + 1) * int(np.prod(self._shape))

    @property
    def how(self) -> str:
        """By what batches are made."""
        return f"Pillow in {self._threads} threads, then {self._finish.how}"

    @property
    def broken(self) -> tuple[str, ...]:
        """Paths of the broken images met so far, in the data set's order."""
        with self._lock:
            return tuple(self._broken[index] for index in sorted(self._broken))

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (images, labels) of an epoch from batch `start` on. Raises BadValue, at once, when there is no such batch."""
        self.shares.check_start(start)
        order = draws.order(self._seed, epoch, self.images) if self._shuffle else np.arange(self.images, dtype=np.int64)
        flip_N = draws.augmentation(self._seed, epoch, self.images, 0, self._flip).flip_N

        def fill(batch: RawBatch, item: int) -> None:
            self._fill(batch, item, epoch, order, flip_N)

        shares = [self.shares.of(step) for step in range(start, self.steps)]
        return self._batches(ReadAhead(shares, fill=fill, room=self._finish.room(self._ahead), threads=self._threads, ahead=self._ahead))

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return self.shares.local_batch_size, self._size, self._size, _CHANNELS

    def _batches(self, raw_batches: ReadAhead) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        iterator = iter(raw_batches)
        # Closing it ends its threads now, not when it is collected.
        with contextlib.closing(iterator):
            for raw in iterator:
                finished = self._finish(raw)
                del raw  # its buffer may be filled again
                yield finished
                del finished

    def _fill(self, batch: RawBatch, item: int, epoch: int, order: np.ndarray, flip_N: np.ndarray) -> None:
        place = batch.places[item]
        for further in range(self.images):
            index = int(order[(place + further) % self.images])
            if index not in self._broken:
                try:
                    box = draws.resized_crop(self._seed, epoch, index).box if self._train else draws.centre_crop
                    decode_crop(self._files.paths[index], batch.pixels_BHWC[item], box, bool(flip_N[index]))
                    batch.labels_B[item] = self._files.labels_N[index]
                    return
                except BrokenImage:
                    if not self._skip_broken:
                        raise
                    with self._lock:
                        self._broken[index] = self._files.paths[index]
            if not self._train:
                batch.present_B[item] = False
                return
        raise DataInvalid(f"all {self.images} images are broken", hint="look at one of them with an image viewer; is it the right folder?")
