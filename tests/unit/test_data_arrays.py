"""`.npz` files: the names and layouts that people use, and what is no data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoker.data.arrays import read_npz
from stoker.errors import DataInvalid, StokerError

RANDOM = np.random.RandomState(0)
X = RANDOM.randint(0, 256, (12, 8, 6, 3), np.uint8)
Y = np.arange(12) % 3


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


@pytest.mark.parametrize("names", [("pixels", "labels"), ("images", "labels"), ("x", "y"), ("X", "Y"), ("data", "targets")])
def test_one_part(tmp_path: Path, names: tuple[str, str]) -> None:
    decoded = read_npz(saved(tmp_path, **{names[0]: X, names[1]: Y}))
    np.testing.assert_array_equal(decoded.pixels_NHWC, X)
    assert decoded.labels_N.tolist() == Y.tolist()
    assert decoded.labels_N.dtype == np.int64
    assert decoded.classes == ("0", "1", "2")
    assert decoded.train_count is None


@pytest.mark.parametrize("form", ["{word}_{part}", "{part}_{word}"])
def test_keras_and_medmnist(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("x", "y") if form.startswith("{word}") else ("images", "labels")
    arrays: dict[str, Any] = {}
    for part, count in (("train", 12), ("test", 6)):
        arrays[form.format(part=part, word=words[0])] = X[:count]
        arrays[form.format(part=part, word=words[1])] = Y[:count, None].astype(np.uint8)
    decoded = read_npz(saved(tmp_path, **arrays))
    assert decoded.train_count == 12
    assert len(decoded.labels_N) == 18
    arrays |= {key.replace("test", "val"): value[:3] for key, value in arrays.items() if "test" in key}
    assert len(read_npz(saved(tmp_path, **arrays)).labels_N) == 15
    assert "not used" in capsys.readouterr().err


def test_layouts(tmp_path: Path) -> None:
    for array, expected in (
        (X[..., 0], X[..., :1]),
        (X[..., :1], X[..., :1]),
        (X.transpose(0, 3, 1, 2), X),
        (X[..., :1].transpose(0, 3, 1, 2), X[..., :1]),
    ):
        np.testing.assert_array_equal(read_npz(saved(tmp_path, x=array, y=Y)).pixels_NHWC, expected)


def test_class_names_in_the_file(tmp_path: Path) -> None:
    assert read_npz(saved(tmp_path, x=X, y=Y, classes=np.array(["a", "b", "ü"]))).classes == ("a", "b", "ü")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X.astype(np.float32), "y": Y}, "float32, not uint8"),
        ({"x": X[..., :2], "y": Y}, r"shape \(12, 8, 6, 2\)"),
        ({"x": X[:, :0], "y": Y}, "shape"),
        ({"x": X, "y": Y.astype(float)}, "float64"),
        ({"x": X, "y": Y == 1}, "bool"),
        ({"x": X, "y": np.eye(3, dtype=int)[Y]}, "argmax|one integer"),
        ({"x": X, "y": Y[:5]}, "12 images but 5 labels"),
        ({"x": X, "y": Y - 1}, "label -1 of image 0"),
        ({"x": X, "y": Y.astype(np.uint64) + 2**63}, "out of range"),
        ({"x": X, "y": Y + 1}, "class 0 has no image"),
        ({"x": X, "y": Y * 1000}, "go up to 2000"),
        ({"x": X, "y": Y * 0}, "one class only"),
        ({"x": X, "y": Y, "classes": np.array(["a", "b"])}, "label 2 of image 2 .* from 0 to 1"),
        ({"x": X, "y": Y, "classes": np.array(["a", "b", "c", "d"])}, "class d has no image"),
        ({"x": X[:0], "y": Y[:0]}, "no images"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1}, "label 3 of image 2 in y_test"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :4], "y_test": Y}, "different shapes"),
        ({"a": X, "b": Y}, "it holds a, b"),
        ({"x": np.array([{}] * 12, object), "y": Y}, "Object arrays"),
    ],
)
def test_what_is_no_data_set(tmp_path: Path, arrays: dict[str, Any], words: str | None) -> None:
    with pytest.raises(DataInvalid, match=words):
        read_npz(saved(tmp_path, **arrays))


def test_damaged_it_is_never_another_exception(tmp_path: Path) -> None:
    random = np.random.RandomState(5)
    path = saved(tmp_path, x=X, y=Y)
    content = path.read_bytes()
    refused = 0
    for number in range(200):
        damaged = bytearray(content[: random.randint(len(content))] if number % 2 else content)
        for _ in range(5 if damaged else 0):
            damaged[random.randint(len(damaged))] = random.randint(256)
        path.write_bytes(damaged)
        try:
            read_npz(path)
        except StokerError:
            refused += 1
    assert refused > 100
