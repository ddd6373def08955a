"""What a training says of itself: to the person at its start, in the record, and as its result."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from stoker import host
from stoker.console import say
from stoker.data.sets import Dataset
from stoker.runs import surroundings
from stoker.train.loop import Loop
from stoker.train.probe import Choice
from stoker.train.ranks import Ranks
from stoker.train.recipe import Recipe


def record_of(
    recipe: Recipe,
    dataset: Dataset,
    ranks: Ranks,
    *,
    command: list[str],
    data: Path | None,
    skip_broken: bool,
    repeats: str | None,
    lock: str | None,
) -> dict[str, Any]:
    """Return the record with which a run begins."""
    return {
        **surroundings.gather(Path.cwd(), command, lock=lock),
        "recipe": recipe.name,
        "configuration": recipe.as_dict() | {"channels": recipe.channels},
        "seed": recipe.seed,
        "data": {
            "path": str(data.resolve()) if data else None,
            "source": dataset.source,
            "fingerprint": dataset.fingerprint,
            "train_images": len(dataset.train.labels_N),
            "test_images": len(dataset.test.labels_N),
            "classes": list(dataset.classes),
            "skipped": list(dataset.skipped),
            "skip_broken": skip_broken,
        },
        "host": host.facts().as_dict(),
        "gpus": ranks.world_size if ranks.device.type == "cuda" else 0,
        "repeats": repeats,
    }


def result_of(loop: Loop, event: dict[str, Any], *, warm_up_s: float, warm_s: float) -> dict[str, Any]:
    """Return the result of a finished training; `event` is that of its last epoch.

    Clocks: `train_s`, the steps alone; `warm_s`, steps and evaluations without set-up, probe and compiling (`warm_up_s`); `total_s`, from
    the start of the process.
    """
    position, device = loop.position, loop.ranks.device
    return {
        **{key: event[key] for key in ("test_accuracy", "test_loss", "train_accuracy", "train_loss")},
        "best_test_accuracy": position.best_test_accuracy,
        "epochs": position.epoch,
        "steps": position.step,
        "warm_up_s": round(warm_up_s, 3),
        "train_s": round(position.train_s, 3),
        "warm_s": round(warm_s, 3),
        "total_s": round(time.time() - psutil.Process().create_time(), 3),
        "first_step_at": round(loop.first_step_at or time.time(), 3),
        "images_per_s": round(position.step * loop.recipe.batch_size / max(position.train_s, 1e-9), 1),
        "peak_memory_bytes": _peak_memory_bytes(device),
        "checkpoint": f"checkpoints/{loop.checkpoints.paths()[-1].name}",
    }


def say_plan(recipe: Recipe, dataset: Dataset, ranks: Ranks, choices: list[Choice]) -> None:
    """Say what is trained on what, where, and how the step is computed."""
    device = ranks.device
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU with {threads} thread{'s' if threads > 1 else ''}"
    where += "" if ranks.alone else f", {ranks.world_size} processes"
    train_images, test_images = len(dataset.train.labels_N), len(dataset.test.labels_N)
    say(f"{recipe.name}: {recipe.model} on {train_images:,} images of {dataset.source}, {test_images:,} for testing; {where}")
    if dataset.skipped:
        say(f"left out {len(dataset.skipped)} broken images, first: {dataset.skipped[0]}")
    say(f"kept: {_told(choices, kept=True)}; not kept: {_told(choices, kept=False)}")


def _told(choices: list[Choice], *, kept: bool) -> str:
    """Return the choices that were kept, or not, with their reasons; those that share one share the words."""
    names: dict[str, list[str]] = {}
    for choice in choices:
        if choice.kept == kept:
            names.setdefault(choice.why, []).append(choice.name)
    return ", ".join(f"{', '.join(together)} ({why})" for why, together in names.items()) or "nothing"


def _peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this process has held: of the GPU, or resident on the host."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
