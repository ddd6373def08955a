"""Erasing a rectangle of a tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.draws import area_and_aspect, place
from stoker.boost.replay.steps.family import act, functional, image_only
from stoker.boost.replay.steps.step import Known
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit


@dataclass(frozen=True, kw_only=True)
class Erasing(Known):
    """`RandomErasing`. Drawn: None, or (top, left, height, width, value); the value is a float32 tensor [C or 1, height or 1, width or 1],
    or None where ten draws have not fitted."""

    p: float
    scale: tuple[float, float]
    """Of the area."""
    log_ratio: tuple[float, float]
    """Of height to width, as torch computes it, in float32."""
    value: tuple[float, ...] | None
    """One or as many as channels; None: normally distributed noise."""
    inplace: bool

    @property
    def draws(self) -> bool:
        return True

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        look = image_only(look, self.name)
        if self.family == "v1" and look.form == "pil":
            raise Unfit(f"{self.name} is given a PIL image")
        return (self._part(stream, look) if bool(torch.rand(1, generator=stream.generator) < self.p) else None), look

    def _part(self, stream: Stream, look: Look) -> tuple[int, int, int, int, torch.Tensor | None]:
        if self.value is not None and len(self.value) not in (1, look.channels):
            raise Unfit(f"{self.name} has {len(self.value)} values for {look.channels} channels")
        for _ in range(10):
            area, aspect = area_and_aspect(stream, look.height * look.width, self.scale, self.log_ratio)
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (height < look.height and width < look.width):
                continue
            if self.value is None:
                value = torch.empty([look.channels, height, width], dtype=torch.float32).normal_(generator=stream.generator)
            else:
                value = torch.tensor(self.value)[:, None, None]
            top = place(stream, look.height - height)
            return top, place(stream, look.width - width), height, width, value
        return 0, 0, look.height, look.width, None

    def words(self, look: Look) -> int | None:
        return None

    def apply(self, image: Any, drawn: Any) -> Any:
        if drawn is None:
            return image
        top, left, height, width, value = drawn
        if self.family == "v2":
            return act(self, image, {"i": top, "j": left, "h": height, "w": width, "v": value})
        return functional(self).erase(image, top, left, height, width, image if value is None else value, self.inplace)
