"""Loaders over real files in the formats of their data sets, made by torchvision's own classes; boost switched on and off in between."""

from __future__ import annotations

import gzip
import pickle
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms

import stoker.boost
from stoker.boost.notes import NOTES
from tests.boost_pipelines import described, states

STEPS = transforms.Compose([transforms.RandomCrop(28, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()])


@pytest.fixture(autouse=True)
def switched_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test ends with boost off; speed is not judged here."""
    monkeypatch.setattr("stoker.boost.replay.check.Check._slower", lambda self, at_once: False)
    yield
    stoker.boost.off()


def _numbers(*shape: int) -> np.ndarray:
    return np.random.RandomState(len(shape)).randint(0, 256, shape, dtype=np.uint8)


def _cifar(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int = 30) -> Any:
    kind = torchvision.datasets.CIFAR10
    place = folder / kind.base_folder
    place.mkdir()
    for number, (name, _) in enumerate([*kind.train_list, *kind.test_list]):
        entry = {"data": _numbers(count, 3072), "labels": [(i + number) % 10 for i in range(count)]}
        (place / name).write_bytes(pickle.dumps(entry))
    (place / kind.meta["filename"]).write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(kind, name, [[file, None] for file, _ in getattr(kind, name)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    return kind(str(folder), transform=STEPS)


def _mnist(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int = 150) -> Any:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = struct.pack(">IIII", 2051, count, 28, 28) + _numbers(count, 28, 28).tobytes()
        labels = struct.pack(">II", 2049, count) + bytes(i % 10 for i in range(count))
        for name, content in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            (raw / name).write_bytes(content)
            (raw / f"{name}.gz").write_bytes(gzip.compress(content))
    return torchvision.datasets.MNIST(str(folder), transform=STEPS)


def _stl10(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int = 60) -> Any:
    kind = torchvision.datasets.STL10
    place = folder / kind.base_folder
    place.mkdir()
    for name, _ in [*kind.train_list, *kind.test_list]:
        content = _numbers(count, 3 * 96 * 96) if name.endswith("X.bin") else _numbers(count) % 10 + 1
        (place / name).write_bytes(content.astype(np.uint8).tobytes())
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    return kind(str(folder), split="train", transform=STEPS)


def _pictures(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int = 60) -> Any:
    """Files of every kind that ImageFolder takes, the odd ones too."""
    kinds = [
        ("RGB", "jpg"),
        ("L", "jpeg"),
        ("RGBA", "png"),
        ("P", "gif"),
        ("RGB", "bmp"),
        ("RGB", "tiff"),
        ("RGB", "webp"),
        ("I;16", "png"),
        ("LA", "png"),
    ]
    for i in range(count):
        mode, suffix = kinds[i % len(kinds)]
        (folder / f"{i % 4}").mkdir(exist_ok=True)
        height, width = 24 + i % 17, 20 + i % 23
        picture = Image.fromarray(_numbers(height, width, 3))
        picture = Image.fromarray(_numbers(height, width).astype(np.uint16) * 200) if mode == "I;16" else picture.convert(mode)
        picture.save(folder / f"{i % 4}" / f"{i}.{suffix}")
    return torchvision.datasets.ImageFolder(str(folder), transforms.Compose([transforms.RandomResizedCrop(16), transforms.ToTensor()]))


MAKERS = {"cifar10": _cifar, "mnist": _mnist, "stl10": _stl10, "pictures": _pictures}


def _epochs(loader: Any, count: int = 2) -> list[Any]:
    torch.manual_seed(11)
    seen = []
    for _ in range(count):
        seen += [described(batch) for batch in loader]
        seen.append(states()[0])
    return seen


def _replayed() -> int:
    return sum(note.numbers.get("batches", 0) - note.numbers.get("plain_batches", 0) for note in NOTES.kept if note.kind == "loader")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_real_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, workers: int) -> None:
    dataset = MAKERS[name](tmp_path, monkeypatch)
    plain = _epochs(DataLoader(dataset, 5, shuffle=True, num_workers=workers))
    stoker.boost.on("exact")
    boosted = _epochs(DataLoader(dataset, 5, shuffle=True, num_workers=workers))
    assert boosted == plain
    assert _replayed() > 15, [note.why for note in NOTES.kept]


@pytest.mark.parametrize("workers", [0, 2])
def test_switched_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """What was begun under boost is ended as it was begun, and the other way round."""
    dataset = _cifar(tmp_path, monkeypatch)
    plain = _epochs(DataLoader(dataset, 5, shuffle=True, num_workers=workers), 4)
    loader = DataLoader(dataset, 5, shuffle=True, num_workers=workers)
    torch.manual_seed(11)
    seen: list[Any] = []
    for epoch in range(4):
        stoker.boost.on("exact") if epoch % 2 == 0 else stoker.boost.off()
        for place, batch in enumerate(loader):
            seen.append(described(batch))
            if place == 12:
                stoker.boost.off() if epoch % 2 == 0 else stoker.boost.on("exact")
        seen.append(states()[0])
    assert seen == plain


def test_off_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes are the same objects again, and no thread stays."""
    before = dict(vars(DataLoader))
    threads = threading.active_count()
    stoker.boost.on("exact")
    loader = DataLoader(_cifar(tmp_path, monkeypatch), 5, shuffle=True, num_workers=2)
    for _ in range(3):
        list(loader)
    iterator = iter(loader)
    next(iterator)
    del iterator
    stoker.boost.off()
    assert all(vars(DataLoader)[name] is value for name, value in before.items())
    assert vars(DataLoader).keys() == before.keys()
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(20)
    assert threading.active_count() <= threads + 1


def test_other_loaders_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, evaluation and a TensorDataset in one process, as a script has them: rooms and checks of one do not reach another."""
    first = _cifar(tmp_path, monkeypatch)
    second = torchvision.datasets.CIFAR10(str(tmp_path), train=False, transform=transforms.ToTensor())
    third = TensorDataset(torch.rand(90, 3, 28, 28), torch.arange(90))

    def script() -> list[Any]:
        torch.manual_seed(5)
        loaders = [DataLoader(first, 5, shuffle=True, num_workers=2), DataLoader(second, 7), DataLoader(third, 6, shuffle=True)]
        kept, seen = [], []
        for _ in range(2):
            for loader in loaders:
                for batch in loader:
                    kept.append(batch)
                    seen.append(described(batch))
        assert [described(batch) for batch in kept] == seen
        return [*seen, states()]

    plain = script()
    stoker.boost.on("exact")
    assert script() == plain


def test_an_unknown_order_is_declined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch's own source is not one that is known, nothing is replayed, and --explain says so."""

    def changed(self: Any) -> Any:
        return iter(range(3))

    dataset = _cifar(tmp_path, monkeypatch)
    monkeypatch.setattr(torch.utils.data.RandomSampler, "__iter__", changed)
    stoker.boost.on("exact")
    list(DataLoader(dataset, 5))
    assert not _replayed()
    assert any(note.outcome == "declined" and note.why for note in NOTES.kept)
