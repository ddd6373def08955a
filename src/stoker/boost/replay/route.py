"""The way of one data set's samples: from the source through the user's transforms into a row of the batch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch

from stoker.boost.replay.data import Leaf
from stoker.boost.replay.kernel import hands
from stoker.boost.replay.look import Look
from stoker.boost.replay.own.source import OwnSource
from stoker.boost.replay.pixels import PIXELS, Kept, Shelf
from stoker.boost.replay.sources import FakeSource, FilesSource, TensorsSource
from stoker.boost.replay.steps import Steps, look_of, recognise_transform
from stoker.boost.replay.steps.choices import Choice
from stoker.boost.replay.steps.colours import Convert, Grayscale
from stoker.boost.replay.steps.erasing import Erasing
from stoker.boost.replay.steps.geometry import CenterCrop, Crop, Flip, Pad
from stoker.boost.replay.steps.pipeline import needs_look, waits
from stoker.boost.replay.steps.resampling import Resize
from stoker.boost.replay.steps.step import Known, Step
from stoker.boost.replay.steps.timm import Spots
from stoker.boost.replay.steps.timm_sizes import KeptRatio, MiddleOrPad
from stoker.boost.replay.steps.unknown import Unknown
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.tables import Table, bits, by_value, value_table
from stoker.boost.replay.unfit import Unfit

_SAME_EVERY_EPOCH = (Resize, KeptRatio, CenterCrop, MiddleOrPad, Pad, Grayscale, Convert)
"""Steps on PIL images that draw nothing and hang on nothing but the image: their result is kept instead of the image."""
_ANY_STRIDES = (Erasing, Spots, Crop, CenterCrop, Flip, Pad)
"""Steps whose result does not hang on how a tensor lies in memory: what comes out of a table lies otherwise than what some transforms make."""
_OWN_FIELDS = ("of", "twin", "watch")


@dataclasses.dataclass(slots=True, kw_only=True)
class Sample:
    """One sample whose random numbers are drawn."""

    route: Route
    place: int
    """In the route's source."""
    drawn: list[Any]
    """By step."""
    size: tuple[int, int] | None = None
    """Width and height that the draws were made for, None where they do not hang on them."""
    kept: Kept | None = None
    """The image after the constant steps, once it was needed."""
    image: Any = None
    """What the first `route.eager` steps have made of it, None where they are still to be applied."""


