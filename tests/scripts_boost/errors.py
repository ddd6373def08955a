"""Hostile script: what goes wrong inside a loader must go wrong in the same way, at the same batch, with the same words."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torchvision
from stage import CROPPED, FOLDER, case, cifar, digest, main, pictures, say, states
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from torchvision import transforms


class Fragile(Dataset):
    """Draws from three libraries, and breaks at one sample."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 13:
            raise ValueError(f"sample {index} is broken")
        return torch.tensor([torch.rand(()).item(), random.random(), np.random.rand()])


def each(loader: Any) -> None:
    """Print the batches until something breaks."""
    for batch in loader:
        say(digest(batch), states() if loader.num_workers == 0 else "")


@case
def own_dataset_raises() -> None:
    each(DataLoader(Fragile(), 4))


@case
def own_dataset_raises_in_a_worker() -> None:
    each(DataLoader(Fragile(), 4, num_workers=2))


def _broken(name: str) -> Any:
    made = pictures(48, name=name)
    path = made.samples[37][0]
    with open(path, "wb") as file:
        file.write(b"no picture at all")
    return made


@case
def broken_picture() -> None:
    each(DataLoader(_broken("broken0"), 2, shuffle=True))


@case
def broken_picture_in_a_worker() -> None:
    each(DataLoader(_broken("broken2"), 2, shuffle=True, num_workers=2))


@case
def broken_pixels() -> None:
    made = pictures(48, name="cut")
    with open(made.samples[40][0], "r+b") as file:
        file.truncate(300)
    for workers in (0, 2):
        try:
            each(DataLoader(made, 2, num_workers=workers))
        except OSError as error:
            say(type(error).__name__, error)


@case
def going_on_after_a_broken_picture() -> None:
    iterator = iter(DataLoader(_broken("broken1"), 2, num_workers=2))
    for _ in range(30):
        try:
            say(digest(next(iterator)))
        except StopIteration:
            say("end")
        except Exception as error:
            say(type(error).__name__, str(error)[:60])


@case
def going_on_without_workers() -> None:
    iterator = iter(DataLoader(_broken("broken3"), 2))
    for _ in range(30):
        try:
            say(digest(next(iterator)), states())
        except StopIteration:
            say("end")
        except Exception as error:
            say(type(error).__name__, str(error)[:60])


@case
def missing_picture() -> None:
    made = pictures(48, name="missing")
    (FOLDER / "missing" / "class1" / "028.png").unlink()
    for workers in (0, 2):
        try:
            each(DataLoader(made, 2, num_workers=workers))
        except FileNotFoundError as error:
            say(type(error).__name__, str(error))


@case
def folder_goes_away() -> None:
    made = pictures(48, name="gone")
    for place, batch in enumerate(DataLoader(made, 2)):
        say(digest(batch))
        if place == 15:
            shutil.rmtree(FOLDER / "gone")


class Beyond(Sampler):
    """Asks for a sample that is not there."""

    def __iter__(self) -> Iterator[int]:
        yield from range(60)
        yield 500
        yield 3

    def __len__(self) -> int:
        return 62


@case
def index_out_of_range() -> None:
    for workers in (0, 2):
        try:
            each(DataLoader(cifar(), 4, sampler=Beyond(), num_workers=workers))
        except IndexError as error:
            say(type(error).__name__, str(error))


@case
def subset_out_of_range() -> None:
    each(DataLoader(Subset(cifar(), [*range(60), 96]), 4))


@case
def odd_indices() -> None:
    for wrong in ("7", 2.0, None, [1, 2], True, torch.tensor(4), np.int64(5), np.array([6]), -97):
        try:
            each(DataLoader(cifar(), 2, sampler=[*range(40), wrong, 3, 4]))
        except Exception as error:
            say(type(error).__name__, error)


class Raising(Sampler):
    """Breaks in the middle."""

    def __iter__(self) -> Iterator[int]:
        yield from range(50)
        raise KeyError("sampler")


@case
def sampler_raises() -> None:
    for workers in (0, 2):
        try:
            each(DataLoader(cifar(), 4, sampler=Raising(), num_workers=workers))
        except KeyError as error:
            say(type(error).__name__, error)


class Picky:
    """A transform that breaks at the fiftieth call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 50:
            raise ArithmeticError("fifty")
        return image


@case
def transform_raises() -> None:
    for workers in (0, 2):
        try:
            each(DataLoader(cifar(transform=transforms.Compose([CROPPED, Picky()])), 4, num_workers=workers))
        except ArithmeticError as error:
            say(type(error).__name__, error)


@case
def bad_division() -> None:
    """A pure lambda that breaks at some values only."""
    each(DataLoader(cifar(transform=CROPPED, target_transform=lambda label: 10 // (label - 4)), 2))


@case
def sizes_differ() -> None:
    each(DataLoader(pictures(transform=transforms.ToTensor()), 4))


@case
def crop_too_large() -> None:
    each(DataLoader(cifar(transform=transforms.Compose([transforms.RandomCrop(40), transforms.ToTensor()])), 4))


@case
def wrong_mean() -> None:
    each(DataLoader(cifar(transform=transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5), (1, 1))])), 4))


@case
def no_tensor() -> None:
    each(DataLoader(cifar(transform=transforms.RandomCrop(8)), 4))


@case
def labels_too_short() -> None:
    made = cifar()
    made.targets = made.targets[:70]
    each(DataLoader(made, 4))


@case
def labels_of_two_kinds() -> None:
    made = cifar()
    made.targets[60] = "seven"
    each(DataLoader(made, 4))


@case
def huge_label() -> None:
    made = cifar()
    made.targets[60] = 2**70
    each(DataLoader(made, 4))


def raising_init(worker: int) -> None:
    """A worker_init_fn that raises."""
    raise PermissionError(f"worker {worker} may not")


@case
def init_raises() -> None:
    each(DataLoader(cifar(), 4, num_workers=1, worker_init_fn=raising_init))


@case
def collate_raises() -> None:
    def collate(samples: list[Any]) -> Any:
        raise LookupError(len(samples))

    each(DataLoader(cifar(), 4, collate_fn=collate))


@case
def empty() -> None:
    for count in (0, 1):
        for workers in (0, 2):
            for drop in (False, True):
                loader = DataLoader(cifar(count), 4, num_workers=workers, drop_last=drop)
                say(len(loader), [digest(batch) for batch in loader])
    try:
        DataLoader(cifar(0), 4, shuffle=True)
    except ValueError as error:
        say(error)


@case
def timeouts() -> None:
    for more in ({"timeout": 1}, {"num_workers": 1, "timeout": -1}, {"prefetch_factor": 2}, {"persistent_workers": True}, {"num_workers": -1}):
        try:
            each(DataLoader(cifar(8), 4, **more))
        except Exception as error:
            say(more, type(error).__name__, error)


class NoTargets(torchvision.datasets.CIFAR10):
    """A subclass that changes what matters."""

    def __getitem__(self, index: int) -> Any:
        image, _ = super().__getitem__(index)
        return image


@case
def subclass() -> None:
    made = cifar()
    made.__class__ = NoTargets
    each(DataLoader(made, 4, shuffle=True))


if __name__ == "__main__":
    main()
