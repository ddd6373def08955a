"""Hostile script: unusual loaders, what the script can ask of a loader, and settings of the process around it."""

from __future__ import annotations

import copy
import inspect
import itertools
import random
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stage import CROPPED, case, cifar, digest, main, say, states
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, dataloader, default_collate, get_worker_info
from torchvision import transforms

Pair = namedtuple("Pair", "images labels")


def run(loader: Any) -> None:
    """One epoch, printed."""
    say(*(digest(batch) for batch in loader), states())


@case
def length_and_attributes() -> None:
    made = cifar(50)
    for workers in (0, 2):
        for drop in (False, True):
            loader = DataLoader(made, 4, drop_last=drop, num_workers=workers)
            iterator = iter(loader)
            say(len(loader), len(iterator), loader.dataset is made, loader.batch_size, loader.num_workers, loader.pin_memory, loader.prefetch_factor)
            say(type(loader) is DataLoader, isinstance(iterator, dataloader._BaseDataLoaderIter), iter(iterator) is iterator)
            say(isinstance(iterator, Iterator), hasattr(iterator, "__next__"), type(loader.sampler).__name__, type(loader.batch_sampler).__name__)
            say(sorted(name for name in vars(loader) if not name.startswith("_stoker")))
            next(iterator)
            say(iterator._num_yielded, len(iterator))


@case
def names_and_signatures() -> None:
    say(DataLoader.__name__, DataLoader.__module__, DataLoader.__qualname__, inspect.signature(DataLoader), inspect.signature(DataLoader.__iter__))
    say([base.__name__ for base in DataLoader.__mro__], DataLoader.__doc__ is not None)
    say(inspect.getsource(DataLoader.__len__)[:40])


@case
def exhausted() -> None:
    for workers in (0, 2):
        iterator = iter(DataLoader(cifar(), 4, num_workers=workers))
        say(sum(1 for _ in iterator), next(iterator, "none left"), next(iterator, "none left"), states())


@case
def continued_later() -> None:
    for workers in (0, 2):
        loader = DataLoader(cifar(), 4, shuffle=True, num_workers=workers)
        iterator = iter(loader)
        say(*(digest(batch) for batch in itertools.islice(iterator, 13)))
        run(loader)
        say(torch.rand(1).item())
        say(*(digest(batch) for batch in iterator), states())


@case
def endless() -> None:
    """The endless loop of GAN and segmentation scripts."""

    def forever(loader: Any) -> Iterator[Any]:
        while True:
            yield from loader

    for workers in (0, 1):
        batches = forever(DataLoader(cifar(), 5, shuffle=True, num_workers=workers, drop_last=True))
        say(*(digest(next(batches)) for _ in range(50)), states())


@case
def cycled_and_restarted() -> None:
    loader = DataLoader(cifar(), 5, shuffle=True, num_workers=1, persistent_workers=True)
    iterator = iter(loader)
    for step in range(45):
        try:
            batch = next(iterator)
        except StopIteration:
            iterator = iter(loader)
            batch = next(iterator)
        say(step, digest(batch), states())


@case
def persistent_broken_off() -> None:
    loader = DataLoader(cifar(), 4, shuffle=True, num_workers=2, persistent_workers=True)
    for stop in (3, 20, 100):
        for place, batch in enumerate(loader):
            say(digest(batch))
            if place == stop:
                break
        say(states())


class Own(DataLoader):
    """A loader of the user's with its own __iter__, as fast loaders and the YOLO family have it."""

    def __iter__(self) -> Iterator[Any]:
        for images, labels in super().__iter__():
            yield images * 2, labels


