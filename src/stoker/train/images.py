"""The batches of a recipe: for training, for evaluation, and a few images to look at before."""

from __future__ import annotations

from typing import Any

import torch

from stoker.arithmetic import Arithmetic
from stoker.data.feed import Feed
from stoker.data.sets import Files, Resident
from stoker.data.stream import Stream
from stoker.train.ranks import Ranks
from stoker.train.recipe import Recipe


def training_feed(recipe: Recipe, images: Resident | Files, arithmetic: Arithmetic, ranks: Ranks, *, skip_broken: bool) -> Feed | Stream:
    """Return the shuffled, augmented batches of this rank."""
    shared: dict[str, Any] = {
        "batch_size": recipe.batch_size,
        "device": ranks.device,
        "dtype": arithmetic.dtype,
        "channels_last": arithmetic.channels_last,
        "mean": recipe.mean,
        "std": recipe.std,
        "flip": recipe.flip,
        "seed": recipe.seed,
        "shuffle": True,
        "drop_last": True,
        "rank": ranks.rank,
        "world_size": ranks.world_size,
    }
    if isinstance(images, Resident):
        return Feed(resident=images, padding=recipe.padding, padding_mode=recipe.padding_mode, **shared)
    return Stream(files=images, size=recipe.image_size, train=True, skip_broken=skip_broken, **shared)


def evaluation_feed(recipe: Recipe, images: Resident | Files, arithmetic: Arithmetic, device: torch.device, *, skip_broken: bool) -> Feed | Stream:
    """Return the images in order, as they are, all of them, whole on every rank."""
    count = len(images.labels_N)
    shared: dict[str, Any] = {
        "batch_size": min(recipe.eval_batch_size, count),
        "device": device,
        "dtype": arithmetic.dtype,
        "channels_last": arithmetic.channels_last,
        "mean": recipe.mean,
        "std": recipe.std,
        "flip": "none",
        "seed": recipe.seed,
        "shuffle": False,
        "drop_last": False,
    }
    if isinstance(images, Resident):
        return Feed(resident=images, **shared)
    return Stream(files=images, size=recipe.image_size, train=False, skip_broken=skip_broken, **shared)


def first_images(images: Resident | Files, count: int) -> Resident | Files:
    """Return the first `count` images: to probe with, to prepare a model with."""
    if isinstance(images, Resident):
        return Resident(pixels_NHWC=images.pixels_NHWC[:count], labels_N=images.labels_N[:count])
    return Files(paths=images.paths[:count], labels_N=images.labels_N[:count])
