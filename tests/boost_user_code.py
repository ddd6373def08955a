"""Code of the user's own in the tests of exact replay: transforms, targets, a data set, a sampler and functions for workers, as scripts have them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler


class Counter:
    """A user's transform with a state: every call darkens a little more, from zero again after seven."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: Any) -> Any:
        self.calls += 1
        shade = self.calls % 7
        return image * (1 - shade / 16) if isinstance(image, torch.Tensor) else image.point(lambda value: max(0, value - shade))


class Mixed:
    """A user's transform that draws from all three libraries at once."""

    def __call__(self, image: Any) -> Any:
        shift = int(torch.randint(0, 9, (1,)).item()) + random.randrange(9) + int(np.random.randint(9))
        return image + shift if isinstance(image, torch.Tensor) else image.point(lambda value: (value + shift) % 256)


class Cutout:
    """The popular cutout of the CIFAR scripts: numpy draws, a mask of ones and zeros."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        y, x = np.random.randint(height), np.random.randint(width)
        mask = np.ones((height, width), np.float32)
        mask[max(0, y - self.size) : y + self.size, max(0, x - self.size) : x + self.size] = 0.0
        return image * torch.from_numpy(mask).expand_as(image)


def darker(image: Any) -> Any:
    """A named function without draws, for PIL images."""
    return image.point(lambda value: value // 2)


CALLABLES: dict[str, Callable[[], Callable[[Any], Any]]] = {
    "counter": Counter,
    "mixed": Mixed,
    "darker": lambda: darker,
    "rgb": lambda: lambda image: image.convert("RGB"),
    "halves": lambda: lambda x: (x > 0.5).float(),
    "noise": lambda: lambda x: x + 0.1 * torch.randn_like(x, dtype=torch.float32),
    "python-noise": lambda: lambda x: x * (1 + random.random()),
    "numpy-noise": lambda: lambda x: x * float(np.random.rand()),
    "flat": lambda: lambda x: x.reshape(-1),
    "contiguous": lambda: lambda x: x.contiguous(),
    "cutout": lambda: Cutout(2),
}

TARGETS: dict[str, Callable[[], Callable[[Any], Any] | None]] = {
    "": lambda: None,
    "is-three": lambda: lambda label: int(label == 3),
    "real": lambda: float,
    "one-hot": lambda: lambda label: torch.eye(10)[int(label) % 10],
    "noisy": lambda: lambda label: int(label) if random.random() < 0.5 else int(torch.randint(0, 10, ()).item()),
}


class Mine(Dataset):
    """A data set of the user's own, with draws from three libraries: nothing that boost may touch."""

    def __init__(self, count: int, size: tuple[int, int], transform: Any) -> None:
        self.images_NHWC = np.random.RandomState(5).randint(0, 256, (count, *size, 3), dtype=np.uint8)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images_NHWC)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, float]]:
        image = Image.fromarray(self.images_NHWC[index])
        image = self.transform(image) if self.transform else torch.from_numpy(np.array(image))
        return image, {"torch": torch.rand(1).item(), "python": random.random(), "numpy": float(np.random.rand())}


def seed_worker(worker_id: int) -> None:
    """The recipe of PyTorch's notes on reproducibility."""
    worker_seed = torch.initial_seed() % 2**32
    np.random.seed(worker_seed)
    random.seed(worker_seed)


def same_seed(worker_id: int) -> None:
    """A recipe that scripts have, wise or not: the same numbers in all workers of an epoch."""
    np.random.seed(1234 + worker_id)
    torch.manual_seed(99)


INITS: dict[str, Callable[[int], None] | None] = {"": None, "recipe": seed_worker, "same": same_seed}


class Backwards(Sampler):
    """A sampler of the user's own, which draws from Python's random while it is asked."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        for i in range(self.count - 1, -1, -1):
            yield i if random.random() < 0.8 else i // 2

    def __len__(self) -> int:
        return self.count