class Route:
    """Recognised once; `draw` and `write` go their ways apart."""

    def __init__(self, leaf: Leaf, count: int) -> None:
        """`count`: samples that a loader may ask for. Raises Unfit."""
        if isinstance(leaf.source, TensorsSource):
            raise Unfit("tensors and images stand in one data set")
        self.leaf, self.source = leaf, leaf.source
        self.steps, self.targets = recognise_transform(leaf.transform), recognise_transform(leaf.target_transform)
        self._check_harmless()
        self.draws = self.steps.draws or self.targets.draws
        self.eager = _eager(self.steps)
        self.serial = self.eager > 0 or self.targets.serial
        self.wants_look = any(needs_look(step) for step in self.steps[self.eager :]) and not self.eager
        self.first, self.last = _table_run(self.steps)
        if self.first < self.eager:
            self.first = self.last = len(self.steps)
        self.constant = min(_constant(self.steps), self.first)
        self.guarded = any(isinstance(inner, Unknown) for step in self.steps for inner in (step.inner() if isinstance(step, Choice) else [step]))
        if self.guarded and isinstance(self.source, OwnSource) and self.source.picture.mode is None:
            raise Unfit("its images are not converted, and code of the script's own could see that")
        self._tables: dict[int, Table | None] = {}
        self._shelf = self._own_shelf(count)

    def _check_harmless(self) -> None:
        for step in (*self.steps, *self.targets):
            if (reason := getattr(step, "reason", None)) is not None:
                raise Unfit(f"{step.name} runs as the script wrote it: {reason}")

    def current(self) -> bool:
        """Whether the user's transforms still are what was recognised."""
        return self.steps.current() and self.targets.current()

    @property
    def keeps(self) -> bool:
        """Whether images are kept after the steps that are the same in every epoch."""
        return self._shelf is not None and not self._shelf.refused

    # --- random numbers --------------------------------------------------------------------------------------------

    def draw(self, stream: Stream, place: int) -> Sample:
        """Draw what the image's transforms draw, and apply those that must run in order. Raises what opening the image raises, and Unfit."""
        if self.eager:
            return self._run(stream, place)
        if not self.steps.draws:
            return Sample(route=self, place=place, drawn=[None] * len(self.steps))
        look = self.look(place) if self.wants_look else None
        size = None if look is None else (look.width, look.height)
        drawn = []
        for step in self.steps:
            mine, look = step.draw(stream, look)
            drawn.append(mine)
        return Sample(route=self, place=place, drawn=drawn, size=size)

    def _run(self, stream: Stream, place: int) -> Sample:
        """Apply the first `eager` steps one after the other, each with what it draws, as the user's pipeline does; draw for the others."""
        sample = Sample(route=self, place=place, drawn=[None] * self.constant)
        image = self._image(self.fetch(sample))
        for step in self.steps[self.constant : self.eager]:
            mine, _ = step.draw(stream, look_of(image))
            sample.drawn.append(mine)
            image = step.apply(image, mine)
        sample.image, look = image, look_of(image)
        for step in self.steps[self.eager :]:
            mine, look = step.draw(stream, look)
            sample.drawn.append(mine)
        return sample

    def look(self, place: int) -> Look:
        """Return what the image looks like. Of a file only the header is read, and that once."""
        if not isinstance(self.source, FilesSource):
            return self.source.look(place)
        path = self.source.path(place)
        size = PIXELS.size(path)
        if size is None:
            look = self.source.look(place)
            PIXELS.remember(path, (look.width, look.height))
            return look
        return Look(form="pil", height=size[1], width=size[0], channels=self.source.channels, dtype=torch.uint8)

    # --- pixels ----------------------------------------------------------------------------------------------------

    def write(self, sample: Sample, row: torch.Tensor, row_bits: np.ndarray | None) -> None:
        """Write a sample's image into `row`; `row_bits`: the same memory as integers of its size, where it is a dense image C H W.

        Raises what decoding raises, and Unfit where shape or type differ from the row's.
        """
        image, number = self._begun(sample)
        while number < len(self.steps):
            if number == self.first and (table := self._table(image)) is not None:
                if self.last == len(self.steps):
                    if _looked_up(image, table, row, row_bits):
                        return
                else:
                    image, number = _tensor(image, table), self.last
                    continue
            image = self.steps[number].apply(image, sample.drawn[number])
            number += 1
        _copy(image, row)

    def output(self, sample: Sample) -> Any:
        """Return what the user's pipeline makes of the sample, by its own functions alone."""
        image, number = self._begun(sample)
        for step, mine in zip(self.steps[number:], sample.drawn[number:], strict=True):
            image = step.apply(image, mine)
        return image

    def fetch(self, sample: Sample) -> Kept:
        """Return the sample's image after the constant steps, kept or made. Raises what opening and decoding raise."""
        if sample.kept is None:
            sample.kept = self._fetched(sample.place)
        return sample.kept

    def _begun(self, sample: Sample) -> tuple[Any, int]:
        """Return the image as far as it is, and the number of the next step."""
        if sample.image is not None:
            return sample.image, self.eager
        kept = self.fetch(sample)
        if sample.size is not None and kept.size != sample.size:
            self._forget(sample.place)
            raise Unfit("an image file has changed its size")
        return self._image(kept), self.constant

    def _image(self, kept: Kept) -> Any:
        # Code of the user's own might write into an image that is kept.
        return kept.image.copy() if self.guarded and self._shelf is not None else kept.image

    def _fetched(self, place: int) -> Kept:
        if self._shelf is None:
            image = self.source.image(place)
            return Kept(self._constant_done(image), image.size)
        sample, state = self._identity(place)
        found = PIXELS.get(self._shelf, sample, state)
        if found is None:
            image, label = self.source.sample(place) if isinstance(self.source, FakeSource) else (self.source.image(place), None)
            found = Kept(self._constant_done(image), image.size, label)
            PIXELS.put(self._shelf, sample, state, found)
        return found

    def _constant_done(self, image: Any) -> Any:
        for step in self.steps[: self.constant]:
            image = step.apply(image, None)
        return image

    def _identity(self, place: int) -> tuple[Hashable, Hashable]:
        """Return what a kept image is found by, and what must not have changed since. Raises OSError for a file that is not there."""
        if isinstance(self.source, FilesSource):
            path = self.source.path(place)
            status = os.stat(path)
            return path, (status.st_mtime_ns, status.st_size, status.st_ino)
        if isinstance(self.source, FakeSource):
            return self.source.seed(place), None
        # Arrays are written into by scripts, and nobody says so: their bytes are compared.
        return place, self.source.array[place].tobytes()

    def _forget(self, place: int) -> None:
        if isinstance(self.source, FilesSource):
            PIXELS.remember(self.source.path(place), None)

    def _own_shelf(self, count: int) -> Shelf | None:
        steps = tuple(_written(step) for step in self.steps[: self.constant])
        if isinstance(self.source, FilesSource):
            return PIXELS.shelf(("files", self.source.root, steps), min(count, len(self.source)))
        if isinstance(self.source, FakeSource):
            return PIXELS.shelf(("fake", self.source.size, self.source.classes, steps), min(count, len(self.source)))
        if steps:
            return PIXELS.shelf(("array", self.source.array.ctypes.data, self.source.array.shape, steps), min(count, len(self.source)))
        return None

    # --- tables ----------------------------------------------------------------------------------------------------

    def _table(self, image: Any) -> Table | None:
        """Return the table of the steps `first` to `last` for images like this one, None where there is none."""
        channels = {"L": 1, "RGB": 3}.get(getattr(image, "mode", ""))
        if channels is None:
            return None
        if channels not in self._tables:
            try:
                self._tables[channels] = value_table(self.steps[self.first : self.last], channels)
            except Unfit:
                self._tables[channels] = None
        return self._tables[channels]


