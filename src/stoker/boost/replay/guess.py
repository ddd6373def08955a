"""The next batch of a loader without workers, made while the script computes: a guess that nothing it depends on will have changed by then."""

from __future__ import annotations

import _thread
import atexit
import ctypes
import os
import threading
import time
import weakref
from operator import is_, itemgetter
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from stoker.boost.replay.engine import Room
from stoker.boost.replay.fused import Fused
from stoker.boost.replay.indices import indices
from stoker.boost.replay.kernel import Recipe, hands
from stoker.boost.replay.openmp import prepare, quiet_thread
from stoker.boost.replay.rooms import Rooms
from stoker.boost.replay.sources import ArraySource
from stoker.boost.replay.stream import State, Stream
from stoker.boost.replay.tables import bits

_MOST_MISSES = 2
"""After so many wrong guesses on end the script draws random numbers between its batches (dropout on the CPU): no more are made."""
LEAST_STEP_S = 2e-3
"""In less time between two batches nothing is gained: both threads need the interpreter."""
_DELAY_S = 5e-4
"""So long the thread lets the script go ahead: beginning at once, it would hold the interpreter just when the batch before is handed out."""
_PATIENCE_S = 10.0
"""So long is a guess waited for: it takes a fraction of a millisecond."""


# One call that keeps the interpreter's lock: of numpy's comparisons three are needed, and each is slow where the caches hold other things.
_memcmp = ctypes.PyDLL(None).memcmp
_memcmp.argtypes, _memcmp.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t), ctypes.c_int


def can_guess(engine: Any) -> bool:
    """Whether the batches of `engine` can be made ahead: images of one array in which each is one piece of memory."""
    return isinstance(engine, Fused) and len(engine.parts) == 1 and _in_one_piece(engine.parts[0].recipe.pixels_NHWC)


class _Batch:
    """A batch that is made ahead. Slots and plain locks: every microsecond of asking for it is one that the training waits."""

    __slots__ = ("after", "before", "index", "labels", "local_B", "ready", "room")

    def __init__(self, index: Any, before: torch.Tensor | None) -> None:
        self.index, self.before = index, before
        self.after: torch.Tensor | None = None
        self.local_B: np.ndarray | None = None
        self.labels: _Labels | None = None
        """What the labels in the room were made of; None: they are not made."""
        self.room: Room | None = None
        """None: it could not be made. Made again in the usual way it fails where somebody hears of it."""
        self.ready = threading.Lock()
        self.ready.acquire()


class _Labels:
    """Labels that were read ahead, and what they were read from."""

    __slots__ = ("_address", "_all", "_facts", "_now", "_pick", "_places", "_rows", "made")

    def __init__(self, source: ArraySource, labels: Any, local_B: np.ndarray) -> None:
        """Read the labels of `local_B`. Raises TypeError for a kind of labels whose change would not be seen fast, and what reading raises."""
        self._all, self._places = labels, local_B
        self._pick: Any = None
        whole = source.integers(labels)
        if whole is not None:
            rows: Any = np.take(whole, local_B, axis=0)
            self._rows, self._now = whole, np.empty_like(rows)
            self._address = self._now.ctypes.data, rows.ctypes.data, rows
            self._facts = _facts(labels)
        elif type(labels) is list and len(local_B) > 1:
            self._pick = itemgetter(*local_B.tolist())
            rows = self._rows = self._pick(labels)
            self._facts = (len(labels),)
            if not set(map(type, rows)) <= {int}:
                raise TypeError("labels that may change within")
        else:
            raise TypeError("labels of another kind")
        self.made = source.made(rows if whole is not None else list(rows))

    def still(self, labels: Any) -> bool:
        """Whether `labels` are the same object and those that were read are as they were."""
        if labels is not self._all:
            return False
        if self._pick is not None:
            return len(labels) == self._facts[0] and all(map(is_, self._pick(labels), self._rows))
        if _facts(labels) != self._facts:
            return False
        np.take(self._rows, self._places, axis=0, out=self._now, mode="clip")
        return _memcmp(self._address[0], self._address[1], self._now.nbytes) == 0


def _facts(labels: Any) -> tuple[Any, ...]:
    """Return what must stay the same while labels are read from the memory of an array or a tensor."""
    if isinstance(labels, torch.Tensor):
        return labels.data_ptr(), labels.shape, labels.stride(), labels.dtype
    return labels.shape, labels.strides, labels.dtype


