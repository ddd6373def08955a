"""The pickled CIFAR batches: read whole, and without running what a pickle asks for."""

from __future__ import annotations

import os
import pickle
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoker.data.cifar import KINDS, archive_batches, find_batches, read_archive, read_folder
from stoker.errors import DataInvalid, StokerError

TEN, HUNDRED = KINDS
NAMES = [f"class{number}" for number in range(10)]


def batch(seed: int, count: int = 10, labels: str = "labels") -> dict[str, Any]:
    return {"data": np.random.RandomState(seed).randint(0, 256, (count, 3072), np.uint8), labels: [index % 10 for index in range(count)]}


def made(root: Path, protocol: int = 2) -> Path:
    folder = root / TEN.folder
    folder.mkdir(exist_ok=True)
    for number, name in enumerate((*TEN.train, TEN.test)):
        (folder / name).write_bytes(pickle.dumps(batch(number), protocol))
    (folder / TEN.meta).write_bytes(pickle.dumps({"label_names": NAMES, "num_vis": 3072}, protocol))
    return folder


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_the_folder(tmp_path: Path, protocol: int) -> None:
    folder = made(tmp_path, protocol)
    assert find_batches(tmp_path) == find_batches(folder) == (folder, TEN)
    decoded = read_folder(folder, TEN)
    assert (decoded.classes, decoded.train_count, decoded.pixels_NHWC.shape) == (tuple(NAMES), 50, (60, 32, 32, 3))
    expected = batch(1)["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(decoded.pixels_NHWC[10:20], expected)
    assert decoded.labels_N[10:20].tolist() == list(range(10))


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """As the published files are: byte strings as keys and the array's content as a string."""
    pixels = batch(0)["data"]
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01M\x0a\x00M\x00\x0c\x86"
        b"cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + pixels.nbytes.to_bytes(4, "little") + pixels.tobytes() + b"tbU\x06labelsq\x08]q\x09("
        + b"".join(b"K" + bytes([index]) for index in range(10)) + b"eu."
    )  # fmt: skip
    folder = made(tmp_path)
    (folder / "data_batch_1").write_bytes(content)
    decoded = read_folder(folder, TEN)
    np.testing.assert_array_equal(decoded.pixels_NHWC[:10], pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def test_the_archive_is_the_folder(tmp_path: Path) -> None:
    folder = made(tmp_path)
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        archive.add(folder, TEN.folder)
    assert archive_batches(tmp_path / "cifar.tar.gz") == TEN
    packed, plain = read_archive(tmp_path / "cifar.tar.gz", TEN), read_folder(folder, TEN)
    np.testing.assert_array_equal(packed.pixels_NHWC, plain.pixels_NHWC)
    assert packed.labels_N.tolist() == plain.labels_N.tolist()


def test_cifar_100(tmp_path: Path) -> None:
    folder = tmp_path / HUNDRED.folder
    folder.mkdir()
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(batch(0, 20, "fine_labels"), 2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES}, 2))
    assert find_batches(tmp_path) == (folder, HUNDRED)
    assert read_folder(folder, HUNDRED).train_count == 20


class Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Hostile(os.system, "touch HACKED"),
        Hostile(eval, "open('HACKED', 'w')"),
        {"data": Hostile(getattr, 5, "real")},
        {"data": np.array([Hostile(os.system, "touch HACKED")], object), "labels": [0]},
        {"data": np.zeros((1, 3072)), "labels": [0]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": ["0"]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [10**30]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [10]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [-1]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [1, 2]},
        {"data": np.zeros((1, 3000), np.uint8), "labels": [1]},
        {"labels": [1]},
        [1, 2, 3],
        None,
    ],
)
def test_a_hostile_or_wrong_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.chdir(tmp_path)
    folder = made(tmp_path)
    (folder / "data_batch_3").write_bytes(pickle.dumps(value))
    with pytest.raises(DataInvalid, match="data_batch_3"):
        read_folder(folder, TEN)
    assert not (tmp_path / "HACKED").exists()


def test_a_few_bytes_cannot_ask_for_gigabytes(tmp_path: Path) -> None:
    folder = made(tmp_path)
    (folder / "data_batch_1").write_bytes(b"\x80\x04]r\xff\xff\xff\x7f.")
    with pytest.raises(DataInvalid, match="data_batch_1"):
        read_folder(folder, TEN)


@pytest.mark.parametrize("name", TEN.files)
def test_a_missing_batch_is_named(tmp_path: Path, name: str) -> None:
    folder = made(tmp_path)
    (folder / name).unlink()
    with pytest.raises(DataInvalid, match=f"{name} is missing"):
        read_folder(folder, TEN)


def test_damaged_it_is_never_another_exception(tmp_path: Path) -> None:
    random.seed(6)
    folder = made(tmp_path)
    content = (folder / "data_batch_2").read_bytes()
    structure = [*range(200), *range(len(content) - 60, len(content))]
    refused = 0
    for number in range(200):
        damaged = bytearray(content[: random.randrange(len(content))] if number % 4 == 0 else content)
        for at in random.sample(structure, 3):
            if at < len(damaged):
                damaged[at] = random.randrange(256)
        (folder / "data_batch_2").write_bytes(damaged)
        try:
            read_folder(folder, TEN)
        except StokerError:
            refused += 1
    assert refused > 100
