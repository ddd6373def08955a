"""Hostile script: settings of the process around a loader: types, devices, modes, generators, warnings."""

from __future__ import annotations

import gc
import random
import warnings
from typing import Any

import numpy as np
import torch
import torchvision
from loaders import run
from stage import CASES, case, cifar, digest, main, pictures, say, seed, states
from torch.utils.data import DataLoader, TensorDataset

CASES.clear()


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
                    say(digest([images, labels]), images.is_inference(), torch.is_grad_enabled(), images.requires_grad)
            for images, _ in loader:
                say(images.is_inference())
                (images * torch.ones(1, requires_grad=True)).sum().backward()


@case
def inference_in_between() -> None:
    """Entered in the middle of an epoch: batches made ahead must not be what the script would not have got.

    Without workers: with them it hangs on the moment at which a batch arrives whether it is an inference tensor.
    """
    for workers in (0,):
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
    say(sorted({(str(one.message)[:60], one.filename.rsplit("/", 1)[-1], one.lineno) for one in caught}))


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
        for one, two in zip(loader, other, strict=False):
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
