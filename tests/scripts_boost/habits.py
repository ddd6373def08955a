"""Hostile script: habits of public scripts and libraries that reach into loaders, transforms and data sets."""

from __future__ import annotations

import os
import queue
import random
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torchvision
from stage import CROPPED, case, cifar, digest, main, pictures, say, seed, states
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision import transforms
from torchvision.transforms import v2

PLAIN = transforms.ToTensor()


def run(loader: Any) -> None:
    """One epoch, printed; or what it raised."""
    try:
        for batch in loader:
            say(digest(batch), *(part.stride() for part in batch if isinstance(part, torch.Tensor)))
    except Exception as error:
        say(type(error).__name__, str(error).splitlines()[-1][:150] if str(error) else "")
    say(states())


def both(dataset: Any, **more: Any) -> None:
    """Without workers and with two, two epochs each."""
    for workers in (0, 2):
        loader = DataLoader(dataset, 5, shuffle=True, num_workers=workers, **more)
        run(loader)
        run(loader)


def with_step(*steps: Any) -> Any:
    """A CIFAR10 with other transforms."""
    return cifar(transform=transforms.Compose(list(steps)))


class Repeat:
    """The batch sampler of timm's MultiEpochsDataLoader and YOLO's InfiniteDataLoader: it never ends."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from iter(self.sampler)


class MultiEpochs(DataLoader):
    """A loader that keeps one iterator for all epochs."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._DataLoader__initialized = False
        self.batch_sampler = Repeat(self.batch_sampler)
        self._DataLoader__initialized = True
        self.iterator = super().__iter__()

    def __len__(self) -> int:
        return len(self.batch_sampler.sampler)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(len(self)):
            yield next(self.iterator)


@case
def one_iterator_for_all_epochs() -> None:
    for workers in (0, 2):
        loader = MultiEpochs(cifar(), 5, shuffle=True, num_workers=workers)
        for _ in range(3):
            run(loader)


class Background(threading.Thread):
    """prefetch_generator's BackgroundGenerator, as many repositories use it."""

    def __init__(self, source: Any) -> None:
        super().__init__(daemon=True)
        self.line: queue.Queue[Any] = queue.Queue(3)
        self.source = source
        self.start()

    def run(self) -> None:
        for item in self.source:
            self.line.put(item)
        self.line.put(None)

    def __iter__(self) -> Iterator[Any]:
        while (item := self.line.get()) is not None:
            yield item


class Behind(DataLoader):
    """DataLoaderX: its iterator is made in this thread and used in another."""

    def __iter__(self) -> Any:
        return iter(Background(super().__iter__()))


@case
def used_in_the_background() -> None:
    for data in (cifar(), with_step(CROPPED, transforms.Lambda(lambda x: x + torch.randn_like(x))), with_step(CROPPED, Dotted())):
        loader = Behind(data, 5, shuffle=True, num_workers=2)
        for _ in range(2):
            for batch in loader:
                say(digest(batch), torch.rand(1).item(), random.random(), np.random.rand())


