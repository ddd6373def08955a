"""Whole batches of images that lie in one array: maps say where each pixel comes from, tables what its value becomes, one pass does both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils.collate import default_collate

from stoker.boost.replay.data import Data, Leaf
from stoker.boost.replay.engine import Room
from stoker.boost.replay.glance import Glance
from stoker.boost.replay.kernel import MAX_CHANNELS, SIZES, Recipe, hands
from stoker.boost.replay.look import Look
from stoker.boost.replay.maps import Geometry
from stoker.boost.replay.sources import ArraySource
from stoker.boost.replay.steps.geometry import CenterCrop, Crop, Flip, Pad
from stoker.boost.replay.steps.pipeline import Steps, recognise_transform
from stoker.boost.replay.steps.step import Step
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.tables import bits, by_value, finished, picture, value_table
from stoker.boost.replay.unfit import Unfit


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one leaf of the data set brings."""

    leaf: Leaf
    steps: Steps
    target_steps: Steps
    recipe: Recipe
    geometry: Geometry
    dtype: torch.dtype

    @property
    def what(self) -> tuple[Any, ...]:
        """What all parts of a batch must have in common."""
        return self.recipe.shape, self.dtype

    def current(self) -> bool:
        """Whether the transforms still are what was recognised."""
        return self.steps.current() and self.target_steps.current()

    def labels(self, local_B: np.ndarray) -> torch.Tensor:
        """Return the labels as they are now, as default_collate makes them of the samples `local_B`. Raises Unfit when that is no plain tensor."""
        assert isinstance(self.leaf.source, ArraySource)
        return self.collated(self.leaf.source.labels_of(local_B))

    def collated(self, labels: np.ndarray | list[Any]) -> torch.Tensor:
        """Return labels that the source made as default_collate makes them. Raises Unfit when that is no plain tensor."""
        if self.target_steps:
            labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
            for step in self.target_steps:
                labels = [step.apply(label, None) for label in labels]
        if isinstance(labels, np.ndarray):
            return torch.from_numpy(labels)
        found = default_collate(labels)
        if type(found) is not torch.Tensor or found.requires_grad or found.dtype.itemsize not in SIZES or found.layout is not torch.strided:
            raise Unfit("its labels do not make a plain tensor")
        return found.contiguous()


@dataclass(frozen=True, kw_only=True)
class Share:
    """The images of a batch that one part makes."""

    part: Part
    place_K: np.ndarray | None
    """Their rows in the batch, ascending; None: all."""
    index_K: np.ndarray
    row_code_K: np.ndarray | None
    column_code_K: np.ndarray | None

    def fill(self, out_BCHW: np.ndarray, start: int, stop: int) -> None:
        """Write those among the rows `start` to `stop` of the batch."""
        first, last, place_K = start, stop, None
        if self.place_K is None:
            out_BCHW = out_BCHW[start:stop]
        else:
            first, last = (int(end) for end in np.searchsorted(self.place_K, (start, stop)))
            place_K = self.place_K[first:last]
        row_code_K, column_code_K = (None if code_K is None else code_K[first:last] for code_K in (self.row_code_K, self.column_code_K))
        hands().replay(out_BCHW, self.part.recipe, self.index_K[first:last], row_code_K, column_code_K, place_K)


