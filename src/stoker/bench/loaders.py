"""How many images a second a loader gives when nobody makes it wait: plain DataLoaders beside Stoker's own, in turn."""

from __future__ import annotations

import contextlib
import gc
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from stoker.bench.rounds import waiter
from stoker.measure import Timing, timing

BATCH = 64
PREFETCH = 2
"""torch's default: batches ahead of each worker."""
_WORKER_LIMIT_S = 60
_LEAST_BATCHES = 3
Batches = Callable[[], Iterator[Any]]


@dataclass(frozen=True, kw_only=True)
class Loader:
    """One way to make batches."""

    title: str
    start: Batches
    """Begins anew; its iterator does not end before the measurement does."""
    workers: int
    """Processes; 0: it works in this process."""
    ahead: int
    """Batches that may be ready before anybody asks: they do not count."""


@dataclass(frozen=True, kw_only=True)
class Fed:
    """What a loader gave."""

    timing: Timing
    """Seconds an image."""
    cores: float | None
    """Cores that it kept busy; None: in other processes, not known."""
    failed: str = ""


def plain(dataset: Dataset[Any], workers: int, device: torch.device) -> Loader:
    """Return torch's DataLoader with its defaults, and pinned memory and copies to the device if that is a GPU."""
    gpu = device.type == "cuda"

    def start() -> Iterator[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # more workers than cores is what is being tried
            loader = DataLoader(
                dataset,
                batch_size=BATCH,
                num_workers=workers,
                pin_memory=gpu,
                timeout=_WORKER_LIMIT_S if workers else 0,
                shuffle=False,
                drop_last=True,
            )
            iterator = iter(loader)
        return _moved(iterator, device) if gpu else iterator

    title = f"DataLoader, {workers} worker{'' if workers == 1 else 's'}"
    return Loader(title=title, start=start, workers=workers, ahead=workers * PREFETCH)


def batch_bytes() -> int:
    """Return the size of a float32 batch."""
    return BATCH * 3 * 224 * 224 * 4


def shared_memory_needed(workers: int) -> int:
    """Return bytes of /dev/shm that a DataLoader with this many workers can fill: what is ready, being made and in use."""
    return (workers * (PREFETCH + 1) + 1) * batch_bytes()


def shared_memory_free() -> int | None:
    """Return the free bytes of /dev/shm; None where there is none, and torch uses files instead."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return None


def worker_counts(cores: int, *, quick: bool) -> tuple[int, ...]:
    """Return the numbers of workers that are worth a try."""
    most = min(16, cores)
    return (most,) if quick else tuple(sorted({max(1, most // 2), most}))


def in_turn(loaders: Mapping[str, Loader], device: torch.device, *, rounds: int, sample_s: float) -> dict[str, Fed]:
    """Sample every loader `rounds` times, in turn and every other round in reverse. One that fails is left out from then on, and says why."""
    walls: dict[str, list[float]] = {name: [] for name in loaders}
    cpus: dict[str, list[float]] = {name: [] for name in loaders}
    failed: dict[str, str] = {}
    for number in range(rounds):
        for name in list(loaders) if number % 2 == 0 else reversed(list(loaders)):
            if name in failed:
                continue
            try:
                wall_s, cpu_s = sample(loaders[name], device, sample_s)
            except (RuntimeError, OSError) as error:  # a worker that died, shared memory that ended
                failed[name] = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
                continue
            walls[name].append(wall_s)
            cpus[name].append(cpu_s)
    return {name: _fed(loaders[name], walls[name], cpus[name], failed.get(name, "")) for name in loaders}


def sample(loader: Loader, device: torch.device, sample_s: float) -> tuple[float, float]:
    """Start the loader, take what it had ready, then time whole batches; returns wall and CPU seconds an image."""
    wait = waiter(device)
    iterator = loader.start()
    try:
        for _ in range(loader.ahead + 1):
            next(iterator)
        wait()
        taken, cpu, wall = 0, time.process_time(), time.perf_counter()
        # Workers end their batches at about the same time: only whole rounds of them are counted.
        together = max(1, loader.workers)
        while taken < _LEAST_BATCHES or taken % together or time.perf_counter() - wall < sample_s:
            next(iterator)
            taken += 1
        wait()
        return (time.perf_counter() - wall) / (taken * BATCH), (time.process_time() - cpu) / (taken * BATCH)
    finally:
        with contextlib.suppress(Exception):
            if hasattr(iterator, "close"):
                iterator.close()
        del iterator
        gc.collect()  # ends workers and threads now, not within the next loader's turn


def _fed(loader: Loader, walls: list[float], cpus: list[float], failed: str) -> Fed:
    if not walls:
        return Fed(timing=timing([0.0], [0.0]), cores=None, failed=failed or "it gave nothing")
    cores = statistics.median(cpu / wall for cpu, wall in zip(cpus, walls, strict=True)) if loader.workers == 0 else None
    return Fed(timing=timing(walls, cpus), cores=cores)


def _moved(batches: Iterator[Any], device: torch.device) -> Iterator[Any]:
    for images, labels in batches:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