class _Maker:
    """Makes the images of a batch out of a copy of their pixels, which is then known to be what they were made of. For one thread."""

    def __init__(self, engine: Fused, rooms: Rooms, length: int) -> None:
        self._engine, self._rooms, self._length = engine, rooms, length
        pixels_NHWC = engine.parts[0].recipe.pixels_NHWC
        self._memory_NK = np.lib.stride_tricks.as_strided(pixels_NHWC, (len(pixels_NHWC), pixels_NHWC[0].size), (pixels_NHWC.strides[0], 1))
        self._copy_BK = self._now_BK = np.empty((0, self._memory_NK.shape[1]), np.uint8)
        self._addresses = (0, 0)
        self._recipe: Recipe | None = None
        self._stream = Stream.apart()

    def work(self, asked: SimpleQueue[_Batch | None], done: threading.Lock) -> None:
        """Make what is asked for until there is None, then release `done`."""
        quiet_thread()
        while (batch := asked.get()) is not None:
            time.sleep(_DELAY_S)
            try:
                self._make(batch)
            except Exception:
                batch.room = None
            finally:
                batch.ready.release()
                del batch  # an idle thread must not keep a batch alive
        _RUNNING.discard(done)
        done.release()

    def _make(self, batch: _Batch) -> None:
        local_B = self.located(indices(batch.index, self._length))
        if batch.before is not None:
            self._stream.restore(State(torch=batch.before, python=None, numpy=None))
        share = self._engine.share(self._stream, local_B)
        recipe = self._recipe_for(len(local_B))
        np.take(self._memory_NK, local_B, axis=0, out=self._copy_BK, mode="clip")  # any other mode copies once more
        room = self._rooms.take(self._engine.shapes(len(local_B)))
        hands().replay(bits(room.tensors[0]), recipe, np.arange(len(local_B)), share.row_code_K, share.column_code_K)
        batch.labels = self._read_labels(local_B, room)
        if batch.before is not None:
            batch.after = self._stream.generator.get_state()
        batch.local_B, batch.room = local_B, room

    def _read_labels(self, local_B: np.ndarray, room: Room) -> _Labels | None:
        """Write the labels of now into the room; None, and nothing there, where they are of a kind that is read when it is asked for."""
        part = self._engine.parts[0]
        source = part.leaf.source
        if part.target_steps or not isinstance(source, ArraySource):
            return None
        try:
            labels = _Labels(source, source.labels, local_B)
            room.tensors[1].copy_(self._engine.fitting(part.collated(labels.made)))
        except Exception:  # met again, and heard of, where they are read in the usual way
            return None
        return labels

    def labels_still(self, labels: _Labels) -> bool:
        """Whether the labels that were read ahead are as they were."""
        source = self._engine.parts[0].leaf.source
        return isinstance(source, ArraySource) and labels.still(source.labels)

    def located(self, index_B: np.ndarray) -> np.ndarray:
        """Return the places of the images in their array, int64, contiguous. Raises IndexError."""
        return np.ascontiguousarray(self._engine.data.locate(index_B)[1], np.int64)

    def still(self, local_B: np.ndarray) -> bool:
        """Whether the images that were copied are as they were."""
        np.take(self._memory_NK, local_B, axis=0, out=self._now_BK, mode="clip")
        return _memcmp(*self._addresses, self._now_BK.nbytes) == 0

    def _recipe_for(self, count: int) -> Recipe:
        """Return the engine's recipe for pixels that lie in the copy."""
        if self._recipe is None or len(self._copy_BK) != count:
            own = self._engine.parts[0].recipe
            self._copy_BK, self._now_BK = (np.empty((count, self._memory_NK.shape[1]), np.uint8) for _ in range(2))
            self._addresses = self._now_BK.ctypes.data, self._copy_BK.ctypes.data
            shape, strides = (count, *own.pixels_NHWC.shape[1:]), (self._copy_BK.strides[0], *own.pixels_NHWC.strides[1:])
            self._recipe = Recipe(
                pixels_NHWC=np.lib.stride_tricks.as_strided(self._copy_BK, shape, strides),
                rows_RH=own.rows_RH,
                columns_SW=own.columns_SW,
                from_C=own.from_C,
                table_CV=own.table_CV,
                fills_KC=own.fills_KC,
            )
        return self._recipe