@dataclass(kw_only=True)
class Fused:
    """The engine for data sets in memory whose transforms are geometric with a fixed number of draws, or act value by value."""

    what: str
    data: Data
    parts: list[Part]
    label: torch.Tensor
    """A label as a batch of one: shape and type."""
    serial: bool = False
    ahead: bool = False
    draws: bool = field(init=False)

    def __post_init__(self) -> None:
        self._glance = Glance()
        self.data.look_at(self._glance)
        for part in self.parts:
            part.steps.look_at(self._glance)
            part.target_steps.look_at(self._glance)
        self._words_P = np.array([part.geometry.words for part in self.parts])
        self.draws = bool(self._words_P.any())

    def shapes(self, count: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """As `Engine.shapes`."""
        return [((count, *self.parts[0].recipe.shape), self.parts[0].dtype), ((count, *self.label.shape[1:]), self.label.dtype)]

    def draw(self, stream: Stream, index_B: np.ndarray) -> tuple[list[Share], torch.Tensor]:
        """As `Engine.draw`. Raises IndexError for an index that is not there, Unfit when a label is of another type than the first."""
        leaf_B, local_B = self.data.locate(index_B)
        local_B = np.ascontiguousarray(local_B, np.int64)
        if len(self.parts) == 1:
            shares = [self.share(stream, local_B)]
        else:
            shares = list(self._shares(stream, leaf_B, local_B))
        return shares, self.labels(leaf_B, local_B)

    def share(self, stream: Stream, local_B: np.ndarray) -> Share:
        """Draw for the images `local_B` (int64, contiguous, places in the source) where all are of one part."""
        words = int(self._words_P[0])
        words_BK = stream.torch_words(len(local_B) * words).reshape(-1, words) if words else np.zeros((len(local_B), 0), np.uint32)
        return Share(part=self.parts[0], place_K=None, index_K=local_B, **_codes(self.parts[0], words_BK))

    def _shares(self, stream: Stream, leaf_B: np.ndarray, local_B: np.ndarray) -> Iterator[Share]:
        """Yield a share for each leaf in the batch. The words were drawn sample after sample, by each sample as many as its leaf takes."""
        counts_B = self._words_P[leaf_B]
        starts_B = np.cumsum(counts_B) - counts_B
        words = stream.torch_words(int(counts_B.sum())) if counts_B.any() else np.zeros(0, np.uint32)
        for leaf, part in enumerate(self.parts):
            place_K = np.flatnonzero(leaf_B == leaf)
            if len(place_K):
                words_KW = words[starts_B[place_K][:, None] + np.arange(part.geometry.words)]
                yield Share(part=part, place_K=place_K, index_K=local_B[place_K], **_codes(part, words_KW))

    def labels(self, leaf_B: np.ndarray, local_B: np.ndarray) -> torch.Tensor:
        """Return the labels of the samples as they are now; `leaf_B` counts with several parts only.

        Raises Unfit when one is of another type than the first was.
        """
        if len(self.parts) == 1:
            found = self.parts[0].labels(local_B)
        else:
            each = [self.parts[leaf].labels(local_B[k : k + 1]) for k, leaf in enumerate(leaf_B)]
            if any(label.dtype != each[0].dtype or label.shape != each[0].shape for label in each):
                raise Unfit("its labels are of several types")
            found = torch.cat(each)
        return self.fitting(found)

    def fitting(self, found: torch.Tensor) -> torch.Tensor:
        """Return labels of the type that batches have room for. Raises Unfit for others."""
        if found.dtype != self.label.dtype or found.shape[1:] != self.label.shape[1:]:
            raise Unfit("its labels are of several types")
        return found

    def fill(self, drawn: tuple[list[Share], torch.Tensor], room: Room, start: int, stop: int) -> None:
        """As `Engine.fill`."""
        shares, labels_B = drawn
        out_BCHW = bits(room.tensors[0])
        for share in shares:
            share.fill(out_BCHW, start, stop)
        bits(room.tensors[1])[start:stop] = bits(labels_B)[start:stop]

    def fits_labels(self) -> bool:
        """Whether the first label still is of the type that batches have room for."""
        try:
            self.labels(np.zeros(1, np.int64), np.zeros(1, np.int64))
        except (Unfit, IndexError):
            return False
        return True

    def read(self, index_B: np.ndarray) -> list[Any]:
        """As `Engine.read`: nothing, since its batches are made when they are asked for."""
        return []

    def current(self) -> bool:
        """As `Engine.current`."""
        return self._glance.same() or (self.data.current() and all(part.current() for part in self.parts))


def fused(data: Data) -> Fused:
    """Return the engine for `data`. Raises Unfit with what stands in the way."""
    parts = [part_of(leaf) for leaf in data.leaves]
    if not parts or any(part.what != parts[0].what for part in parts):
        raise Unfit("its data sets make images of several shapes or types")
    done = " or ".join(dict.fromkeys(part.steps.named() for part in parts))
    return Fused(what=f"{data.what} -> {done}", data=data, parts=parts, label=parts[0].labels(np.zeros(1, np.int64)))


def part_of(leaf: Leaf) -> Part:
    """Return how the images of one leaf are made. Raises Unfit."""
    if not isinstance(leaf.source, ArraySource):
        raise Unfit("its images do not lie in one array")
    steps, target_steps = recognise_transform(leaf.transform), recognise_transform(leaf.target_transform)
    if target_steps.draws or target_steps.serial:
        raise Unfit(f"target_transform {target_steps.named()} must run sample by sample")
    look, geometry = leaf.source.look(0), Geometry.of(leaf.source.look(0))
    channels, values, fills = look.channels, list[Step](), list[tuple[Any, int]]()
    for step in steps:
        if isinstance(step, (Pad, CenterCrop, Crop, Flip)):
            if geometry.add(step, look) and not isinstance(step, Flip):
                fills.append((_fill_pixel(step, look, values, channels), len(values)))
        elif by_value(step, look):
            values.append(step)
        else:
            raise Unfit(f"{step.name} is neither a crop or a flip nor a function of single values")
        look = step.after(look)
    table = value_table(values, channels)
    if table.channels > MAX_CHANNELS:
        raise Unfit(f"images of {table.channels} channels")
    fills_KC = [bits(finished(pixel, values[done:]).reshape(1, -1).contiguous()) for pixel, done in fills]
    recipe = Recipe(
        pixels_NHWC=_pixels(leaf.source),
        rows_RH=geometry.rows.table_SN,
        columns_SW=geometry.columns.table_SN,
        from_C=table.from_C,
        table_CV=table.bits_CV,
        fills_KC=np.concatenate(fills_KC) if fills_KC else np.zeros((0, table.channels), table.bits_CV.dtype),
    )
    if recipe.shape != (look.channels, look.height, look.width):
        raise Unfit(f"its images come out as {recipe.shape}, not as expected")
    return Part(leaf=leaf, steps=steps, target_steps=target_steps, recipe=recipe, geometry=geometry, dtype=table.dtype)


def _codes(part: Part, words_BK: np.ndarray) -> dict[str, np.ndarray | None]:
    row_code, column_code = part.geometry.codes(words_BK)
    return {"row_code_K": row_code, "column_code_K": column_code}


def _pixels(source: ArraySource) -> np.ndarray:
    if source.layout == "NHW":
        return source.array[..., None]
    return source.array.transpose(0, 2, 3, 1) if source.layout == "NCHW" else source.array


def _fill_pixel(step: Pad | CenterCrop | Crop, look: Look, before: Sequence[Step], channels: int) -> Any:
    """Return one pixel of the fill that `step` puts around an image of that look, made by the step itself after the value steps `before`."""
    alone = Geometry.of(look)
    alone.add(step, look)
    image = picture(np.zeros((look.height, look.width, channels), np.uint8))
    try:
        for earlier in before:
            image = earlier.apply(image, None)
        places = [(0, 0), step.spare(look.height, look.width)] if isinstance(step, Crop) else [(0, 0)]
        for top, left in places:
            filled = np.minimum(alone.rows.table_SN[top][:, None], alone.columns.table_SN[left]) < 0
            if filled.any():
                y, x = (int(axis[0]) for axis in np.nonzero(filled))
                made = step.apply(image, (top, left) if isinstance(step, Crop) else None)
                return made[:, y : y + 1, x : x + 1] if isinstance(made, torch.Tensor) else made.crop((x, y, x + 1, y + 1))
    except Exception as error:
        raise Unfit(f"{step.name} raises {type(error).__name__}: {error}") from error
    # The padding is cropped away again: no map ever asks for it.
    return picture(np.zeros((1, 1, channels), np.uint8)) if look.form == "pil" else image[:, :1, :1]
