"""Hostile script: data sets, transforms and loaders that are changed while they are in use."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torchvision
from stage import CROPPED, case, cifar, digest, main, pictures, say, states
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torchvision import transforms

PLAIN = transforms.ToTensor()


def epochs(dataset: Any, change: Any, *, workers: int = 0, count: int = 3, **more: Any) -> None:
    """Print the epochs; `change(epoch)` comes before each but the first."""
    loader = DataLoader(dataset, 6, shuffle=True, num_workers=workers, **more)
    for epoch in range(count):
        if epoch:
            change(epoch)
        say(epoch, *(digest(batch) for batch in loader), states())


@case
def transform_between_epochs() -> None:
    for workers in (0, 2):
        made = cifar()
        epochs(made, lambda _, made=made: setattr(made, "transform", PLAIN), workers=workers)


@case
def transforms_pair_between_epochs() -> None:
    """`dataset.transforms` is what VisionDataset classes hold beside `dataset.transform`; CIFAR10 does not use it."""
    made = cifar()
    epochs(made, lambda _: setattr(made, "transforms", None))


@case
def transform_in_the_middle() -> None:
    for workers in (0, 2):
        made = cifar()
        loader = DataLoader(made, 4, num_workers=workers)
        for _ in range(2):
            for place, batch in enumerate(loader):
                say(digest(batch))
                if place == 13:
                    made.transform = transforms.Compose([transforms.RandomVerticalFlip(), PLAIN])


@case
def steps_appended() -> None:
    for workers in (0, 2):
        made = cifar(transform=transforms.Compose([transforms.RandomCrop(16, padding=2), PLAIN]))
        epochs(made, lambda _, made=made: made.transform.transforms.append(transforms.RandomErasing(p=1.0)), workers=workers)


@case
def step_parameters() -> None:
    flip, crop = transforms.RandomHorizontalFlip(0.1), transforms.RandomCrop(16, padding=2)
    normalise = transforms.Normalize([0.5] * 3, [0.5] * 3)

    def change(epoch: int) -> None:
        flip.p = 0.9
        crop.padding = 4
        normalise.mean[0] = 0.1 * epoch

    for workers in (0, 2):
        epochs(cifar(transform=transforms.Compose([crop, flip, PLAIN, normalise])), change, workers=workers)


@case
def step_parameters_in_the_middle() -> None:
    flip = transforms.RandomHorizontalFlip(0.0)
    normalise = transforms.Normalize(torch.zeros(3), torch.ones(3))
    loader = DataLoader(cifar(transform=transforms.Compose([flip, PLAIN, normalise])), 4)
    for place, batch in enumerate(loader):
        say(digest(batch), states())
        if place == 12:
            flip.p = 1.0
        if place == 18:
            normalise.mean += 0.25


@case
def targets_between_epochs() -> None:
    for workers in (0, 2):
        made = cifar()

        def change(epoch: int, made: Any = made) -> None:
            made.targets[5:50] = [epoch] * 45

        epochs(made, change, workers=workers)
        epochs(made, lambda _, made=made: setattr(made, "targets", [1.5] * 96), workers=workers)
        epochs(made, lambda _, made=made: setattr(made, "targets", np.arange(96)), workers=workers)
        epochs(made, lambda _, made=made: setattr(made, "targets", torch.arange(96)), workers=workers)


@case
def pixels_between_epochs() -> None:
    for workers in (0, 2):
        made = cifar()

        def change(epoch: int, made: Any = made) -> None:
            made.data[:, epoch] = epoch

        epochs(made, change, workers=workers)
        epochs(made, lambda epoch, made=made: setattr(made, "data", made.data[::-1]), workers=workers)


@case
def pixels_in_the_middle() -> None:
    for workers in (0, 2):
        made = cifar()
        loader = DataLoader(made, 4, num_workers=workers)
        for place, batch in enumerate(loader):
            say(digest(batch))
            if place == 11:
                made.data[:] = 0
                made.targets[:] = [0] * 96


@case
def persistent_workers_do_not_see_it() -> None:
    made = cifar()

    def change(epoch: int) -> None:
        made.data[:] = epoch
        made.targets[:] = [epoch] * 96
        made.transform = PLAIN

    epochs(made, change, workers=2, persistent_workers=True)


@case
def grows_and_shrinks() -> None:
    made = cifar(96)

    def change(epoch: int) -> None:
        made.data = made.data[: 96 - 30 * epoch]

    loader = DataLoader(made, 6, num_workers=2)
    for epoch in range(3):
        change(epoch)
        say(len(loader), *(digest(batch) for batch in loader))


@case
def tensors_in_place() -> None:
    for workers in (0, 2):
        images, labels = torch.rand(90, 5), torch.arange(90)
        made = TensorDataset(images, labels)
        loader = DataLoader(made, 4, shuffle=True, num_workers=workers)
        for _ in range(2):
            for place, batch in enumerate(loader):
                say(digest(batch))
                if place == 15:
                    images.mul_(2)
        made.tensors = (labels, images)
        say(*(digest(batch) for batch in loader))
        labels.resize_(45)
        try:
            say(*(digest(batch) for batch in loader))
        except Exception as error:
            say(type(error).__name__, str(error)[-80:])


@case
def subset_indices() -> None:
    for workers in (0, 2):
        made = Subset(cifar(), list(range(80)))
        epochs(made, lambda _, made=made: made.indices.reverse(), workers=workers)
        epochs(made, lambda _, made=made: setattr(made, "dataset", cifar(transform=PLAIN)), workers=workers)


@case
def concatenated() -> None:
    first, second = cifar(40), cifar(50, PLAIN)
    second.transform = transforms.Compose([transforms.CenterCrop(16), PLAIN])
    made = ConcatDataset([first, second])
    epochs(made, lambda _: made.datasets.reverse())


@case
def pictures_rewritten() -> None:
    for workers in (0, 2):
        made = pictures(36, name=f"rewritten{workers}")

        def change(epoch: int, made: Any = made) -> None:
            with open(made.samples[9][0], "rb") as file, open(made.samples[8][0], "rb") as other:
                one, two = file.read(), other.read()
            for path, content in ((made.samples[9][0], two), (made.samples[8][0], one)):
                with open(path, "wb") as file:
                    file.write(content)

        epochs(made, change, workers=workers)


@case
def samples_shuffled() -> None:
    made = pictures()
    epochs(made, lambda _: random.shuffle(made.samples))
    epochs(made, lambda _: made.samples.__setitem__(3, (made.samples[4][0], 77)), workers=2)


@case
def another_decoder() -> None:
    made = pictures()

    def dark(path: str) -> Any:
        return torchvision.datasets.folder.pil_loader(path).point(lambda value: value // 3)

    epochs(made, lambda _: setattr(made, "loader", dark))


@case
def class_patched() -> None:
    made = cifar()
    kind = type(made)
    original = kind.__getitem__

    def swapped(self: Any, index: int) -> Any:
        image, label = original(self, index)
        return image, label + 100

    def change(epoch: int) -> None:
        kind.__getitem__ = swapped

    try:
        epochs(made, change)
        epochs(made, lambda _: None, workers=2)
    finally:
        kind.__getitem__ = original


@case
def library_patched() -> None:
    """Somebody patches a transform of torchvision itself, as augmentation libraries do."""
    original = transforms.RandomHorizontalFlip.forward

    def never(self: Any, image: Any) -> Any:
        torch.rand(2)
        return image

    made = cifar()
    try:
        epochs(made, lambda _: setattr(transforms.RandomHorizontalFlip, "forward", never))
        epochs(cifar(), lambda _: None, workers=2)
    finally:
        transforms.RandomHorizontalFlip.forward = original


@case
def functional_patched() -> None:
    original = torchvision.transforms.functional.hflip
    made = cifar()
    try:
        epochs(made, lambda _: setattr(torchvision.transforms.functional, "hflip", lambda image: torchvision.transforms.functional.vflip(image)))
    finally:
        torchvision.transforms.functional.hflip = original


@case
def loader_attributes() -> None:
    made = cifar()
    loader = DataLoader(made, 4, shuffle=True)
    say(*(digest(batch) for batch in loader))
    for name, value in (("batch_size", 3), ("dataset", made), ("sampler", None), ("drop_last", True)):
        try:
            setattr(loader, name, value)
        except ValueError as error:
            say(error)
    loader.collate_fn = lambda samples: len(samples)
    say(*loader)
    loader = DataLoader(made, 4, shuffle=True)
    say(*(digest(batch) for batch in loader))
    loader.num_workers, loader.prefetch_factor = 2, 2
    say(*(digest(batch) for batch in loader))
    loader.generator = torch.Generator().manual_seed(5)
    say(*(digest(batch) for batch in loader), states())


@case
def sampler_edited() -> None:
    order = list(range(96))
    loader = DataLoader(cifar(), 4, sampler=order)
    for _ in range(2):
        for place, batch in enumerate(loader):
            say(digest(batch))
            if place == 14:
                order.reverse()


@case
def counting() -> None:
    """Transforms with a state, in this process and in workers (where each has a copy of its own)."""
    seen: list[int] = []

    def note(image: torch.Tensor) -> torch.Tensor:
        seen.append(len(seen))
        return image + len(seen)

    for workers in (0, 2):
        for kind in ("lambda", "function"):
            step = transforms.Lambda(note) if kind == "lambda" else note
            epochs(cifar(transform=transforms.Compose([CROPPED, step])), lambda _: None, workers=workers)
            say(len(seen), sum(seen))


@case
def global_switch() -> None:
    """A harmless lambda that reads a global which the script changes."""
    global LEVEL
    for workers in (0, 2):
        LEVEL = 0.0

        def change(epoch: int) -> None:
            global LEVEL
            LEVEL = epoch / 4

        epochs(cifar(transform=transforms.Compose([CROPPED, transforms.Lambda(lambda x: x + LEVEL)])), change, workers=workers)  # noqa: B023


LEVEL = 0.0


@case
def global_switch_in_the_middle() -> None:
    global LEVEL
    for workers in (0, 2):
        LEVEL = 0.0
        loader = DataLoader(cifar(transform=transforms.Compose([CROPPED, lambda x: x + LEVEL])), 4, num_workers=workers)  # noqa: B023
        for batch in loader:
            say(digest(batch))
            LEVEL += 1


@case
def closure_switch() -> None:
    for workers in (0, 2):
        level = 0

        def label(value: int) -> int:
            return value + level  # noqa: B023

        loader = DataLoader(cifar(target_transform=label), 4, num_workers=workers)
        for batch in loader:
            say(digest(batch))
            level += 1


if __name__ == "__main__":
    main()
