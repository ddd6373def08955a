"""Image files of a data set class of the script's own: which file, which label and which transform come of evaluating its `__getitem__`."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import numpy as np

from stoker.boost.replay.classes import check_loader
from stoker.boost.replay.form import Place
from stoker.boost.replay.own import allowed
from stoker.boost.replay.own.picture import MODES, Picture
from stoker.boost.replay.own.reading import Reading
from stoker.boost.replay.sources import FilesSource, as_int64, pil_backend, pillow
from stoker.boost.replay.steps import recognise_transform
from stoker.boost.replay.unfit import Unfit

_MOST_FRESH = 4096
_LOOKED_AT = 64


@dataclass(frozen=True, kw_only=True)
class Made:
    """One sample, its image not opened."""

    path: str
    label: Any
    """Or, where `place` is not None, all of the sample, with a number where its image is."""
    place: Place | None
    picture: Picture = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnSource(FilesSource):
    """Samples are what `__getitem__` makes of them at the moment they are asked for; `loader` is torchvision's, where the script uses it."""

    reading: Reading
    place: Place | None
    """Where a sample has its image, None for an image and a label that is a number or a tensor."""
    picture: Picture
    """Of the first sample: all others must be opened, converted and handed on in the same way."""
    mode: str
    copied: bool
    """Whether `dataset` is a copy, as workers have it: what is outside of it was kept as well."""
    fresh: dict[int, Made] = field(default_factory=dict)
    """The samples whose labels were asked for last: their files are asked for a moment later."""

    @property
    def root(self) -> str:
        """What tells this data set from others."""
        return f"{self.reading.kind.__module__}.{self.reading.kind.__qualname__} {len(self)} {self.picture.mode} {self.mode}"

    def __len__(self) -> int:
        return self.reading.length()

    def made(self, place: int) -> Made:
        """Return a sample. Raises Unfit for one that is made in another way than the first, and what the script's code raises."""
        made = made_of(self.reading.item(place))
        first, own = self.picture, made.picture
        same = len(own.chain) == len(first.chain) and all(one is other for one, other in zip(own.chain, first.chain, strict=True))
        if not same or made.place != self.place or own.mode != first.mode or own.loader is not first.loader:
            raise Unfit(f"its __getitem__ makes sample {place} in another way than the first")
        return made

    def path(self, place: int) -> str:
        made = self.fresh.get(place) or self.made(place)
        return self.absolute(made.path)

    def said(self, place: int) -> Any:
        made = self.made(place)
        return made.path, made.label

    @property
    def channels(self) -> int:
        return 1 if self.mode == "L" else 3

    def image(self, place: int) -> Any:
        """Return the decoded image. Raises what the script's own way raises, and Unfit for one of another mode than the first."""
        path = self.path(place)
        if self.picture.loader is not None:
            return self.picture.loader(path)
        with pillow().open(path) as image:
            if self.picture.mode is None and image.mode != self.mode:
                raise Unfit(f"an image is {image.mode}, the first was {self.mode}")
            # What is kept must not keep its file open.
            return image.copy() if self.picture.mode is None else image.convert(self.picture.mode)

    def labels_of(self, place_B: np.ndarray) -> np.ndarray | list[Any]:
        made_B = {place: self.made(place) for place in place_B.tolist()}
        if len(self.fresh) > _MOST_FRESH:
            self.fresh.clear()
        self.fresh.update(made_B)
        return as_int64([made_B[place].label for place in place_B.tolist()])

    def current(self) -> bool:
        return (self.copied or self.reading.current()) and (self.picture.loader is None or pil_backend())


def made_of(result: Any) -> Made:
    """Return what a sample is made of, from what `__getitem__` returned. Raises Unfit for anything but one image and data."""
    pictures: list[tuple[Place, Picture]] = []
    rest = _without(result, (), pictures)
    if len(pictures) != 1:
        raise Unfit(f"its __getitem__ returns {len(pictures) or 'no'} images")
    place, picture = pictures[0]
    picture.check_open()
    plain = type(result) in (tuple, list) and len(result) == 2 and place == (0,) and allowed.is_number(result[1])
    label = result[1] if plain else rest
    return Made(path=picture.handle.path, label=label, place=None if plain else place, picture=picture)


def _without(value: Any, place: Place, pictures: list[tuple[Place, Picture]]) -> Any:
    """Return `value` with 0 for its images, which are added to `pictures`. Raises Unfit for what is no data."""
    if isinstance(value, Picture):
        pictures.append((place, value))
        return 0
    if type(value) is dict:
        return {key: _without(part, (*place, key), pictures) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_without(part, (*place, number), pictures) for number, part in enumerate(value))
    if not allowed.is_data(value):
        raise Unfit(f"its samples hold a {type(value).__name__}")
    return value


def own_source(dataset: Any, reading: Reading, *, copied: bool) -> OwnSource:
    """Return the source of a data set of the script's own. Raises Unfit."""
    try:
        if not reading.length():
            raise Unfit("it is empty")
        made = made_of(reading.item(0))
        picture = made.picture
        mode = picture.mode or _mode(picture.handle.path)
    except Unfit:
        raise
    except Exception as error:
        raise Unfit(f"its first sample cannot be made ({type(error).__name__}: {error})") from error
    _check_callables(reading)
    if picture.loader is not None:
        check_loader(picture.loader)
        if not pil_backend():
            raise Unfit("torchvision does not open images with PIL here")
    source = OwnSource(dataset=dataset, loader=picture.loader, place=made.place, reading=reading, picture=picture, mode=mode, copied=copied)
    _look_over(source)
    return source


def _look_over(source: OwnSource) -> None:
    """Raise Unfit where samples are made in different ways: given up in the middle of an epoch, they would be made without workers."""
    count = len(source)
    try:
        for place in range(0, count, max(1, count // _LOOKED_AT)):
            source.made(place)
    except Unfit:
        raise
    except Exception as error:
        raise Unfit(f"a sample cannot be made ({type(error).__name__}: {error})") from error


def transform_of(source: OwnSource) -> Any:
    """Return what the images are given to. Raises Unfit for several."""
    if len(source.picture.chain) > 1:
        raise Unfit("its __getitem__ gives an image to several transforms")
    return source.picture.chain[0] if source.picture.chain else None


def _mode(path: str) -> str:
    with pillow().open(path) as image:
        if image.mode not in MODES:
            raise Unfit(f"its images are {image.mode}, and are not converted")
        return str(image.mode)


def _check_callables(reading: Reading) -> None:
    """Raise Unfit for what is called only sometimes and could be seen: the script's own code may have to go on in this process."""
    for name in sorted(reading.callables):
        called = reading.own(name)
        if called is None or allowed.loads(called) or reading.follows(called):
            continue
        if isinstance(called, MethodType) or not callable(called):
            raise Unfit(f"calls its {name}, a {type(called).__name__}")
        for step in recognise_transform(called):
            if (reason := getattr(step, "reason", None)) is not None:
                raise Unfit(f"{step.name} runs as the script wrote it: {reason}")
