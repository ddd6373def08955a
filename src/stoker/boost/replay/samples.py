"""Batches made sample by sample, through the user's own transforms: for all that has no faster way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate, get_worker_info

from stoker.boost.replay.collates import DEFAULT, Collate
from stoker.boost.replay.data import Data
from stoker.boost.replay.engine import Room
from stoker.boost.replay.form import Place, Rest, collated
from stoker.boost.replay.openmp import threads
from stoker.boost.replay.own.source import OwnSource
from stoker.boost.replay.route import Route, Sample
from stoker.boost.replay.sources import FakeSource, FilesSource, as_int64
from stoker.boost.replay.stream import Stream
from stoker.boost.replay.tables import bits
from stoker.boost.replay.unfit import Unfit

_SCANNED = 4096
"""Places that are looked at first, to find one of each joined data set."""


@dataclass(eq=False, kw_only=True)
class Drawn:
    """A batch whose random numbers are drawn."""

    samples: list[Sample]
    labels_B: torch.Tensor | None
    """None where labels are made with the images, in `fill`, and where there is a `rest`."""
    rest: Rest | None
    """What stands around the images, where that is more than a label."""
    threads: int
    """What PyTorch's operations use where the user's own code would run: sums are split among them."""


class Samples:
    """The engine. See `stoker.boost.replay.engine`."""

    ahead = True

    def __init__(self, data: Data, collate: Collate = DEFAULT) -> None:
        """Make one sample of each data set, with random numbers of its own. Raises Unfit."""
        self._data, self._collate = data, collate
        self._routes = [Route(leaf, len(data)) for leaf in data.leaves]
        self._threads = torch.get_num_threads()
        self.draws = any(route.draws for route in self._routes)
        self.serial = any(route.serial for route in self._routes)
        self._late = any(isinstance(route.source, FakeSource) for route in self._routes)
        self._place = self._check_kinds()
        self._shapes = self._tried()
        self.what = f"{data.what} -> {' | '.join(dict.fromkeys(_told(route) for route in self._routes))}"

    def shapes(self, count: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """As `Engine.shapes`."""
        return [((count, *shape), dtype) for shape, dtype in self._shapes]

    @property
    def keeps(self) -> bool:
        """Whether images that were decoded once are kept: later epochs then cost less than the first batches do."""
        return any(route.keeps for route in self._routes)

    def draw(self, stream: Stream, index_B: np.ndarray) -> Drawn:
        """As `Engine.draw`. Where the engine is `serial` the caller has made the stream global."""
        leaf_B, local_B = self._data.locate(index_B)
        own = stream.generator is torch.default_generator and get_worker_info() is None
        if own and self._late and torch.cuda.is_available():
            raise Unfit("FakeData, read without workers, seeds the GPU's generator with every sample")
        labels = self._labels(leaf_B, local_B)
        count = self._threads if own else 1
        if not self.serial:
            return self._drawn(stream, leaf_B, local_B, labels, count)
        with threads(count):
            return self._drawn(Stream.of_process(), leaf_B, local_B, labels, count)

    def fill(self, drawn: Drawn, room: Room, start: int, stop: int) -> None:
        """As `Engine.fill`."""
        images, room.rest = room.tensors[0], drawn.rest
        dense = images.dim() == 4 and images.is_contiguous()
        images_bits = bits(images) if dense else None
        with threads(drawn.threads):
            for number in range(start, stop):
                sample = drawn.samples[number]
                sample.route.write(sample, images[number], None if images_bits is None else images_bits[number])
            if drawn.rest is None and drawn.labels_B is None:
                made = [self._target(sample, sample.route.fetch(sample).label, None) for sample in drawn.samples[start:stop]]
                room.tensors[1][start:stop] = self._checked(made)
            elif drawn.labels_B is not None:
                room.tensors[1][start:stop] = drawn.labels_B[start:stop]
        for sample in drawn.samples[start:stop]:
            sample.kept = None

    def read(self, index_B: np.ndarray) -> list[Any]:
        """As `Engine.read`: file names, labels, pixels of arrays."""
        found: list[Any] = []
        for leaf, place in zip(*self._data.locate(index_B), strict=True):
            source = self._routes[int(leaf)].source
            if isinstance(source, FilesSource):
                found.append(source.said(int(place)))
            elif not isinstance(source, FakeSource):
                found.append((source.array[int(place)].tobytes(), source.labels[int(place)]))
        return found

    def current(self) -> bool:
        """As `Engine.current`."""
        same = self._data.current() and all(route.current() for route in self._routes)
        return same and torch.get_num_threads() == self._threads

    # --- drawing ---------------------------------------------------------------------------------------------------

    def _drawn(self, stream: Stream, leaf_B: np.ndarray, local_B: np.ndarray, labels: list[Any], count: int) -> Drawn:
        samples, targets = [], []
        late = self._late and not self.serial
        for leaf, place, label in zip(leaf_B.tolist(), local_B.tolist(), labels, strict=True):
            route = self._routes[leaf]
            sample = route.draw(stream, place)
            samples.append(sample)
            if not late:
                if isinstance(route.source, FakeSource):
                    label = route.fetch(sample).label
                targets.append(self._target(sample, label, stream))
        rest = None if self._place is None else collated(self._place, targets)
        return Drawn(samples=samples, labels_B=None if late or rest is not None else self._checked(targets), rest=rest, threads=count)

    def _labels(self, leaf_B: np.ndarray, local_B: np.ndarray) -> list[Any]:
        """Return the labels before target_transform, None for those that are made with their images."""
        labels: list[Any] = [None] * len(leaf_B)
        for leaf in np.unique(leaf_B).tolist():
            source = self._routes[leaf].source
            if isinstance(source, FakeSource):
                continue
            mine = np.flatnonzero(leaf_B == leaf)
            found = source.labels_of(local_B[mine])
            for place, label in zip(mine.tolist(), found.tolist() if isinstance(found, np.ndarray) else found, strict=True):
                labels[place] = label
        return labels

    @staticmethod
    def _target(sample: Sample, label: Any, stream: Stream | None) -> Any:
        for step in sample.route.targets:
            drawn = None
            if step.draws:
                assert stream is not None
                drawn, _ = step.draw(stream, None)
            label = step.apply(label, drawn)
        return label.item() if isinstance(sample.route.source, FakeSource) else label

    def _checked(self, labels: list[Any]) -> torch.Tensor:
        """Return labels as default_collate makes a batch of them. Raises Unfit where that is another than the first was."""
        collated = _collated(labels)
        shape, dtype = self._shapes[1]
        if collated.shape[1:] != shape or collated.dtype != dtype:
            raise Unfit(f"a batch of labels is {tuple(collated.shape)} of {collated.dtype}")
        return collated

    # --- recognition -----------------------------------------------------------------------------------------------

    def _check_kinds(self) -> Place | None:
        """Return where the images stand in a batch that is more than images and labels. Raises Unfit for samples of different kinds."""
        places = {route.source.place if isinstance(route.source, OwnSource) else None for route in self._routes}
        if len(places) > 1:
            raise Unfit("the joined data sets have samples of different kinds")
        late = [isinstance(route.source, FakeSource) for route in self._routes]
        if any(late) and not all(late):
            raise Unfit("FakeData is joined with other data")
        if self._late and any(route.targets.draws and not route.serial for route in self._routes):
            raise Unfit("the target_transform of FakeData draws random numbers")
        return places.pop()

    def _tried(self) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Return shape and dtype of image and label, from one sample of each data set."""
        if not len(self._data):
            raise Unfit("it is empty")
        found = {self._facts(leaf, place) for leaf, place in self._firsts().items()}
        if len(found) != 1:
            raise Unfit("the joined data sets have samples of different shapes or types")
        return list(found.pop())

    def _firsts(self) -> dict[int, int]:
        """Return of each data set one place that a loader can ask for."""
        index = np.arange(len(self._data)) if len(self._routes) > 1 else np.zeros(1, np.int64)
        for part in (index[:: max(1, len(index) // _SCANNED)], index):
            leaf_B, local_B = self._data.locate(part)
            leaves, first = np.unique(leaf_B, return_index=True)
            if len(leaves) == len(self._routes):
                break
        return {int(leaf): int(local_B[place]) for leaf, place in zip(leaves, first, strict=True)}

    def _facts(self, leaf: int, place: int) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        route = self._routes[leaf]
        label = self._labels(np.array([leaf]), np.array([place]))[0]
        stream = Stream.of_worker(0, 0, 1, self._data.root)
        try:
            if self.serial:
                with stream.made_global():
                    image, label = self._tried_sample(Stream.of_process(), route, place, label)
            else:
                image, label = self._tried_sample(stream, route, place, label)
        except Unfit:
            raise
        except Exception as error:
            raise Unfit(f"its first sample cannot be made ({type(error).__name__}: {error})") from error
        batch = _collated([image])
        if batch.requires_grad or batch.device.type != "cpu" or not batch.is_contiguous():
            raise Unfit("its samples are no plain tensors")
        if self._place is not None and not self._collate.bytes_only:
            _tried_rest(self._place, label)
            return ((tuple(batch.shape[1:]), batch.dtype),)
        labels = _collated([label])
        if self._collate.bytes_only:
            self._check_bytes(batch, labels)
        return (tuple(batch.shape[1:]), batch.dtype), (tuple(labels.shape[1:]), labels.dtype)

    def _check_bytes(self, batch: torch.Tensor, labels: torch.Tensor) -> None:
        """Raise Unfit for what fast_collate would make into another type."""
        if batch.dtype != torch.uint8 or batch.dim() != 4:
            raise Unfit(f"{self._collate.name} is given images of {batch.dtype}")
        if labels.dtype != torch.int64 or labels.dim() != 1:
            raise Unfit(f"{self._collate.name} is given labels that are no whole numbers")

    def _tried_sample(self, stream: Stream, route: Route, place: int, label: Any) -> tuple[Any, Any]:
        sample = route.draw(stream, place)
        image = route.output(sample)
        if isinstance(route.source, FakeSource):
            label = route.fetch(sample).label
        return image, self._target(sample, label, stream)


def samples(data: Data, collate: Collate = DEFAULT) -> Samples:
    """Return the engine that makes the samples of `data` one by one. Raises Unfit."""
    return Samples(data, collate)


def _collated(values: list[Any]) -> torch.Tensor:
    """Return what default_collate makes of one field of some samples. Raises Unfit where it makes no plain dense tensor."""
    whole = as_int64(values)
    if isinstance(whole, np.ndarray):
        return torch.from_numpy(whole)
    try:
        collated = default_collate(values)
    except Exception as error:
        raise Unfit(f"PyTorch cannot make a batch of {type(values[0]).__name__} ({type(error).__name__})") from error
    if type(collated) is not torch.Tensor or collated.layout is not torch.strided:
        raise Unfit(f"its samples hold a {type(values[0]).__name__} where one image or one label is known")
    return collated


def _tried_rest(place: Place, sample: Any) -> None:
    try:
        collated(place, [sample])
    except Exception as error:
        raise Unfit(f"PyTorch cannot make a batch of its samples ({type(error).__name__}: {error})") from error


def _told(route: Route) -> str:
    target = f"; target: {route.targets.named()}" if route.targets else ""
    return f"{route.steps.named() or 'no transform'}{target}"
