"""Data and runs for the scripts of benchmarks/boost/: each in a process of its own, plainly or boosted, with its numbers printed to the bit."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cifar import real_pixels, write_batches
from PIL import Image

from stoker.data.sets import Dataset, Resident
from stoker.runner.records import Record, read_records

SCRIPTS = Path(__file__).resolve().parent / "boost"
MISSING = 75
"""Exit status of a script that lacks a package."""
_LIMIT_S = 1800.0
_PHOTO_CLASSES = 4


@dataclass(frozen=True, kw_only=True)
class Wild:
    """One way to run one of the scripts."""

    name: str
    script: str
    arguments: tuple[str, ...] = ()
    ranks: int = 1
    """More than one: under torchrun."""

    def command(self, data: Path, epochs: int) -> list[str]:
        """Return what runs it."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.ranks}"] if self.ranks > 1 else []
        return [sys.executable, *torchrun, str(SCRIPTS / self.script), f"--data={data}", f"--epochs={epochs}", *self.arguments]


ALL = (
    Wild(name="mnist", script="mnist.py"),
    *(Wild(name=f"cifar_{workers}", script="cifar.py", arguments=(f"--workers={workers}",)) for workers in (0, 2, 4)),
    Wild(name="imagefolder", script="imagefolder.py"),
    Wild(name="own_dataset", script="own_dataset.py"),
    Wild(name="blitz", script="blitz.py"),
    Wild(name="tensors", script="tensors.py"),
    Wild(name="subset", script="subset.py"),
    Wild(name="trainer", script="trainer.py"),
    Wild(name="lightning", script="lightning_module.py"),
    Wild(name="timm", script="timm_loader.py"),
    Wild(name="own_loader", script="own_loader.py"),
    Wild(name="ddp", script="ddp.py", ranks=2),
    Wild(name="v2_transforms", script="v2_transforms.py"),
    Wild(name="persistent", script="persistent.py"),
    Wild(name="reproducible", script="reproducible.py"),
    Wild(name="kfold", script="kfold.py"),
    Wild(name="balanced", script="balanced.py"),
    Wild(name="evaluate", script="evaluate.py"),
)
ON_GPU = (Wild(name="resnet18", script="resnet.py", arguments=("--workers=4",)),)
"""Too large for a CPU: benchmarks/boost_gpu.py runs them."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run of a script said and took."""

    status: int
    out: str
    """Its standard output: losses, accuracies, a hash of the weights."""
    err: str
    records: tuple[Record, ...]

    @property
    def missing(self) -> bool:
        """Whether it lacked a package."""
        return self.status == MISSING


def run(command: Sequence[str], *, tier: str | None, skip: int = 10, folder: Path | None = None, **environment: str) -> Run:
    """Run a command plainly (`tier` None) or boosted, recorded in both cases. Raises subprocess.TimeoutExpired after half an hour."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        boost = {"STOKER_BOOST": tier or "record", "STOKER_BOOST_QUIET": "1", "STOKER_BOOST_RECORD": name, "STOKER_BOOST_RECORD_SKIP": str(skip)}
        outer = {key: value for key, value in os.environ.items() if not key.startswith("STOKER_BOOST")}
        done = subprocess.run(
            command, env={**outer, **boost, **environment}, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S
        )
        return Run(status=done.returncode, out=done.stdout, err=done.stderr, records=read_records(Path(name)))


def loaders(run: Run) -> list[dict[str, Any]]:
    """Return what boost noted about the loaders of the first process that recorded."""
    return [note for note in run.records[0].notes if note.get("kind") == "loader"] if run.records else []


def prepare(source: Path | None, folder: Path, *, images: int, photos: int | None = None) -> str:
    """Write the data sets of the scripts into `folder` in torchvision's own formats, and return from what.

    CIFAR-10 with so many training images, MNIST-type grey ones of 28 x 28 (the middle of the same), `photos` photos (None: all) in four folders.
    `source`: the folder with real data; None or not there: random pixels.
    """
    real = source is not None and (source / "cifar10-jpeg.tar.xz").exists()
    pixels = real_pixels(source) if source is not None and real else _noise(images)
    write_batches(pixels, folder, train_images=images, test_images=images // 5)
    for part, resident, count in (("train", pixels.train, images), ("t10k", pixels.test, images // 5)):
        assert isinstance(resident, Resident)
        _write_mnist(folder / "MNIST" / "raw", part, resident, count)
    _photos((source / "photos") if source is not None and (source / "photos").is_dir() else None, folder / "photos", photos)
    return "CIFAR-10 and photos" if real else "random pixels"


def _noise(count: int) -> Dataset:
    rng = np.random.default_rng(0)
    resident = Resident(pixels_NHWC=rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), labels_N=np.arange(count) % 10)
    return Dataset(train=resident, test=resident, classes=tuple(map(str, range(10))), source="random pixels", fingerprint="")


def _write_mnist(folder: Path, part: str, resident: Resident, count: int) -> None:
    """Write the files that torchvision's MNIST reads. Format: idx, as its authors published it."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels_NHWC, labels_N = resident.pixels_NHWC[:count, 2:30, 2:30], resident.labels_N[:count]
    greys_NHW = np.ascontiguousarray(pixels_NHWC.mean(axis=3).astype(np.uint8))
    (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 0x803, len(greys_NHW), 28, 28) + greys_NHW.tobytes())
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, len(labels_N)) + labels_N.astype(np.uint8).tobytes())


def _photos(source: Path | None, folder: Path, most: int | None) -> None:
    files = sorted(source.glob("*.JPEG"))[:most] if source is not None else []
    for number in range(_PHOTO_CLASSES):
        (folder / f"class_{number}").mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        (folder / f"class_{number % _PHOTO_CLASSES}" / file.name).symlink_to(file.absolute())
    rng = np.random.default_rng(0)
    for number in range(0 if files else most or 64):
        pixels = np.kron(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8))
        Image.fromarray(pixels).save(folder / f"class_{number % _PHOTO_CLASSES}" / f"{number:04}.JPEG")
