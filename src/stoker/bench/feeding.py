"""The second check: copies to the device, and how many images a second the loaders give, decoded already or from JPEGs."""

from __future__ import annotations

import importlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stoker.bench.datasets import MEAN, SIDE, STD, DecodedImages, Photos, torchvision_transform
from stoker.bench.loaders import BATCH, Fed, Loader, in_turn, plain, sample, shared_memory_free, shared_memory_needed, worker_counts
from stoker.bench.photos import write_photos
from stoker.bench.plan import Plan
from stoker.bench.readings import Device, Reading
from stoker.bench.rounds import fitting, free_memory, rated, timed
from stoker.data.feed import Feed
from stoker.data.sets import Files, Resident
from stoker.data.stream import Stream

_COPY_BYTES = 2**28
_LEAST_COPY_BYTES = 2**22
_SYNTHETIC_IMAGES = 256
_LENGTH = 1 << 20
"""No loader comes to the end of its data set while it is measured."""
STOKER = "Stoker"


def copies(device: torch.device, described: Device, plan: Plan) -> list[Reading]:
    """Return the rate of copies from the host to the GPU, out of pageable and of pinned memory; skipped on a CPU."""
    titles = {"pageable": "Copy to the GPU, pageable memory", "pinned": "Copy to the GPU, pinned memory"}
    empty = {name: Reading(name=f"feeding.copy.{name}", title=title, unit="GB/s") for name, title in titles.items()}
    if device.type == "cpu":
        return [replace(reading, skipped="the device is the CPU: nothing is copied") for reading in empty.values()]

    def attempt(size: int) -> list[Reading]:
        pageable = torch.ones(size, dtype=torch.uint8)
        pinned, target = pageable.pin_memory(), torch.empty(size, dtype=torch.uint8, device=device)
        calls: dict[str, Callable[[], object]] = {
            "pageable": lambda: target.copy_(pageable),
            "pinned": lambda: target.copy_(pinned, non_blocking=True),
        }
        timings = timed(calls, device, rounds=plan.rounds, budget_s=plan.ceilings_s)
        return [rated(replace(empty[name], facts={"bytes": size}), timings[name], size / 1e9) for name in calls]

    found = fitting(_COPY_BYTES, _LEAST_COPY_BYTES, attempt, device)[1]
    free_memory(device)
    link = described.sheet.get("link")
    return [replace(reading, ceiling=link / 1e9, ceiling_from="the PCIe link of card and slot") if link else reading for reading in found]


def synthetic(device: torch.device, described: Device, plan: Plan) -> list[Reading]:
    """Return the rates of loaders of images that are decoded already."""
    random = np.random.default_rng(0)
    pixels_NHWC = random.integers(0, 256, (_SYNTHETIC_IMAGES, SIDE, SIDE, 3), np.uint8)
    resident = Resident(pixels_NHWC=pixels_NHWC, labels_N=np.arange(_SYNTHETIC_IMAGES) % 10)
    feed = Feed(resident=resident, **_batches(device))
    own = Loader(title=f"{STOKER}, pixels on the {feed.where}", start=lambda: _endless(feed.epoch), workers=0, ahead=2)
    return _rates("feeding.synthetic", "Decoded images", DecodedImages(pixels_NHWC, _LENGTH), own, device, described, plan)