def _eager(steps: Steps) -> int:
    """Return how many steps must run in order, sample by sample, before the next sample's numbers are drawn: up to the last serial one."""
    last = max((number for number, step in enumerate(steps, 1) if step.serial), default=0)
    # Behind code of the user's own nobody knows the size before the pixels are there.
    while waits(steps[last:]):
        last += 1 + next(number for number, step in enumerate(steps[last:]) if isinstance(step, (Unknown, Choice)))
    return last


def _constant(steps: Steps) -> int:
    """Return how many steps at the beginning make the same of an image in every epoch."""
    number = 0
    while number < len(steps) and isinstance(steps[number], _SAME_EVERY_EPOCH) and not steps[number].draws:
        number += 1
    return number


def _table_run(steps: Steps) -> tuple[int, int]:
    """Return the first and the last step (not included) of the run from bytes to a tensor that a table can take; twice the end: none."""
    for first in range(len(steps)):
        last = _run_end(steps, first)
        if last is not None and all(isinstance(step, _ANY_STRIDES) for step in steps[last:]):
            return first, last
    return len(steps), len(steps)


def _run_end(steps: Steps, first: int) -> int | None:
    look, last = Look(form="pil", height=1, width=256, channels=3, dtype=torch.uint8), first
    try:
        while last < len(steps) and by_value(steps[last], look):
            look, last = steps[last].after(look) or look, last + 1
    except Unfit:
        return None
    # An array is what a batch is made of, no image for other steps.
    return last if look.form in ("tensor", "image") or (look.form == "array" and last == len(steps)) else None


def _written(step: Step) -> str:
    """Return a text that is the same for steps that do the same."""
    if not isinstance(step, Known):
        return f"{id(step)}"
    fields = [(part.name, getattr(step, part.name)) for part in dataclasses.fields(step) if part.name not in _OWN_FIELDS]
    own = sorted(vars(step.twin).items()) if hasattr(step.twin, "__dict__") else []
    return f"{type(step).__name__} {fields!r} {own!r}"


def _looked_up(image: Any, table: Table, row: torch.Tensor, row_bits: np.ndarray | None) -> bool:
    """Write an image's values by the table; return False where the row is of another kind."""
    if row_bits is None or row.dtype != table.dtype or row.dim() != 3:
        return False
    pixels_HWC = _pixels(image, table)
    if tuple(row.shape) != (table.channels, *pixels_HWC.shape[:2]):
        raise Unfit(f"a sample has shape {(table.channels, *pixels_HWC.shape[:2])}, the first had {tuple(row.shape)}")
    hands().lookup(row_bits, pixels_HWC, table.bits_CV)
    return True


def _tensor(image: Any, table: Table) -> torch.Tensor:
    pixels_HWC = _pixels(image, table)
    tensor = torch.empty((table.channels, *pixels_HWC.shape[:2]), dtype=table.dtype)
    hands().lookup(bits(tensor), pixels_HWC, table.bits_CV)
    return tensor


def _pixels(image: Any, table: Table) -> np.ndarray:
    """Return a PIL image's bytes [H, W, C]; a grey one's as often as the output has channels."""
    pixels: np.ndarray = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return pixels if pixels.shape[2] == table.channels else np.repeat(pixels, table.channels, axis=2)


def _copy(image: Any, row: torch.Tensor) -> None:
    if type(image) is np.ndarray:
        image = torch.from_numpy(image)
    if not isinstance(image, torch.Tensor) or image.shape != row.shape or image.dtype != row.dtype:
        now = f"{tuple(image.shape)} of {image.dtype}" if isinstance(image, torch.Tensor) else type(image).__name__
        raise Unfit(f"a sample is {now}, the first was {tuple(row.shape)} of {row.dtype}")
    row.copy_(image.as_subclass(torch.Tensor))
