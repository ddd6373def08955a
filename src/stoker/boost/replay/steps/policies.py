"""Learnt and random policies of version 1: `AutoAugment`, `RandAugment`, `TrivialAugmentWide`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.family import functional, image_only
from stoker.boost.replay.steps.step import Known
from stoker.boost.replay.stream import Stream

Space = dict[str, tuple[torch.Tensor, bool]]
"""By operation: its magnitudes, and whether they have a sign."""
Operation = tuple[str, float]


@dataclass(frozen=True, kw_only=True)
class Policy(Known):
    """Operations with magnitudes, one after the other. Drawn: (name, magnitude) of each."""

    kind: Literal["auto", "random", "trivial"]
    spaces: dict[tuple[int, int], Space] = field(default_factory=dict, repr=False, compare=False)
    """By size of the image: what torchvision works out anew for every image."""

    @property
    def draws(self) -> bool:
        return True

    def words(self, look: Look) -> int | None:
        return None

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        look = image_only(look, self.name)
        space = self._space(look)
        if self.kind == "auto":
            return self._auto(stream, space), look
        many = self.twin.num_ops if self.kind == "random" else 1
        return [self._any(stream, space) for _ in range(many)], look

    def _space(self, look: Look) -> Space:
        size = (look.height, look.width)
        if size not in self.spaces:
            if len(self.spaces) > 64:
                self.spaces.clear()
            own = self.twin
            bins = 10 if self.kind == "auto" else own.num_magnitude_bins
            self.spaces[size] = own._augmentation_space(bins) if self.kind == "trivial" else own._augmentation_space(bins, size)
        return self.spaces[size]

    def _auto(self, stream: Stream, space: Space) -> list[Operation]:
        policies, generator = self.twin.policies, stream.generator
        policy = policies[int(torch.randint(len(policies), (1,), generator=generator))]
        probabilities = torch.rand((2,), generator=generator)
        signs = torch.randint(2, (2,), generator=generator)
        chosen = []
        for place, (name, p, number) in enumerate(policy):
            if probabilities[place] <= p:
                magnitudes, signed = space[name]
                magnitude = 0.0 if number is None else float(magnitudes[number])
                chosen.append((name, -magnitude if signed and signs[place] == 0 else magnitude))
        return chosen

    def _any(self, stream: Stream, space: Space) -> Operation:
        generator, names = stream.generator, list(space)
        name = names[int(torch.randint(len(names), (1,), generator=generator))]
        magnitudes, signed = space[name]
        magnitude = 0.0
        if magnitudes.ndim > 0:
            trivial = self.kind == "trivial"
            magnitude = float(magnitudes[int(torch.randint(len(magnitudes), (1,), generator=generator)) if trivial else self.twin.magnitude])
        return name, -magnitude if signed and int(torch.randint(2, (1,), generator=generator)) else magnitude

    def apply(self, image: Any, drawn: Any) -> Any:
        own, fill = self.twin, self.twin.fill
        if isinstance(image, torch.Tensor) and fill is not None:
            single = isinstance(fill, (int, float))
            fill = [float(fill)] * functional(self).get_dimensions(image)[0] if single else [float(value) for value in fill]
        operate = sys.modules["torchvision.transforms.autoaugment"]._apply_op
        for name, magnitude in drawn:
            image = operate(image, name, magnitude, interpolation=own.interpolation, fill=fill)
        return image
