"""The next batch of a loader without workers, made while the script computes: a guess that nothing it depends on will have changed by then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stoker.boost.replay.crew import Crew, Job
from stoker.boost.replay.engine import Room
from stoker.boost.replay.fused import Fused, Share
from stoker.boost.replay.kernel import Recipe, hands
from stoker.boost.replay.rooms import Rooms
from stoker.boost.replay.stream import State, Stream
from stoker.boost.replay.tables import bits

_MOST_MISSES = 2
"""After so many wrong guesses on end the script draws random numbers between its batches (dropout on the CPU): no more are made."""


def can_guess(engine: Any) -> bool:
    """Whether the batches of `engine` can be made ahead: images of one array in which each is one piece of memory."""
    return isinstance(engine, Fused) and len(engine.parts) == 1 and _in_one_piece(engine.parts[0].recipe.pixels_NHWC)


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """What a guess rests on."""

    local_B: np.ndarray
    recipe: Recipe
    """That of the engine, but for its pixels: those of the batch, as they were."""
    share: Share


class _Ahead:
    """As an Engine, for the thread that runs ahead: images alone, out of a copy of their pixels, which is then known to be what they were made of."""

    serial = ahead = False

    def __init__(self, engine: Fused) -> None:
        self._engine, self.what, self.draws = engine, engine.what, engine.draws
        pixels_NHWC = engine.parts[0].recipe.pixels_NHWC
        self.memory_NK = np.lib.stride_tricks.as_strided(pixels_NHWC, (len(pixels_NHWC), pixels_NHWC[0].size), (pixels_NHWC.strides[0], 1))
        self._words = np.uint64 if self.memory_NK.shape[1] % 8 == 0 else np.uint8
        self.copy_BK = self._now_BK = np.empty((0, self.memory_NK.shape[1]), np.uint8)
        self._recipe: Recipe | None = None

    def shapes(self, count: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        return self._engine.shapes(count)

    def draw(self, stream: Stream, index_B: np.ndarray) -> _Drawn:
        local_B = np.ascontiguousarray(self._engine.data.locate(index_B)[1], np.int64)
        share = self._engine.share(stream, local_B)
        recipe = self._recipe_for(len(local_B))
        np.take(self.memory_NK, local_B, axis=0, out=self.copy_BK, mode="clip")
        return _Drawn(local_B=local_B, recipe=recipe, share=share)

    def still(self, local_B: np.ndarray) -> bool:
        """Whether the images that were copied are as they were."""
        np.take(self.memory_NK, local_B, axis=0, out=self._now_BK, mode="clip")  # any other mode copies once more
        return bool((self._now_BK.view(self._words) == self.copy_BK.view(self._words)).all())

    def fill(self, drawn: _Drawn, room: Room, start: int, stop: int) -> None:
        assert (start, stop) == (0, len(drawn.local_B))
        share = drawn.share
        hands().replay(bits(room.tensors[0]), drawn.recipe, np.arange(stop), share.row_code_K, share.column_code_K)

    def current(self) -> bool:
        return self._engine.current()

    def _recipe_for(self, count: int) -> Recipe:
        if self._recipe is None or len(self.copy_BK) != count:
            own = self._engine.parts[0].recipe
            self.copy_BK, self._now_BK = (np.empty((count, self.memory_NK.shape[1]), np.uint8) for _ in range(2))
            shape, strides = (count, *own.pixels_NHWC.shape[1:]), (self.copy_BK.strides[0], *own.pixels_NHWC.strides[1:])
            self._recipe = Recipe(
                pixels_NHWC=np.lib.stride_tricks.as_strided(self.copy_BK, shape, strides),
                rows_RH=own.rows_RH,
                columns_SW=own.columns_SW,
                from_C=own.from_C,
                table_CV=own.table_CV,
                fills_KC=own.fills_KC,
            )
        return self._recipe


class Guess:
    """At most one batch on its way. It draws from a copy of the random state: only `take` does anything that the script could see."""

    def __init__(self, engine: Fused, rooms: Rooms) -> None:
        self._engine, self._ahead = engine, _Ahead(engine)
        self._crew = Crew(self._ahead, rooms, threads=1, ahead=1, grain=1 << 30)
        self._crew.start()
        self._stream = Stream.apart()
        self._misses = 0

    @property
    def wanted(self) -> bool:
        """Whether another guess is worth its work."""
        return self._misses < _MOST_MISSES and not self._crew.jobs

    def begin(self, index_B: np.ndarray) -> None:
        """Have the images `index_B` made from the random state of now."""
        if self._engine.draws:
            self._stream.restore(State(torch=torch.default_generator.get_state(), python=None, numpy=None))
        self._crew.put(Job(index=None, index_B=index_B, stream=self._stream))

    def take(self, index_B: np.ndarray) -> Room | None:
        """Return the batch that was guessed, and put the random state behind its draws; None, and nothing else, when it is not right.

        Raises Unfit when the labels are of another type than they were.
        """
        if not self._crew.jobs:
            return None
        room = self._right(index_B)
        self._misses = 0 if room is not None else self._misses + 1
        return room

    def _right(self, index_B: np.ndarray) -> Room | None:
        job = self._crew.jobs[0]
        try:
            room = self._crew.finish(job)
        except Exception:  # made again in the usual way, it fails where somebody hears of it
            return None
        finally:
            self._crew.pop()
        drawn: _Drawn = job.drawn
        draws = self._engine.draws
        if draws and not torch.equal(job.before.torch, torch.default_generator.get_state()):
            return None
        leaf_B, local_B = self._engine.data.locate(index_B)
        if not np.array_equal(local_B, drawn.local_B) or not self._ahead.still(local_B):
            return None
        bits(room.tensors[1])[:] = bits(self._engine.labels(leaf_B, local_B))
        if draws:
            torch.default_generator.set_state(self._stream.generator.get_state())
        return room

    def close(self) -> None:
        """End the thread."""
        self._crew.close()


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
