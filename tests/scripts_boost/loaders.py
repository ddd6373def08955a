"""Hostile script: unusual loaders, what the script can ask of a loader, and settings of the process around it."""

from __future__ import annotations

import copy
import gc
import inspect
import itertools
import random
import warnings
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torchvision
from stage import CROPPED, case, cifar, digest, main, pictures, say, seed, states
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
        return map(lambda batch: [part.to("cpu", torch.float64) for part in batch], self.inner)


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


@case
def other_default_types() -> None:
    made = {"float64": torch.float64, "bfloat16": torch.bfloat16}
    for name, dtype in made.items():
        torch.set_default_dtype(dtype)
        try:
            for workers in (0, 2):
                say(name)
                run_as_float(DataLoader(cifar(), 4, shuffle=True, num_workers=workers))
                run_as_float(DataLoader(cifar(target_transform=float), 4, num_workers=workers))
                run_as_float(DataLoader(TensorDataset(torch.rand(80, 3)), 4, shuffle=True, num_workers=workers))
        finally:
            torch.set_default_dtype(torch.float32)


def run_as_float(loader: Any) -> None:
    """The same, for types that numpy does not have."""
    for batch in loader:
        say(*(f"{part.dtype} {digest(part.double())}" for part in batch))
    say(states())


@case
def default_device() -> None:
    torch.set_default_device("cpu")
    try:
        for workers in (0, 2):
            run(DataLoader(cifar(), 4, num_workers=workers))
            try:
                run(DataLoader(cifar(), 4, shuffle=True, num_workers=workers))
            except Exception as error:
                say(type(error).__name__, error)
        torch.set_default_device("meta")
        try:
            run(DataLoader(cifar(), 4))
        except Exception as error:
            say(type(error).__name__, str(error)[:80])
    finally:
        torch.set_default_device(None)


@case
def deterministic() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        for workers in (0, 2):
            run(DataLoader(cifar(), 4, shuffle=True, num_workers=workers))
            run(DataLoader(TensorDataset(torch.rand(80, 3)), 4, shuffle=True, num_workers=workers))
    finally:
        torch.use_deterministic_algorithms(False)


@case
def modes_of_autograd() -> None:
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        for workers in (0, 2):
            loader = DataLoader(cifar(), 4, shuffle=True, num_workers=workers)
            with mode():
                for images, labels in loader:
                    say(digest([images, labels]), images.is_inference(), torch.is_inference_mode_enabled(), torch.is_grad_enabled(), images.requires_grad)
            for images, _ in loader:
                say(images.is_inference())
                (images * torch.ones(1, requires_grad=True)).sum().backward()


@case
def inference_in_between() -> None:
    """Entered in the middle of an epoch: batches made ahead must not be what the script would not have got."""
    for workers in (0, 2):
        iterator = iter(DataLoader(cifar(), 4, shuffle=True, num_workers=workers))
        for place in range(24):
            with torch.inference_mode(place % 2 == 1):
                images, labels = next(iterator)
                say(digest([images, labels]), images.is_inference(), labels.is_inference())
            if not images.is_inference():
                images.requires_grad_().sum().backward()


@case
def function_modes() -> None:
    """A torch function mode sees what the script's own calls do."""
    from torch.overrides import TorchFunctionMode

    class Counting(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return function(*args, **(kwargs or {}))

    with Counting():
        for workers in (0, 2):
            run(DataLoader(cifar(), 4, shuffle=True, num_workers=workers))


@case
def pinned_without_a_gpu() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for workers in (0, 2):
            run(DataLoader(cifar(), 4, num_workers=workers, pin_memory=True))
    say(sorted({str(one.message)[:60] for one in caught}))


@case
def warnings_of_loaders() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(DataLoader(cifar(), 4, num_workers=9))
        run(DataLoader(pictures(), 4, num_workers=1))
    say(sorted({(one.category.__name__, str(one.message)[:50], one.filename.rsplit("/", 1)[-1]) for one in caught}))


@case
def seeded_in_the_loop() -> None:
    """The script seeds, draws and restores between batches: with no workers, the transforms see it."""
    for workers in (0, 2):
        for place, batch in enumerate(DataLoader(cifar(), 4, shuffle=True, num_workers=workers)):
            say(digest(batch), states())
            if place == 12:
                seed(77)
            if place == 15:
                torch.set_rng_state(torch.get_rng_state())
                np.random.rand(3)
            if place == 17:
                torch.randperm(999)
            with torch.random.fork_rng():
                torch.rand(1000)


@case
def normal_draws_in_the_loop() -> None:
    """Normal draws leave a half-used pair behind in the generator."""
    for batch in DataLoader(cifar(), 3, shuffle=True):
        say(digest(batch), torch.randn(1).item(), torch.randn(17)[16].item(), torch.randn(()).double().item(), random.gauss(0, 1), np.random.randn())
    say(states())


@case
def shared_generator() -> None:
    """One generator for the sampler of one loader, the loader itself, and the script."""
    generator = torch.Generator().manual_seed(6)
    for workers in (0, 2):
        loader = DataLoader(cifar(), 4, shuffle=True, num_workers=workers, generator=generator)
        other = DataLoader(cifar(), 4, sampler=torch.utils.data.RandomSampler(range(96), replacement=True, generator=generator))
        for one, two in zip(loader, other):
            say(digest(one), digest(two), torch.rand(1, generator=generator).item())
        say(states())


@case
def default_generator_by_name() -> None:
    for workers in (0, 2):
        run(DataLoader(cifar(), 4, shuffle=True, num_workers=workers, generator=torch.default_generator))


@case
def threads_and_garbage() -> None:
    """Thousands of short-lived iterators leave nothing behind."""
    import threading

    made = DataLoader(cifar(), 4, shuffle=True)
    for _ in range(300):
        next(iter(made))
    gc.collect()
    say(threading.active_count() < 12, states())


@case
def other_image_settings() -> None:
    torchvision.set_image_backend("PIL")
    from PIL import ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = True
    made = pictures(36, name="truncated")
    with open(made.samples[20][0], "r+b") as file:
        file.truncate(400)
    for workers in (0, 2):
        run(DataLoader(made, 4, num_workers=workers))
    ImageFile.LOAD_TRUNCATED_IMAGES = False


if __name__ == "__main__":
    main()
