"""A tree of class folders: which files are images of which class and part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stoker.data.folders import layout, listing
from stoker.data.labels import split
from stoker.errors import DataInvalid

PLAIN = [f"{name}/{number}.jpg" for name in ("dog", "cat", "ant") for number in (10, 2, 1)]


def test_classes_and_images_are_sorted_by_name() -> None:
    laid = layout(PLAIN, [], "x")
    assert laid.classes == ("ant", "cat", "dog")
    assert laid.names[:4] == ("ant/1.jpg", "ant/10.jpg", "ant/2.jpg", "cat/1.jpg")
    assert laid.labels_N.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert laid.train_count is None


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test", "testing", "Val"])
@pytest.mark.parametrize("around", ["", "set/", "a/b/"])
def test_parts_and_folders_around_them(held_out: str, around: str) -> None:
    names = [f"{around}train/{name}" for name in PLAIN] + [f"{around}{held_out}/{name}" for name in PLAIN[::2]]
    laid = layout(names, [], "x")
    assert (laid.classes, laid.train_count, len(laid.names)) == (("ant", "cat", "dog"), 9, 14)
    assert all(f"/{name.split('/')[-2]}/" in name and laid.classes[label] in name for name, label in zip(laid.names, laid.labels_N, strict=True))
    assert all(name.startswith(f"{around}train/") == (index < 9) for index, name in enumerate(laid.names))


def test_validation_before_test_and_the_rest_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{part}/{name}" for part in ("train", "test", "val") for name in PLAIN] + ["sample.jpg"]
    laid = layout(names, [], "x")
    assert {name.split("/")[0] for name in laid.names} == {"train", "val"}
    assert "10 images" in capsys.readouterr().err


def test_images_below_a_class_folder_belong_to_it() -> None:
    laid = layout(["cat/a/1.jpg", "cat/2.jpg", "dog/b/c/3.jpg"], [], "x")
    assert laid.classes == ("cat", "dog")
    assert laid.labels_N.tolist() == [0, 0, 1]


def test_a_class_called_train_is_a_class() -> None:
    assert layout(["train/1.jpg", "bus/1.jpg"], [], "x").classes == ("bus", "train")


@pytest.mark.parametrize(
    ("names", "folders", "words"),
    [
        ([], ["cat"], "no images"),
        (["1.jpg", "2.jpg"], [], "directly in"),
        (["a/1.jpg", "a/2.jpg"], [], "one class only"),
        (["set/train/a/1.jpg", "set/test/a/1.jpg"], [], "one class only"),
        (PLAIN, ["emu"], "class folder emu"),
        (["train/" + name for name in PLAIN] + ["val/" + name for name in PLAIN], ["val/emu"], "class folder emu in x/val"),
        (["train/" + name for name in PLAIN] + ["val/cat/1.jpg", "val/emu/1.jpg"], [], "only train/ has ant, dog; only val/ has emu"),
        (["a/1.jpg", "b\udcff/1.jpg"], [], "not UTF-8"),
    ],
)
def test_what_is_no_data_set(names: list[str], folders: list[str], words: str) -> None:
    with pytest.raises(DataInvalid, match=words):
        layout(names, folders, "x")


def test_listing(tmp_path: Path) -> None:
    for name in ("cat/1.JPG", "cat/.hidden.jpg", "cat/notes.txt", "dog/2.png", ".cache/3.png", "dog/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "emu").mkdir()
    (tmp_path / "owl").symlink_to(tmp_path / "cat")
    (tmp_path / "dog" / "gone.jpg").symlink_to(tmp_path / "nothing")
    listed = listing(tmp_path)
    assert listed.names == ["cat/1.JPG", "dog/2.png", "dog/gone.jpg", "owl/1.JPG"]
    assert listed.folders == ("cat", "dog", "emu", "owl")
    assert [size for _, size, _ in listed.images] == [5, 5, 0, 5]


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    with pytest.raises(DataInvalid, match="above it"):
        listing(tmp_path)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    os.mkfifo(tmp_path / "cat" / "1.jpg")
    with pytest.raises(DataInvalid, match="pipe"):
        listing(tmp_path)


def test_the_split_is_stratified_and_a_function_of_the_seed() -> None:
    laid = layout([f"{name}/{number}.jpg" for name, count in (("a", 100), ("b", 10), ("c", 2)) for number in range(count)], [], "x")
    train, test = split(laid.labels_N, laid.classes, 0.2, 7, "x")
    assert [int((laid.labels_N[test] == label).sum()) for label in range(3)] == [20, 2, 1]
    assert sorted([*train, *test]) == list(range(112))
    again = split(laid.labels_N, laid.classes, 0.2, 7, "x")
    assert (train == again[0]).all()
    assert (test == again[1]).all()
    assert (split(laid.labels_N, laid.classes, 0.2, 8, "x")[1] != test).any()
    assert test[:5].tolist() == [11, 12, 13, 15, 18]  # the same on every machine and with every numpy


def test_a_class_with_one_image_cannot_be_split() -> None:
    laid = layout(["a/1.jpg", "a/2.jpg", "b/1.jpg"], [], "x")
    with pytest.raises(DataInvalid, match="class b has one image"):
        split(laid.labels_N, laid.classes, 0.5, 0, "x")
