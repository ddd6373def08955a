"""Random data pipelines for the tests of exact replay: written down as plain values, made anew for every run, and traced bit for bit."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision import transforms as v1
from torchvision.transforms import v2

from tests.boost_user_code import CALLABLES, INITS, TARGETS, Backwards, Mine

SEED = 20240607


# ---- transforms -----------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """One transform as it is to be made: `Made("v1", "RandomCrop", {"size": 8})`. Transforms among the arguments are `Made` too."""

    family: str
    """`v1`, `v2`, or `mine` for a name of `CALLABLES`."""
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def make(self) -> Any:
        """Return the transform, made anew."""
        if self.family == "mine":
            return CALLABLES[self.name]()
        module = {"v1": v1, "v2": v2}[self.family]
        return getattr(module, self.name)(**{key: _made(value) for key, value in self.arguments.items()})


def _made(value: Any) -> Any:
    if isinstance(value, Made):
        return value.make()
    if isinstance(value, list) and any(isinstance(part, Made) for part in value):
        return [part.make() for part in value]
    return value


# ---- data sets ------------------------------------------------------------------------------------------------------------------------------------


def _pixels(shape: tuple[int, ...], seed: int = 5) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8)


def _numbers(count: int, seed: int = 6) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 10, count)


def _vision(kind: type, **parts: Any) -> Any:
    made = kind.__new__(kind)
    torchvision.datasets.VisionDataset.__init__(made, "nowhere", transform=parts.pop("transform"), target_transform=parts.pop("target_transform"))
    vars(made).update(parts)
    return made


def write_pictures(folder: Path, count: int = 48) -> Path:
    """Write small pictures of many sizes and modes into three classes, once, and return the folder."""
    if folder.exists():
        return folder
    stream = np.random.RandomState(7)
    for i in range(count):
        height, width = (int(n) for n in stream.randint(9, 40, 2))
        modes = [("RGB", "png"), ("L", "png"), ("RGBA", "png"), ("RGB", "jpg"), ("L", "jpg"), ("P", "png"), ("CMYK", "jpg"), ("1", "png")]
        mode, suffix = modes[i % 8]
        picture = Image.fromarray(stream.randint(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
        (folder / f"class{i % 3}").mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"class{i % 3}" / f"{i:03d}.{suffix}", **({"quality": 80, "progressive": i % 16 == 3} if suffix == "jpg" else {}))
    return folder


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set as it is to be made."""

    kind: str
    """A class of torchvision, `TensorDataset`, `ImageFolder`, or `mine` for a class of the test's own."""
    count: int = 40
    size: tuple[int, int] = (12, 12)
    """Height and width of its images; ImageFolder's are as they are."""
    steps: tuple[Made, ...] = ()
    target: str = ""
    """A name of TARGETS."""
    wrap: str = ""
    """`subset`, `split`, `concat`, `subset-of-subset`."""
    family: str = "v1"
    """Whose Compose holds the steps."""
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.int64)
    """Of the tensors of a TensorDataset."""

    def make(self, folder: Path) -> Any:
        """Return the data set; files are written under `folder`."""
        transform = {"v1": v1, "v2": v2}[self.family].Compose([step.make() for step in self.steps]) if self.steps else None
        plain = self._plain(folder, transform)
        count = len(plain)
        if self.wrap == "subset":
            return Subset(plain, list(range(count - 1, -1, -2)))
        if self.wrap == "split":
            return torch.utils.data.random_split(plain, [count - count // 3, count // 3], torch.Generator().manual_seed(3))[0]
        if self.wrap == "subset-of-subset":
            return Subset(Subset(plain, range(1, count)), torch.arange(0, count - 1, 2))  # type: ignore[arg-type]
        if self.wrap == "concat":
            return ConcatDataset([plain, Subset(plain, [2, 0, 1]), plain])
        return plain

    def _plain(self, folder: Path, transform: Any) -> Any:
        both = {"transform": transform, "target_transform": TARGETS[self.target]()}
        kinds = torchvision.datasets
        n, (h, w) = self.count, self.size
        labels = _numbers(n)
        if self.kind in ("CIFAR10", "CIFAR100"):
            data = _pixels((n, 3, h, w)).transpose(0, 2, 3, 1)
            return _vision(getattr(kinds, self.kind), data=data, targets=labels.tolist(), train=True, **both)
        if self.kind in ("MNIST", "FashionMNIST", "KMNIST", "EMNIST"):
            return _vision(getattr(kinds, self.kind), data=torch.from_numpy(_pixels((n, h, w))), targets=torch.from_numpy(labels), train=True, **both)
        if self.kind == "SVHN":
            return _vision(kinds.SVHN, data=_pixels((h, w, 3, n)).transpose(3, 2, 0, 1), labels=labels.astype(np.int64), split="train", **both)
        if self.kind == "STL10":
            return _vision(kinds.STL10, data=_pixels((n, 3, w, h)).transpose(0, 1, 3, 2), labels=labels.astype(np.uint8) - 1, split="train", **both)
        if self.kind == "FakeData":
            return kinds.FakeData(n, (3, h, w), 10, random_offset=11, **both)
        if self.kind == "ImageFolder":
            return kinds.ImageFolder(str(write_pictures(folder / "pictures")), **both)
        if self.kind == "TensorDataset":
            return TensorDataset(*(_tensor(n, place, dtype) for place, dtype in enumerate(self.dtypes)))
        return Mine(n, (h, w), transform)


def _tensor(count: int, place: int, dtype: torch.dtype) -> torch.Tensor:
    shape = [(count, 3, 5, 4), (count,), (count, 7), (count, 1)][place % 4]
    raw = torch.from_numpy(np.random.RandomState(place).randint(-100, 100, shape))
    return (raw > 0) if dtype == torch.bool else raw.to(dtype)


# ---- loaders --------------------------------------------------------------------------------------------------------------------------------------


SAMPLERS = [
    *("sequential", "shuffle", "replacement", "more", "weighted", "subset-random", "distributed", "distributed-in-order"),
    *("own-generator", "list", "mine", "batches", "list-of-batches", "negative"),
]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """A DataLoader as it is to be made."""

    batch: int = 4
    sampler: str = "shuffle"
    workers: int = 0
    persistent: bool = False
    drop_last: bool = False
    init: str = ""
    """A name of INITS."""
    generator: int | None = None
    """Seed of the loader's own generator."""
    prefetch: int | None = None

    def make(self, dataset: Any) -> DataLoader[Any]:
        """Return the loader of `dataset`."""
        more: dict[str, Any] = {"num_workers": self.workers, "worker_init_fn": INITS[self.init]}
        if self.workers:
            more |= {"persistent_workers": self.persistent, "prefetch_factor": self.prefetch}
        if self.generator is not None:
            more["generator"] = torch.Generator().manual_seed(self.generator)
        batches = self._batches(dataset)
        if batches is not None:
            return DataLoader(dataset, batch_sampler=batches, **more)
        return DataLoader(dataset, self.batch, drop_last=self.drop_last, **self._order(dataset), **more)

    def _batches(self, dataset: Any) -> Any:
        if self.sampler == "batches":
            return BatchSampler(RandomSampler(dataset), self.batch, self.drop_last)
        if self.sampler == "list-of-batches":
            count = len(dataset)
            return [[i % count for i in range(start, start + 1 + start % 4)] for start in range(0, count, 3)]
        return None

    def _order(self, dataset: Any) -> dict[str, Any]:
        count = len(dataset)
        made: dict[str, Callable[[], Any]] = {
            "replacement": lambda: RandomSampler(dataset, replacement=True, num_samples=count + 37),
            "more": lambda: RandomSampler(dataset, num_samples=2 * count + 3),
            "weighted": lambda: WeightedRandomSampler([1.0 + i % 5 for i in range(count)], count),
            "subset-random": lambda: SubsetRandomSampler(range(0, count, 2)),
            "distributed": lambda: DistributedSampler(dataset, 3, 1, shuffle=True, seed=4),
            "distributed-in-order": lambda: DistributedSampler(dataset, 2, 0, shuffle=False, drop_last=True),
            "own-generator": lambda: RandomSampler(dataset, generator=torch.Generator().manual_seed(8)),
            "list": lambda: [i * 7 % count for i in range(count)],
            "negative": lambda: [-1 - i for i in range(count)],
            "mine": lambda: Backwards(count),
        }
        if self.sampler == "shuffle":
            return {"shuffle": True}
        return {"sampler": made[self.sampler]()} if self.sampler in made else {}


# ---- use ------------------------------------------------------------------------------------------------------------------------------------------

ACTS = ["full", "break", "hand", "nested", "zip", "same", "kept", "late"]


@dataclass(frozen=True, kw_only=True)
class Act:
    """What the user's loop does with the loader in one epoch."""

    kind: str = "full"
    after: int = 2
    """After how many batches it breaks off, or turns to the other loader."""
    draws: bool = False
    """Whether it draws random numbers of its own between the batches."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Everything of a small script: data, loader, a second loader, and how they are used."""

    data: Data
    loading: Loading = Loading()
    second: Loading = Loading(batch=5, sampler="sequential")
    """A second loader over the same data set, for loops in loops and zips."""
    acts: tuple[Act, ...] = (Act(), Act())


def described(value: Any) -> Any:
    """Return all that the user can see of a batch, the bits as a digest."""
    if isinstance(value, torch.Tensor):
        bits = value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b""
        digest = hashlib.sha256(bits).hexdigest()[:16]
        size = value.untyped_storage().nbytes()
        return (type(value).__name__, str(value.dtype), tuple(value.shape), value.stride(), value.storage_offset(), size, value.requires_grad, digest)
    if isinstance(value, dict):
        return {key: described(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *(described(part) for part in value))
    return (type(value).__name__, repr(value))


def states() -> tuple[str, ...]:
    """Digests of the three random states of this process."""
    name, keys, *rest = np.random.get_state(legacy=True)
    numpy = f"{name} {rest}".encode() + np.asarray(keys).tobytes()
    parts = (torch.get_rng_state().numpy().tobytes(), repr(random.getstate()).encode(), numpy)
    return tuple(hashlib.sha256(part).hexdigest()[:16] for part in parts)


def _drawn(act: Act) -> Iterator[Any]:
    if act.draws:
        yield torch.rand(1).item(), torch.randn(3).tolist(), random.random(), float(np.random.rand()), random.gauss(0, 1)


def _one_epoch(act: Act, loader: DataLoader[Any], second: DataLoader[Any], kept: list[Any]) -> Iterator[Any]:
    if act.kind == "late" and kept:
        yield from (described(batch) for batch in kept.pop())
    if act.kind == "zip":
        for pair in zip(loader, second, strict=False):
            yield described(pair)
            yield from _drawn(act)
        return
    if act.kind in ("hand", "kept"):
        iterator = iter(loader)
        for _ in range(act.after):
            yield described(next(iterator, "exhausted"))
            yield from _drawn(act)
        if act.kind == "kept":
            kept.append(iterator)
        return
    for place, batch in enumerate(loader):
        yield described(batch)
        yield from _drawn(act)
        if act.kind == "break" and place + 1 >= act.after:
            break
        if place == act.after and act.kind in ("nested", "same"):
            for inner in loader if act.kind == "same" else second:
                yield described(inner)
                yield from _drawn(act)


def trace(pipeline: Pipeline, folder: Path, seed: int = SEED) -> list[Any]:
    """Run `pipeline` as a user's script would and return everything it sees: batches, own draws, errors, and the random states after each epoch."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    events: list[Any] = []
    dataset = pipeline.data.make(folder)
    loader, second = pipeline.loading.make(dataset), pipeline.second.make(dataset)
    kept: list[Any] = []
    for epoch, act in enumerate(pipeline.acts):
        if isinstance(loader.sampler, DistributedSampler):
            loader.sampler.set_epoch(epoch)
        try:
            for event in _one_epoch(act, loader, second, kept):
                events.append(event)
        except Exception as error:
            events.append((type(error).__name__, str(error)))
        events.append(states())
        if loader.generator is not None:
            events.append(hashlib.sha256(loader.generator.get_state().numpy().tobytes()).hexdigest()[:16])
    del kept, loader, second
    events.append(states())
    return events


def first_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    """Return where two traces part, or an empty text."""
    for place, (mine, plain) in enumerate(zip(ours, theirs, strict=False)):
        if mine != plain:
            return f"event {place}:\n  plain {plain}\n  boost {mine}"
    return "" if len(ours) == len(theirs) else f"{len(theirs)} events plainly, {len(ours)} boosted"