class Guess:
    """At most one batch on its way. It draws from a copy of the random state: only `take` does anything that the script could see."""

    def __init__(self, engine: Fused, rooms: Rooms, length: int) -> None:
        """`length`: of the data set that is iterated. Raises RuntimeError when there may be no more threads."""
        self._engine, self._maker = engine, _Maker(engine, rooms, length)
        self._asked: SimpleQueue[_Batch | None] = SimpleQueue()
        self._batch: _Batch | None = None
        self._undo: torch.Tensor | None = None
        self._misses = 0
        self._process, self._closed = os.getpid(), False
        prepare()
        done = threading.Lock()
        done.acquire()
        # It holds no reference to this object, whose end ends it. Not a `threading.Thread`: the script may count those.
        _RUNNING.add(done)
        try:
            _thread.start_new_thread(self._maker.work, (self._asked, done))
        except RuntimeError:
            _RUNNING.discard(done)
            raise
        _GUESSES.add(self)

    @property
    def wanted(self) -> bool:
        """Whether another guess is worth its work: not in a forked child, where the thread is not."""
        return self._misses < _MOST_MISSES and self._batch is None and not self._closed and self._process == os.getpid()

    def begin(self, index: Any) -> None:
        """Have the batch `index`, as the sampler gave it, made from the random state of now."""
        self._batch = _Batch(index, torch.default_generator.get_state() if self._engine.draws else None)
        self._asked.put(self._batch)

    def take(self, index: Any) -> Room | None:
        """Return the batch that was guessed, and put the random state behind its draws; None, and nothing else, when it is not right.

        Raises Unfit when the labels are of another type than they were; nothing has happened then either.
        """
        batch, self._batch = self._batch, None
        if batch is None or self._process != os.getpid():
            return None
        room = self._right(batch) if batch.index is index and batch.ready.acquire(timeout=_PATIENCE_S) else None
        self._misses = 0 if room is not None else self._misses + 1
        return room

    def _right(self, batch: _Batch) -> Room | None:
        local_B, room = batch.local_B, batch.room
        if local_B is None or room is None:
            return None
        if batch.before is not None and not torch.equal(batch.before, torch.default_generator.get_state()):
            return None
        data = self._engine.data
        if not data.is_leaf and not np.array_equal(self._maker.located(np.array(batch.index, np.int64)), local_B):
            return None
        if not self._maker.still(local_B):
            return None
        if batch.labels is None or not self._maker.labels_still(batch.labels):
            room.tensors[1].copy_(self._engine.labels(np.zeros(0, np.int64), local_B))
        self._undo = batch.before
        if batch.after is not None:
            torch.default_generator.set_state(batch.after)
        return room

    def undo(self) -> None:
        """Put the random state back to before the batch that was taken last."""
        if self._undo is not None:
            torch.default_generator.set_state(self._undo)

    def close(self) -> None:
        """End the thread when it is done with what it has."""
        if not self._closed:
            self._closed = True
            self._asked.put(None)


_GUESSES: weakref.WeakSet[Guess] = weakref.WeakSet()
_RUNNING: set[threading.Lock] = set()
"""Released when their threads end, which may be later than the guesses themselves."""


def _at_exit() -> None:
    # A thread that still works while Python takes itself apart would die inside a library.
    for guess in list(_GUESSES):
        guess.close()
    for done in list(_RUNNING):
        done.acquire(timeout=_PATIENCE_S)


os.register_at_fork(after_in_child=_RUNNING.clear)
atexit.register(_at_exit)


def _in_one_piece(pixels_NHWC: np.ndarray) -> bool:
    """Whether every image is one piece of memory without holes, in whatever order of its axes."""
    if not len(pixels_NHWC) or not pixels_NHWC[0].size or pixels_NHWC.strides[0] < 0:
        return False
    axes = sorted((stride, size) for stride, size in zip(pixels_NHWC.strides[1:], pixels_NHWC.shape[1:], strict=True) if size > 1)
    piece = 1
    for stride, size in axes:
        if stride != piece:
            return False
        piece *= size
    return True