def jpegs(device: torch.device, described: Device, plan: Plan) -> list[Reading]:
    """Return the rates of loaders of JPEG files, which are made on the spot and removed. Raises DiskFull."""
    try:
        transforms: Any | None = importlib.import_module("torchvision.transforms")
    except Exception:  # not installed, or not of this torch: then it raises whatever its library raises
        transforms = None
    with tempfile.TemporaryDirectory(prefix="stoker-verify-") as folder:
        paths = write_photos(Path(folder), plan.photos)
        facts = {"photos": len(paths), "mean_bytes": sum(Path(path).stat().st_size for path in paths) // len(paths)}
        repeated = paths * -(-8 * BATCH // len(paths))
        stream = Stream(files=Files(paths=repeated, labels_N=np.arange(len(repeated)) % 10), size=SIDE, train=True, **_batches(device))
        own = Loader(title=f"{STOKER}, {described.cores} threads", start=lambda: _endless(stream.epoch), workers=0, ahead=3)
        dataset = Photos(paths, _LENGTH, torchvision_transform(transforms)) if transforms else None
        found = _rates("feeding.jpeg", "JPEG files", dataset, own, device, described, plan)
    free_memory(device)
    return [replace(reading, facts=reading.facts | facts) for reading in found]


def _batches(device: torch.device) -> dict[str, Any]:
    """Return how Stoker is to make its batches: the same numbers as the plain loader, shuffled as in a training."""
    normal = {"mean": MEAN, "std": STD, "dtype": torch.float32, "channels_last": False}
    # Compiling the last operation on a GPU takes longer than this check may.
    return {**normal, "batch_size": BATCH, "device": device, "seed": 0, "shuffle": True, "drop_last": True, "flip": "random", "compiled": False}


def _endless(epoch: Callable[[int], Iterator[Any]]) -> Iterator[Any]:
    for number in itertools.count():
        yield from epoch(number)


def _rates(name: str, title: str, dataset: Any, own: Loader, device: torch.device, described: Device, plan: Plan) -> list[Reading]:
    """Measure plain without workers, plain with the best of a few counts of workers, and Stoker's own, in turn."""
    keys = ("best workers",) if plan.quick else ("0 workers", "best workers")
    readings = [Reading(name=f"{name}.{key}", title=f"{title}, DataLoader, {key}", unit="images/s") for key in keys]
    loaders: dict[str, Loader] = {}
    if dataset is None:
        readings = [replace(reading, skipped="torchvision is not installed, or does not fit this PyTorch") for reading in readings]
    else:
        counts = worker_counts(described.cores, quick=plan.quick)
        if not plan.quick:
            loaders["0 workers"] = plain(dataset, 0, device)
        best, why = _best_workers({count: plain(dataset, count, device) for count in counts}, device, plan)
        if best is None:
            readings[-1] = replace(readings[-1], failed=why)
        else:
            loaders["best workers"] = best
    fed = in_turn(loaders | {STOKER: own}, device, rounds=plan.loader_rounds, sample_s=plan.loader_s)
    readings = [_read(reading, loaders.get(key), fed.get(key), title) for reading, key in zip(readings, keys, strict=True)]
    own_reading = Reading(name=f"{name}.stoker", title=f"{title}, {own.title}", unit="images/s")
    return [*readings, _read(own_reading, own, fed[STOKER], title)]


def _best_workers(candidates: dict[int, Loader], device: torch.device, plan: Plan) -> tuple[Loader | None, str]:
    """Return the fastest of some loaders by one short sample each; None and the reason when none works."""
    free, rates, why = shared_memory_free(), {}, ""
    for count, loader in candidates.items():
        needed = shared_memory_needed(count)
        if free is not None and free < needed:
            why = f"/dev/shm has {free / 1e6:.0f} MB free; {count} worker{'s' if count > 1 else ''} can fill {needed / 1e6:.0f} MB"
            continue
        if len(candidates) == 1:
            return loader, ""
        try:
            rates[count] = 1 / sample(loader, device, plan.loader_s / 2)[0]
        except (RuntimeError, OSError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return (candidates[max(rates, key=lambda count: rates[count])], "") if rates else (None, why)


def _read(reading: Reading, loader: Loader | None, fed: Fed | None, title: str) -> Reading:
    if loader is None or fed is None:
        return reading
    reading = replace(reading, title=f"{title}, {loader.title}", facts={"batch": BATCH, "workers": loader.workers})
    if fed.failed:
        return replace(reading, failed=fed.failed)
    cores = {} if fed.cores is None else {"cores": round(fed.cores, 2)}
    return rated(replace(reading, facts=reading.facts | cores), fed.timing, 1.0)
