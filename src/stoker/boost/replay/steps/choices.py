"""Transforms around transforms: `RandomApply`, `RandomChoice`, `RandomOrder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.step import Family, Step
from stoker.boost.replay.steps.watch import Watch
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit

Chain = tuple[Step, ...]
Kind = Literal["apply", "choice", "order"]
Drawn = list[tuple[Step, Any]]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Some of several chains of steps, in a drawn order. Drawn: the steps that run, each with its own drawn numbers."""

    of: Any = field(repr=False)
    watches: tuple[Watch, ...] = field(repr=False)
    """Of the object itself and of every `Compose` inside it."""
    family: Family
    name: str
    kind: Kind
    chains: tuple[Chain, ...]
    """`apply`: one, that is run or not; otherwise one for each of the user's transforms."""
    p: float | None
    """Of `apply`."""
    weights: tuple[float, ...] | None
    """Of `choice`: as the user's object holds them."""

    @property
    def draws(self) -> bool:
        return True

    @property
    def serial(self) -> bool:
        return False

    def inner(self) -> list[Step]:
        """Return all steps of all chains."""
        return [step for chain in self.chains for step in chain]

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        drawn: Drawn = []
        for place in self._places(stream):
            for step in self.chains[place]:
                mine, look = step.draw(stream, look)
                drawn.append((step, mine))
        return drawn, look

    def _places(self, stream: Stream) -> Sequence[int]:
        if self.kind == "apply":
            return (0,) if not self._skipped(stream) else ()
        many = len(self.chains)
        if self.kind == "choice":
            if self.family == "v1":
                return stream.python.choices(range(many), weights=self.weights)
            assert self.weights is not None
            return (int(torch.multinomial(torch.tensor(self.weights), 1, generator=stream.generator)),)
        if self.family == "v2":
            return [int(place) for place in torch.randperm(many, generator=stream.generator)]
        places = list(range(many))
        stream.python.shuffle(places)
        return places

    def _skipped(self, stream: Stream) -> bool:
        drawn = torch.rand(1, generator=stream.generator)
        assert self.p is not None
        # v1 runs at equality, v2 does not.
        return bool(drawn > self.p) if self.family == "v1" else bool(drawn >= self.p)

    def apply(self, image: Any, drawn: Any) -> Any:
        for step, mine in drawn:
            image = step.apply(image, mine)
        return image

    def words(self, look: Look) -> int | None:
        return None

    def params(self, words_BK: np.ndarray, look: Look) -> Any:
        return None

    def after(self, look: Look) -> Look:
        raise Unfit(f"what {self.name} makes hangs on what it draws")

    def current(self) -> bool:
        return all(watch.same() for watch in self.watches) and all(step.current() for step in self.inner())