class Named(DataLoader):
    """A subclass that only adds an argument."""

    def __init__(self, *arguments: Any, title: str, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.title = title


class Wrapper:
    """Moves batches somewhere, and asks the loader inside for the rest."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __iter__(self) -> Iterator[Any]:
        return ([part.to("cpu", torch.float64) for part in batch] for batch in self.inner)


@case
def subclasses() -> None:
    for workers in (0, 2):
        run(Own(cifar(), 4, shuffle=True, num_workers=workers))
        run(Named(cifar(), 4, shuffle=True, num_workers=workers, title="train"))
        run(Wrapper(DataLoader(cifar(), 4, shuffle=True, num_workers=workers)))


@case
def patched_by_the_script() -> None:
    """The script has a patch of DataLoader of its own."""
    original = DataLoader.__iter__
    calls: list[int] = []

    def counted(self: Any) -> Any:
        calls.append(1)
        return original(self)

    DataLoader.__iter__ = counted  # type: ignore[method-assign]
    try:
        run(DataLoader(cifar(), 4, shuffle=True))
    finally:
        DataLoader.__iter__ = original  # type: ignore[method-assign]
    say(len(calls))
    run(DataLoader(cifar(), 4, shuffle=True))


@case
def copied() -> None:
    loader = DataLoader(cifar(), 4, shuffle=True, generator=torch.Generator().manual_seed(4))
    again = copy.deepcopy(loader)
    for one in (loader, again, copy.copy(loader), loader):
        run(one)


@case
def without_batches() -> None:
    for workers in (0, 2):
        run(DataLoader(cifar(), None, num_workers=workers))
        run(DataLoader(cifar(), batch_size=None, sampler=[[0, 1], [2]] * 10) if workers else DataLoader(TensorDataset(torch.arange(9)), None))


@case
def own_collate() -> None:
    def collate(samples: list[Any]) -> Any:
        return Pair(*default_collate(samples))

    def mixed(samples: list[Any]) -> Any:
        images, labels = default_collate(samples)
        return images * random.random() + torch.rand(1), labels

    for workers in (0, 2):
        for function in (collate, mixed, default_collate, lambda samples: default_collate(samples)):
            run(DataLoader(cifar(), 4, shuffle=True, num_workers=workers, collate_fn=function))


class Stream(IterableDataset):
    """An iterable data set."""

    def __iter__(self) -> Iterator[float]:
        for _ in range(30):
            yield torch.rand(1).item()


class Words(Dataset):
    """Texts and dictionaries of the user's own."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"text": f"number {index}", "value": torch.full((2,), index), "draw": random.random(), "array": np.random.rand(2)}


@case
def other_data_sets() -> None:
    for workers in (0, 2):
        run(DataLoader(Stream(), 4, num_workers=workers))
        run(DataLoader(Words(), 4, shuffle=True, num_workers=workers))
        run(DataLoader(list(range(90)), 4, shuffle=True, num_workers=workers))
        run(DataLoader(torch.rand(90, 3), 4, shuffle=True, num_workers=workers))
        run(DataLoader({i: i * i for i in range(90)}, 4, num_workers=workers))


@case
def larger_than_the_data_set() -> None:
    for workers in (0, 2):
        for _ in range(2):
            run(DataLoader(cifar(10), 64, shuffle=True, num_workers=workers))
            run(DataLoader(cifar(10), 64, drop_last=True, num_workers=workers))


def worker_of(image: torch.Tensor) -> torch.Tensor:
    """A transform that asks in which worker it runs."""
    info = get_worker_info()
    return image + (0 if info is None else 10 * info.id + info.num_workers + info.seed % 97 + len(info.dataset))


@case
def asks_for_its_worker() -> None:
    for workers in (0, 1, 3):
        run(DataLoader(cifar(transform=transforms.Compose([CROPPED, worker_of])), 4, num_workers=workers))


def printing(worker: int) -> None:
    """A worker_init_fn that prints."""
    say("worker", worker, "begins")


@case
def init_prints() -> None:
    for _ in range(2):
        run(DataLoader(cifar(), 4, num_workers=1, worker_init_fn=printing))


class Init:
    """A worker_init_fn with a state and a reseeding."""

    def __init__(self) -> None:
        self.epoch = 0

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        np.random.seed((self.epoch * 17 + worker + info.seed) % 2**32)
        random.seed(self.epoch + 100 * worker)
        info.dataset.transform = transforms.Compose([transforms.RandomVerticalFlip(), transforms.ToTensor()])


@case
def init_changes_the_data_set() -> None:
    init = Init()
    loader = DataLoader(cifar(), 4, num_workers=2, worker_init_fn=init)
    for init.epoch in range(2):
        run(loader)
    say(type(loader.dataset.transform.transforms[0]).__name__)


@case
def worker_environment() -> None:
    """Transforms that see in which process they are."""
    import multiprocessing
    import os

    here = os.getpid()

    def where(image: torch.Tensor) -> torch.Tensor:
        return image + float(os.getpid() == here) + 2 * len(multiprocessing.current_process().name.split("-"))

    for workers in (0, 2):
        run(DataLoader(cifar(transform=transforms.Compose([CROPPED, where])), 4, num_workers=workers))


if __name__ == "__main__":
    main()
