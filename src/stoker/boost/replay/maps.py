"""Where the pixels of a padded, cropped and flipped image come from: every map that a pipeline can draw, and the codes of those it has drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stoker.boost.replay.look import Look
from stoker.boost.replay.steps.geometry import CenterCrop, Crop, Flip, Pad, Sides
from stoker.boost.replay.unfit import Unfit

Geometric = Pad | CenterCrop | Crop | Flip
_MOST_ENTRIES = 1 << 20
"""Of one axis: what RandomCrop(224) of 300 pixels with a flip takes is 34,496. Beyond it, images are made one by one."""
_MOST_PIXELS = 2**15 - 1
_MOST_FILLS = 100


@dataclass(frozen=True, kw_only=True)
class Maps:
    """All maps of one axis."""

    table_SN: np.ndarray
    """int16 [maps, output pixels], contiguous: source pixels; -1 - k: fill value k."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "table_SN", np.ascontiguousarray(self.table_SN))

    @classmethod
    def of(cls, size: int) -> Maps:
        """Return the one map of an image as it is. Raises Unfit for images that are too large."""
        if not 0 < size <= _MOST_PIXELS:
            raise Unfit(f"images with {size} pixels on a side")
        return cls(table_SN=np.arange(size, dtype=np.int16)[None])

    def padded(self, before: int, after: int, mode: str, fill: int, *, repeats: bool) -> Maps:
        """Return the maps with pixels added on both sides; `fill`: the number of the fill value in mode `constant`.

        `repeats`: whether a reflected margin may be wider than the image, as numpy allows and torch does not.
        """
        size = self.table_SN.shape[1]
        if before < 0 or after < 0:
            raise Unfit("a negative padding")
        if size + before + after > _MOST_PIXELS:
            raise Unfit(f"images with {size + before + after} pixels on a side")
        if mode == "constant":
            return Maps(table_SN=np.pad(self.table_SN, ((0, 0), (before, after)), constant_values=-1 - fill))
        if not repeats and max(before, after) >= size:
            raise Unfit(f"a padding of {max(before, after)} around {size} pixels")
        return Maps(table_SN=np.pad(self.table_SN, ((0, 0), (before, after)), mode=mode))  # type: ignore[call-overload]

    def cropped(self, size: int, starts: range) -> Maps:
        """Return the maps of all crops that begin at `starts`: old code * len(starts) + place in `starts`."""
        if starts.start < 0 or starts.stop - 1 + size > self.table_SN.shape[1]:
            raise Unfit(f"a crop of {size} pixels beyond an image of {self.table_SN.shape[1]}")
        _check_entries(len(self.table_SN) * len(starts) * size)
        windows_SXN = np.lib.stride_tricks.sliding_window_view(self.table_SN, size, axis=1)[:, starts.start : starts.stop]
        return Maps(table_SN=windows_SXN.reshape(-1, size))

    def flipped(self) -> Maps:
        """Return each map as it is and mirrored: old code * 2 + whether."""
        _check_entries(2 * self.table_SN.size)
        return Maps(table_SN=np.stack([self.table_SN, self.table_SN[:, ::-1]], axis=1).reshape(-1, self.table_SN.shape[1]))


@dataclass(kw_only=True)
class Geometry:
    """The geometric steps of one pipeline, in order."""

    rows: Maps
    columns: Maps
    words: int = 0
    """Raw 32-bit outputs of the generator that one image takes."""
    fills: int = 0
    """Fill values that the maps speak of."""
    _drawn: list[tuple[Crop | Flip, Look, int, int]] = field(default_factory=list)
    """Steps that draw: step, look before it, first word, and the one behind its last."""

    @classmethod
    def of(cls, look: Look) -> Geometry:
        """Return what is there before the first step."""
        return cls(rows=Maps.of(look.height), columns=Maps.of(look.width))

    def add(self, step: Geometric, look: Look) -> bool:
        """Follow one step on images of that look; return whether it has brought a fill value. Raises Unfit."""
        if isinstance(step, Flip):
            self._draw(step, look)
            self.rows, self.columns = (self.rows, self.columns.flipped()) if step.horizontal else (self.rows.flipped(), self.columns)
            return False
        filled = False
        mode = "constant" if isinstance(step, CenterCrop) else step.padding_mode
        for sides in pads(step, look):
            self._pad(sides, mode, look)
            filled = filled or (mode == "constant" and any(sides))
        if filled:
            self.fills += 1
        if self.fills > _MOST_FILLS:
            raise Unfit(f"more than {_MOST_FILLS} paddings")
        if isinstance(step, CenterCrop):
            top, left = step.anchor(look.height, look.width)
            self.rows, self.columns = self.rows.cropped(step.height, range(top, top + 1)), self.columns.cropped(step.width, range(left, left + 1))
        elif isinstance(step, Crop):
            down, across = step.spare(look.height, look.width)
            self._draw(step, look)
            self.rows, self.columns = self.rows.cropped(step.height, range(down + 1)), self.columns.cropped(step.width, range(across + 1))
        return filled

    def codes(self, words_BK: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the codes (int64 [B]) of the row and column maps that images with these words [B, `words`] have; None: 0 for all."""
        row_B: np.ndarray | None = None
        column_B: np.ndarray | None = None
        for step, look, first, last in self._drawn:
            if isinstance(step, Crop):
                down, across = step.spare(look.height, look.width)
                top_B, left_B = step.params(words_BK[:, first:last], look)
                row_B, column_B = _coded(row_B, down + 1, top_B), _coded(column_B, across + 1, left_B)
            elif step.horizontal:
                column_B = _coded(column_B, 2, step.params(words_BK[:, first:last], look))
            else:
                row_B = _coded(row_B, 2, step.params(words_BK[:, first:last], look))
        return row_B, column_B

    def _draw(self, step: Crop | Flip, look: Look) -> None:
        words = step.words(look)
        if words is None:
            raise Unfit(f"{step.name} draws now more, now less")
        if words:
            self._drawn.append((step, look, self.words, self.words + words))
        self.words += words

    def _pad(self, sides: Sides, mode: str, look: Look) -> None:
        left, top, right, bottom = sides
        repeats = look.form == "pil"
        if mode != "constant" and not repeats and not (look.dtype.is_floating_point or look.dtype.itemsize == 1):
            raise Unfit(f"padding_mode={mode!r} on {look.dtype}")
        self.rows = self.rows.padded(top, bottom, mode, self.fills, repeats=repeats)
        self.columns = self.columns.padded(left, right, mode, self.fills, repeats=repeats)


def pads(step: Pad | CenterCrop | Crop, look: Look) -> list[Sides]:
    """Return the paddings that `step` gives an image of that look, one after the other."""
    if isinstance(step, Pad):
        return [step.padding]
    if isinstance(step, CenterCrop):
        return [step.padding(look.height, look.width)]
    return step.pads(look.height, look.width)


def _coded(code_B: np.ndarray | None, ways: int, drawn_B: np.ndarray) -> np.ndarray | None:
    if ways == 1:
        return code_B
    chosen_B = drawn_B.astype(np.int64, copy=False)
    return chosen_B if code_B is None else code_B * ways + chosen_B


def _check_entries(entries: int) -> None:
    if entries > _MOST_ENTRIES:
        raise Unfit("its crops can lie in too many places")
