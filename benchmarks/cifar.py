"""CIFAR-10 for the benchmarks, in the files that torchvision's data set reads: no benchmark of its own."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from stoker.data.sets import Dataset, Resident
from stoker.data.sources import open_dataset


def real_pixels(data: Path) -> Dataset:
    """Return CIFAR-10 from `cifar10-jpeg.tar.xz` in the data folder. Raises StokerErrors when it is not there."""
    return open_dataset("cifar10", data / "cifar10-jpeg.tar.xz", resident=True, test_fraction=0.2, seed=0, skip_broken=False)


def write_batches(dataset: Dataset, folder: Path, *, train_images: int, test_images: int) -> Path:
    """Write the first images (shuffled) as the five training batches and the test batch of CIFAR-10; returns `folder`."""
    inside = folder / "cifar-10-batches-py"
    inside.mkdir(parents=True)
    assert isinstance(dataset.train, Resident)
    assert isinstance(dataset.test, Resident)
    train = _shuffled(dataset.train, train_images)
    for number in range(5):
        _write(inside / f"data_batch_{number + 1}", *(part[number::5] for part in train))
    _write(inside / "test_batch", *_shuffled(dataset.test, test_images))
    (inside / "batches.meta").write_bytes(pickle.dumps({"label_names": list(dataset.classes), "num_cases_per_batch": train_images // 5}))
    return folder


def _shuffled(images: Resident, count: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.sort(np.random.default_rng(0).permutation(len(images.labels_N))[:count])
    chosen = np.random.default_rng(1).permutation(chosen)
    return images.pixels_NHWC[chosen], images.labels_N[chosen]


def _write(path: Path, pixels_NHWC: np.ndarray, labels_N: np.ndarray) -> None:
    rows = np.ascontiguousarray(pixels_NHWC.transpose(0, 3, 1, 2)).reshape(len(pixels_NHWC), -1)
    path.write_bytes(pickle.dumps({"data": rows, "labels": labels_N.tolist(), "batch_label": path.name}, protocol=2))
