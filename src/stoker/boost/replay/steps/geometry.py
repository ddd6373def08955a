"""Padding, cropping and flipping: every pixel of the result is one of the image's, or the fill."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.family import act, functional, image_only
from stoker.boost.replay.steps.step import Known
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.unfit import Unfit
from stoker.boost.replay.words import below, integers

Sides = tuple[int, int, int, int]
"""Pixels added at the left, top, right and bottom."""
PaddingMode = Literal["constant", "edge", "reflect", "symmetric"]


@dataclass(frozen=True, kw_only=True)
class Pad(Known):
    """`Pad`: rows and columns are added at the sides."""

    padding: Sides
    fill: Any
    """What the user gave: a number, a sequence of one or as many numbers as channels, None; in v2 also a dict by type."""
    padding_mode: PaddingMode

    def after(self, look: Look) -> Look:
        left, top, right, bottom = self.padding
        return replace(look, height=look.height + top + bottom, width=look.width + left + right)

    def fill_of(self, look: Look) -> Any:
        """Return the fill for an image of that look: a number, a tuple of numbers or None. Raises `Unfit` where it hangs on the image's class."""
        return _fill(self.fill)


@dataclass(frozen=True, kw_only=True)
class CenterCrop(Known):
    """`CenterCrop`: the middle; a smaller image gets zeros around it."""

    height: int
    width: int

    def after(self, look: Look) -> Look:
        return replace(look, height=self.height, width=self.width)

    def padding(self, height: int, width: int) -> Sides:
        """Return what is added to an image of that size before it is cropped."""
        down, across = max(self.height - height, 0), max(self.width - width, 0)
        return across // 2, down // 2, (across + 1) // 2, (down + 1) // 2

    def anchor(self, height: int, width: int) -> tuple[int, int]:
        """Return the top row and the left column of the crop, in the padded image."""
        left, top, right, bottom = self.padding(height, width)
        return round((height + top + bottom - self.height) / 2.0), round((width + left + right - self.width) / 2.0)


@dataclass(frozen=True, kw_only=True)
class Crop(Known):
    """`RandomCrop`. Drawn: (top, left) in the padded image; for many samples two int64 arrays [B]."""

    height: int
    width: int
    padding: Sides | None
    pad_if_needed: bool
    fill: Any
    """As in `Pad`."""
    padding_mode: PaddingMode

    @property
    def draws(self) -> bool:
        return True

    def pads(self, height: int, width: int) -> list[Sides]:
        """Return the paddings an image of that size gets, one after the other (with `reflect` twice is not the same as once)."""
        return self._pads_v1(height, width) if self.family == "v1" else self._pads_v2(height, width)

    def _pads_v1(self, height: int, width: int) -> list[Sides]:
        pads = []
        if self.padding is not None:
            pads.append(self.padding)
            left, top, right, bottom = self.padding
            height, width = height + top + bottom, width + left + right
        if self.pad_if_needed and width < self.width:
            pads.append((self.width - width, 0, self.width - width, 0))
        if self.pad_if_needed and height < self.height:
            pads.append((0, self.height - height, 0, self.height - height))
        return pads

    def _pads_v2(self, height: int, width: int) -> list[Sides]:
        left, top, right, bottom = self.padding or (0, 0, 0, 0)
        down, across = self.height - (height + top + bottom), self.width - (width + left + right)
        if self.pad_if_needed and down > 0:
            top, bottom = top + down, bottom + down
        if self.pad_if_needed and across > 0:
            left, right = left + across, right + across
        return [(left, top, right, bottom)] if any((left, top, right, bottom)) else []

    def spare(self, height: int, width: int) -> tuple[int, int]:
        """Return how many rows and columns the padded image has more than the crop. Raises `Unfit` where the user's transform raises."""
        tall = height + sum(top + bottom for _, top, _, bottom in self.pads(height, width))
        wide = width + sum(left + right for left, _, right, _ in self.pads(height, width))
        if tall < self.height or wide < self.width:
            raise Unfit(f"{self.name} is larger than an image of {height} x {width}")
        return tall - self.height, wide - self.width

    def fill_of(self, look: Look) -> Any:
        """As `Pad.fill_of`."""
        return _fill(self.fill)

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        look = image_only(look, self.name)
        rows, columns = self.spare(look.height, look.width)
        top = self._place(stream, rows, rows or (columns and self.family == "v1"))
        left = self._place(stream, columns, columns or (rows and self.family == "v1"))
        return (top, left), self.after(look)

    @staticmethod
    def _place(stream: Stream, spare: int, asked: Any) -> int:
        return int(torch.randint(0, spare + 1, (1,), generator=stream.generator)) if asked else 0

    def words(self, look: Look) -> int | None:
        rows, columns = self.spare(look.height, look.width)
        if self.family == "v1":
            return 2 if rows or columns else 0
        return int(rows > 0) + int(columns > 0)

    def params(self, words_BK: np.ndarray, look: Look) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = self.spare(look.height, look.width)
        nought_B = np.zeros(len(words_BK), np.int64)
        both = words_BK.shape[1] == 2
        top_B = integers(words_BK[:, 0], rows + 1) if rows or both else nought_B
        left_B = integers(words_BK[:, -1], columns + 1) if columns or both else nought_B
        return top_B.astype(np.int64, copy=False), left_B.astype(np.int64, copy=False)

    def after(self, look: Look) -> Look:
        self.spare(look.height, look.width)
        return replace(look, height=self.height, width=self.width)

    def apply(self, image: Any, drawn: Any) -> Any:
        top, left = drawn
        if self.family == "v1":
            F = functional(self)
            for padding in self._pads_v1(*F.get_dimensions(image)[1:]):
                image = F.pad(image, list(padding), self.fill, self.padding_mode)
            return F.crop(image, top, left, self.height, self.width)
        height, width = functional(self).get_size(image)
        pads, spare = self._pads_v2(height, width), self.spare(height, width)
        place = {"needs_crop": any(spare), "top": top, "left": left, "height": self.height, "width": self.width}
        return act(self, image, place | {"needs_pad": bool(pads), "padding": list(pads[0]) if pads else [0, 0, 0, 0]})


@dataclass(frozen=True, kw_only=True)
class Flip(Known):
    """`RandomHorizontalFlip` and `RandomVerticalFlip`. Drawn: whether; for many samples a bool array [B]."""

    horizontal: bool
    p: float

    @property
    def draws(self) -> bool:
        return True

    def draw(self, stream: Stream, look: Look | None) -> tuple[Any, Look | None]:
        if look is not None:
            image_only(look, self.name)
        return bool(torch.rand(1, generator=stream.generator) < self.p), look

    def words(self, look: Look) -> int | None:
        return 1

    def params(self, words_BK: np.ndarray, look: Look) -> np.ndarray:
        return below(words_BK[:, 0], self.p)

    def apply(self, image: Any, drawn: Any) -> Any:
        if not drawn:
            return image
        if self.family == "v2":
            return act(self, image, {})
        F = functional(self)
        return F.hflip(image) if self.horizontal else F.vflip(image)


def _fill(fill: Any) -> Any:
    """Return a number, a tuple or None. Raises `Unfit` for a dict of several types."""
    if isinstance(fill, dict):
        if set(fill) != {"others"}:
            raise Unfit("its fill is given by type of image")
        fill = fill["others"]
    return tuple(fill) if isinstance(fill, (list, tuple)) else fill