class Dotted:
    """Erases one value, with draws of all three libraries."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        image[0, random.randrange(16), np.random.randint(16)] = torch.rand(())
        return image


@case
def a_thread_that_draws() -> None:
    """Clients of clouds and trackers draw their waiting times from `random` in threads of their own; workers have never minded."""
    for data in (cifar(), with_step(CROPPED, transforms.Lambda(lambda x: x + torch.randn_like(x))), with_step(CROPPED, Dotted())):
        on = True

        def draw() -> None:
            while on:  # noqa: B023
                random.random(), torch.rand(3), np.random.rand()
                time.sleep(0)

        thread = threading.Thread(target=draw)
        loader = DataLoader(data, 5, sampler=list(range(96)), num_workers=2, generator=torch.Generator().manual_seed(1))
        thread.start()
        try:
            for _ in range(3):
                say(*(digest(batch) for batch in loader))
        finally:
            on = False
            thread.join()
    seed()


@case
def shut_down_by_hand() -> None:
    for persistent in (False, True):
        loader = DataLoader(cifar(), 5, shuffle=True, num_workers=2, persistent_workers=persistent)
        iterator = iter(loader)
        say(*(digest(next(iterator)) for _ in range(12)))
        iterator._shutdown_workers()
        loader._iterator = None
        del iterator
        run(loader)


@case
def hooks_and_overrides() -> None:
    def hooked(kind: str) -> Any:
        step = transforms.RandomHorizontalFlip()
        if kind == "hook":
            step.register_forward_hook(lambda module, inputs, output: output.rotate(90))
        elif kind == "pre":
            step.register_forward_pre_hook(lambda module, inputs: (inputs[0].rotate(90),))
        elif kind == "forward":
            step.forward = lambda image: image.rotate(180)
        elif kind == "call":
            step.__call__ = lambda image: image.rotate(180)
        return step

    for kind in ("hook", "pre", "forward", "call"):
        both(with_step(hooked(kind), PLAIN))
    crop = transforms.RandomCrop(12)
    crop.get_params = lambda image, size: (1, 2, 12, 12)
    both(with_step(crop, PLAIN))
    normalise = transforms.Normalize((0.5,) * 3, (0.5,) * 3)
    normalise.register_forward_hook(lambda module, inputs, output: output * 2)
    both(with_step(PLAIN, normalise))
    compose = transforms.Compose([PLAIN])
    compose.__class__ = Louder
    both(cifar(transform=compose))


class Louder(transforms.Compose):
    """A subclass of Compose with its own call."""

    def __call__(self, image: Any) -> Any:
        return super().__call__(image) * 3


@case
def hooks_come_later() -> None:
    """Hooks and methods that are set while the loader is in use."""
    for workers in (0, 2):
        for change in ("hook", "forward", "global"):
            step, handle = transforms.RandomHorizontalFlip(), None
            loader = DataLoader(with_step(step, PLAIN), 4, num_workers=workers)
            for place, batch in enumerate(loader):
                say(digest(batch))
                if place == 12 and change == "hook":
                    step.register_forward_hook(lambda module, inputs, output: output.rotate(90))
                elif place == 12 and change == "forward":
                    step.forward = lambda image: image.rotate(180)
                elif place == 12:
                    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output.rotate(90))
            run(loader)
            if handle:
                handle.remove()


class Cropped(transforms.RandomCrop):
    """Overrides how parameters are drawn."""

    @staticmethod
    def get_params(image: Any, output_size: Any) -> Any:
        return random.randint(0, 3), random.randint(0, 3), *output_size


class Flipped(transforms.RandomHorizontalFlip):
    """Overrides nothing that matters, but its name."""

    def __repr__(self) -> str:
        return "Flipped"


class Ours(torchvision.datasets.CIFAR10):
    """A subclass with a transform of its own, as a property."""

    @property
    def transform(self) -> Any:
        return PLAIN if len(self.targets) % 2 == 0 else CROPPED

    @transform.setter
    def transform(self, value: Any) -> None:
        pass


class Shorter(torchvision.datasets.CIFAR10):
    """A subclass that says it is shorter."""

    def __len__(self) -> int:
        return 30


class Many(torchvision.datasets.CIFAR10):
    """A subclass with __getitems__."""

    def __getitems__(self, indices: list[int]) -> Any:
        return [super(Many, self).__getitem__(i // 2) for i in indices]


class Same(torchvision.datasets.CIFAR10):
    """A subclass that changes nothing that matters."""

    note = "mine"


@case
def subclasses() -> None:
    both(with_step(Cropped(12), Flipped(), PLAIN))
    for kind in (Ours, Shorter, Many, Same):
        made = cifar()
        made.__class__ = kind
        both(made)


@case
def default_dtype_in_the_middle() -> None:
    for workers in (0, 2):
        try:
            for place, batch in enumerate(DataLoader(cifar(), 5, shuffle=True, num_workers=workers)):
                say(batch[0].dtype, digest(batch))
                if place == 12:
                    torch.set_default_dtype(torch.float64)
        finally:
            torch.set_default_dtype(torch.float32)


@case
def another_folder() -> None:
    """os.chdir while pictures with relative paths are read: workers stay where they were."""
    here = os.getcwd()
    for workers in (0, 1):
        loader = DataLoader(pictures(), 3, num_workers=workers)
        try:
            for place, batch in enumerate(loader):
                say(digest(batch))
                if place == 5:
                    os.chdir("/")
        except Exception as error:
            say(type(error).__name__, error)
        finally:
            os.chdir(here)


@case
def warnings_are_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (cifar(), pictures(), TensorDataset(torch.rand(90, 3)), with_step(transforms.ColorJitter(0.3), PLAIN), with_step(v2.ToImage())):
            both(data)


@case
def numpy_errors_raise() -> None:
    with np.errstate(all="raise"):
        for data in (cifar(), pictures(), TensorDataset(torch.rand(90, 3))):
            both(data)


class Seeding:
    """A transform that seeds by what it sees, as deterministic augmentations do."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(int(image.sum() * 10))
        random.seed(int(image.sum() * 10))
        np.random.seed(int(image.mean().abs() * 1000))
        return image + torch.rand(()) + random.random() + np.random.rand()


@case
def transforms_that_seed() -> None:
    both(with_step(CROPPED, Seeding()))
    both(with_step(CROPPED, transforms.Lambda(lambda x: x + torch.rand((), generator=torch.Generator().manual_seed(4)))))
    state = torch.Generator().manual_seed(9)
    both(with_step(CROPPED, transforms.Lambda(lambda x: x + torch.rand((), generator=state))))
    own = np.random.default_rng(4)
    both(with_step(CROPPED, transforms.Lambda(lambda x: x + own.random())))
    mine = random.Random(5)
    both(with_step(CROPPED, transforms.Lambda(lambda x: x + mine.random())))


@case
def a_slow_switch_interval() -> None:
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(30.0)
    try:
        both(cifar())
        both(pictures())
    finally:
        sys.setswitchinterval(before)


@case
def one_data_set_for_two_loaders() -> None:
    """Training and evaluation share the data set and switch its transform, in turn."""
    made = cifar()
    train, test = DataLoader(made, 5, shuffle=True), DataLoader(made, 7)
    for _ in range(2):
        made.transform = CROPPED
        run(train)
        made.transform = PLAIN
        run(test)
        ahead = iter(test)
        say(digest(next(ahead)))
        made.transform = CROPPED
        say(*(digest(next(ahead)) for _ in range(10)))


@case
def evaluation_with_changes() -> None:
    """Loaders without draws may read ahead: what the script changes in between must still be seen."""
    for change in ("data", "targets", "tensor", "indices"):
        made: Any = cifar(transform=PLAIN)
        tensors = TensorDataset(torch.arange(300.0))
        part = Subset(made, list(range(90)))
        source = {"tensor": tensors, "indices": part}.get(change, made)
        for place, batch in enumerate(DataLoader(source, 5)):
            say(digest(batch))
            if place % 4 == 3 and change == "data":
                made.data[5 * place :] //= 2
            elif place % 4 == 3 and change == "targets":
                made.targets[(5 * place + 5) % 96] = -place
            elif place % 4 == 3 and change == "tensor":
                tensors.tensors[0].add_(1000)
            elif place % 4 == 3:
                part.indices[(5 * place + 6) % 90] = 3


if __name__ == "__main__":
    main()
