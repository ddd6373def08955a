"""Threads that make batches ahead of the consumer: in order, bounded, and gone when the consumer leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(eq=False)
class RawBatch:
    """A batch of decoded images on its way; items are filled in by any thread, in any order."""

    places: range
    """The places in the epoch's order that its items have."""
    tensor_BHWC: torch.Tensor
    """uint8; may have more room than there are places."""
    labels_B: np.ndarray
    """int64."""
    present_B: np.ndarray
    """bool: False for an item that was left out."""
    missing: int
    """Items that no thread has finished."""
    errors: dict[int, BaseException] = field(default_factory=dict)
    """What went wrong, by item."""

    def __post_init__(self) -> None:
        self.pixels_BHWC: np.ndarray = self.tensor_BHWC.numpy()


Fill = Callable[[RawBatch, int], None]
"""Fill item `i` of a batch: its pixels and its label, or present_B[i] = False."""


class ReadAhead:
    """The batches of one epoch, filled by threads, at most `ahead` of them beyond what the consumer took."""

    def __init__(self, shares: Sequence[range], *, fill: Fill, room: Callable[[], torch.Tensor], threads: int, ahead: int) -> None:
        """`shares`: the places of each batch; `room`: returns a free pixel buffer (called by one thread at a time)."""
        self._shares, self._fill, self._room, self._ahead = shares, fill, room, max(1, ahead)
        self._threads = [threading.Thread(target=self._work, name=f"stoker-decode-{k}", daemon=True) for k in range(max(1, threads))]
        self._changed = threading.Condition()
        self._open: dict[int, RawBatch] = {}
        self._taken, self._step, self._item = 0, 0, 0
        self._stopped = False

    def __iter__(self) -> Generator[RawBatch, None, None]:
        """Yield the batches in order. An error of a thread is raised when its batch is due; the threads end with the iteration, however it ends."""
        try:
            for thread in self._threads:
                thread.start()
            for step in range(len(self._shares)):
                yield self._take(step)  # with no name of its own here, which would keep the buffer from being filled again
        finally:
            self._stop()

    def _take(self, step: int) -> RawBatch:
        with self._changed:
            while step not in self._open or self._open[step].missing:
                self._changed.wait()
            self._taken = step + 1
            self._changed.notify_all()
            batch = self._open.pop(step)
        if batch.errors:
            raise batch.errors[min(batch.errors)]
        return batch

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            # A thread has no id before it starts; the garbage collector may end the iteration in one of these very threads.
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()
        self._open.clear()

    def _work(self) -> None:
        while (task := self._next_item()) is not None:
            batch, item = task
            error: BaseException | None = None
            try:
                self._fill(batch, item)
            except BaseException as raised:  # whatever it is, the consumer must hear of it instead of waiting for ever
                error = raised
            with self._changed:
                if error is not None:
                    batch.errors[item] = error
                batch.missing -= 1
                if not batch.missing:
                    self._changed.notify_all()
            del batch, task, error

    def _next_item(self) -> tuple[RawBatch, int] | None:
        with self._changed:
            while not self._stopped and self._step < len(self._shares):
                if self._step >= self._taken + self._ahead:
                    self._changed.wait()
                    continue
                batch = self._open.get(self._step) or self._opened(self._step)
                item = self._item
                if item + 1 < len(batch.places):
                    self._item += 1
                else:
                    self._step, self._item = self._step + 1, 0
                if len(batch.places):
                    return batch, item
                self._changed.notify_all()  # an empty share is ready as it is
            return None

    def _opened(self, step: int) -> RawBatch:
        places = self._shares[step]
        count = len(places)
        batch = RawBatch(
            places=places,
            tensor_BHWC=self._room(),
            labels_B=np.zeros(count, dtype=np.int64),
            present_B=np.ones(count, dtype=bool),
            missing=count,
        )
        self._open[step] = batch
        return batch
