"""From what a user has to a data set: every kind of source, through the cache."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stoker.data import cache, digits, pixels
from stoker.data.sets import Dataset, Files, Resident
from stoker.data.sources import open_dataset
from stoker.errors import BadValue, BrokenImage, DataInvalid, DataMissing, MissingExtra, StokerError, UnknownName

COLOUR = {"ant": (250, 10, 10), "bee": (10, 250, 10), "cat": (10, 10, 250)}


def opened(path: Path | None, name: str = "folder", *, resident: bool = True, skip_broken: bool = False, seed: int = 0) -> Dataset:
    return open_dataset(name, path, resident=resident, test_fraction=0.25, seed=seed, skip_broken=skip_broken)


def image(colour: tuple[int, ...], size: tuple[int, int] = (8, 6), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(file, "PNG")
    return file.getvalue()


def tree(root: Path, parts: tuple[str, ...] = ("train", "val"), count: int = 4, mode: str = "RGB") -> Path:
    for part in parts:
        for name, colour in COLOUR.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                (root / part / name / f"{number}.png").write_bytes(image((*colour[:2], number), mode=mode))
    return root


def packed(root: Path, path: Path) -> Path:
    files = sorted((file for file in root.rglob("*") if file.is_file()), reverse=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(root.parent))
    else:
        with tarfile.open(path, f"w:{path.suffix[1:].replace('tar', '')}") as tar:
            for file in files:
                tar.add(file, file.relative_to(root.parent))
    return path


def resident(part: Resident | Files) -> Resident:
    assert isinstance(part, Resident)
    return part


def test_a_tree_with_parts(tmp_path: Path) -> None:
    data = opened(tree(tmp_path / "set"))
    assert (data.classes, data.train.images, data.test.images, data.skipped) == (("ant", "bee", "cat"), 12, 12, ())
    train = resident(data.train)
    assert train.pixels_NHWC.shape == (12, 6, 8, 3)
    for index, label in enumerate(train.labels_N):
        assert train.pixels_NHWC[index, 0, 0].tolist() == [*list(COLOUR.values())[label][:2], index % 4]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz", ".zip"])
@pytest.mark.parametrize("parts", [("train", "val"), ("",)])
def test_an_archive_is_the_tree(tmp_path: Path, suffix: str, parts: tuple[str, ...]) -> None:
    root = tree(tmp_path / "set", parts)
    plain, archive = opened(root), opened(packed(root, tmp_path / f"a{suffix}"))
    assert archive.classes == plain.classes
    for ours, other in ((archive.train, plain.train), (archive.test, plain.test)):
        np.testing.assert_array_equal(resident(ours).pixels_NHWC, resident(other).pixels_NHWC)
        assert ours.labels_N.tolist() == other.labels_N.tolist()
    files = opened(tmp_path / f"a{suffix}", resident=False)
    assert isinstance(files.train, Files)
    assert files.fingerprint == archive.fingerprint
    again = opened(tmp_path / f"a{suffix}", resident=False)
    assert isinstance(again.train, Files)
    assert again.train.paths == files.train.paths
    assert [Path(path).read_bytes()[:4] for path in files.train.paths] == [b"\x89PNG"] * files.train.images
    assert files.train.labels_N.tolist() == plain.train.labels_N.tolist()


def test_a_damaged_unpacked_archive_is_unpacked_again(tmp_path: Path) -> None:
    path = packed(tree(tmp_path / "set"), tmp_path / "a.tar")
    first = opened(path, resident=False).train
    assert isinstance(first, Files)
    Path(first.paths[0]).unlink()
    Path(first.paths[1]).write_bytes(b"")
    again = opened(path, resident=False).train
    assert isinstance(again, Files)
    assert again.paths == first.paths
    assert all(Path(path).stat().st_size > 50 for path in again.paths)


def test_grey_stays_one_channel_only_when_all_are_grey(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", mode="L")
    assert resident(opened(root).train).pixels_NHWC.shape == (12, 6, 8, 1)
    (root / "train" / "ant" / "0.png").write_bytes(image((1, 2, 3)))
    data = resident(opened(root).train)
    assert data.pixels_NHWC.shape == (12, 6, 8, 3)
    assert data.pixels_NHWC[0, 0, 0].tolist() == [1, 2, 3]


def test_sizes_that_differ(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    (root / "val" / "cat" / "3.png").write_bytes(image((1, 2, 3), (9, 7)))
    with pytest.raises(DataInvalid, match=r"train/ant/0\.png has 8 x 6 pixels, val/cat/3\.png has 9 x 7") as caught:
        opened(root)
    assert "stoker train folder" in caught.value.hint
    assert opened(root, resident=False).test.images == 12


@pytest.mark.parametrize("suffix", ["", ".tar", ".zip"])
def test_broken_images_are_all_named_or_left_out(tmp_path: Path, suffix: str) -> None:
    root = tree(tmp_path / "set")
    (root / "train" / "ant" / "1.png").write_bytes(image((1, 1, 1))[:40])
    (root / "train" / "bee" / "0.png").write_bytes(b"")
    (root / "val" / "bee" / "2.png").write_bytes(b"no image")
    (root / "val" / "cat" / "3.png").write_bytes(b"no image")
    path = packed(root, tmp_path / f"a{suffix}") if suffix else root
    around = "set/" if suffix else ""
    for _ in range(2):  # decoded, then from the cache
        with pytest.raises(BrokenImage, match=rf"4 of 24 images [\s\S]*{around}train/ant/1\.png: [\s\S]*train/bee/0\.png: [\s\S]*\.\.\."):
            opened(path)
        data = opened(path, skip_broken=True)
        assert data.skipped == tuple(f"{around}{name}.png" for name in ("train/ant/1", "train/bee/0", "val/bee/2", "val/cat/3"))
        assert data.train.labels_N.tolist() == [0] * 3 + [1] * 3 + [2] * 4
        assert data.test.images == 10
        assert resident(data.train).pixels_NHWC[:, 0, 0, 2].tolist() == [0, 2, 3, 1, 2, 3, 0, 1, 2, 3]


def test_more_than_half_broken(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    for file in sorted(root.rglob("*.png"))[:13]:
        file.write_bytes(b"no image")
    with pytest.raises(DataInvalid, match="13 of 24"):
        opened(root, skip_broken=True)


def test_a_class_of_broken_images(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    for file in (root / "val" / "bee").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataInvalid, match="class bee"):
        opened(root, skip_broken=True)


def test_threads_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "set", count=30)
    (root / "val" / "cat" / "3.png").write_bytes(b"no image")
    one = opened(root, skip_broken=True)
    monkeypatch.setattr(pixels, "_THREADS_FROM_PIXELS", 1)
    monkeypatch.setenv("STOKER_CACHE", str(tmp_path / "other"))
    many = opened(root, skip_broken=True)
    np.testing.assert_array_equal(resident(one.train).pixels_NHWC, resident(many.train).pixels_NHWC)
    np.testing.assert_array_equal(resident(one.test).pixels_NHWC, resident(many.test).pixels_NHWC)
    assert one.skipped == many.skipped == ("val/cat/3.png",)


def test_pixels_that_do_not_fit_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_memory_bytes", lambda: 1000)
    with pytest.raises(DataInvalid, match="memory"):
        opened(tree(tmp_path / "set"))


def test_file_names_that_are_not_utf_8(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    (root / "train" / "ant" / "x\udcff.png").write_bytes(image((5, 5, 5)))
    (root / "train" / "ant" / "y\udcff.png").write_bytes(b"broken")
    for path in (root, packed(root, tmp_path / "a.tar")):
        for _ in range(2):
            data = opened(path, skip_broken=True)
            assert data.train.images == 13
            assert data.skipped[0].endswith("train/ant/y\udcff.png")
        files = opened(path, resident=False).train
        assert isinstance(files, Files)
        assert files.images == 14
        with pytest.raises(BrokenImage) as caught:
            opened(path)
        caught.value.message.encode()


# --- the cache ------------------------------------------------------------------------------------------------------


def test_the_second_time_nothing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tree(tmp_path / "set"), tmp_path / "a.tar")
    first = opened(path)
    monkeypatch.setattr(pixels, "gather_pixels", None)
    again = opened(path)
    assert isinstance(resident(again.train).pixels_NHWC, np.memmap)
    np.testing.assert_array_equal(resident(first.train).pixels_NHWC, resident(again.train).pixels_NHWC)
    assert (first.fingerprint, first.classes) == (again.fingerprint, again.classes)
    assert sum(1 for entry in cache.settings.cache_folder().joinpath("datasets").iterdir() if entry.is_dir()) == 1


def test_a_split_by_another_seed_needs_no_other_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "set", ("",), 20)
    first = resident(opened(root).test).pixels_NHWC
    monkeypatch.setattr(pixels, "gather_pixels", None)
    assert (resident(opened(root, seed=1).test).pixels_NHWC != first).any()
    assert (resident(opened(root, seed=0).test).pixels_NHWC == first).all()


def test_changed_data_is_decoded_again(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    first = opened(root)
    file = root / "train" / "ant" / "0.png"
    status = file.stat()
    file.write_bytes(image((77, 10, 10)))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert resident(opened(root).train).pixels_NHWC[0, 0, 0, 0] == 77
    (root / "train" / "ant" / "9.png").write_bytes(image((1, 1, 1)))
    data = opened(root)
    assert data.train.images == 13
    assert data.fingerprint != first.fingerprint
    path = packed(root, tmp_path / "a.tar")
    before = opened(path).fingerprint
    file.unlink()
    packed(root, path)
    assert opened(path).train.images == 12
    assert opened(path).fingerprint != before


@pytest.mark.parametrize("damage", ["pixels.npy", "labels.npy", "meta.json", "cut", "cut header", "empty labels"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    root = tree(tmp_path / "set")
    expected = resident(opened(root).train).pixels_NHWC.copy()
    (entry,) = [folder for folder in (cache.settings.cache_folder() / "datasets").iterdir() if folder.is_dir()]
    if damage.startswith("cut"):
        os.truncate(entry / "pixels.npy", 500 if damage == "cut" else 20)
    elif damage == "empty labels":
        (entry / "labels.npy").write_bytes(b"")
    else:
        (entry / damage).unlink()
    np.testing.assert_array_equal(resident(opened(root).train).pixels_NHWC, expected)
    assert isinstance(resident(opened(root).train).pixels_NHWC, np.memmap)


def test_without_a_writable_cache_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("STOKER_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(cache, "_warned", False)
    root = tree(tmp_path / "set")
    assert opened(root).train.images == opened(root).train.images == 12
    assert capsys.readouterr().err.count("STOKER_CACHE") == 1
    with pytest.raises(DataMissing, match="cannot be unpacked"):
        opened(packed(root, tmp_path / "a.tar"), resident=False)


# --- names and refusals ---------------------------------------------------------------------------------------------


def test_digits() -> None:
    pytest.importorskip("sklearn")
    before = set(sys.modules)
    data = opened(None, "digits")
    assert not {"sklearn.datasets", "torch", "pandas"} & (set(sys.modules) - before)
    from sklearn.datasets import load_digits

    train = resident(data.train)
    assert (data.train.images + data.test.images, train.pixels_NHWC.shape[1:], data.classes) == (1797, (8, 8, 1), tuple("0123456789"))
    assert {int(value) for value in np.unique(train.pixels_NHWC)} <= {round(value * 255 / 16 + 1e-9) for value in range(17)}
    decoded, known = digits.read_digits(), load_digits()
    np.testing.assert_array_equal(np.rint(decoded.pixels_NHWC[..., 0] * (16 / 255)), known.images)
    np.testing.assert_array_equal(decoded.labels_N, known.target)


def test_digits_when_the_file_moved_or_is_damaged(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    expected = digits._table(Path(importlib.util.find_spec("sklearn").submodule_search_locations[0]) / "datasets/data/digits.csv.gz")  # type: ignore
    np.testing.assert_array_equal(digits._table(tmp_path / "gone"), expected)
    (tmp_path / "cut").write_bytes(gzip.compress(b"1,2,3" * 1000)[:-20])
    np.testing.assert_array_equal(digits._table(tmp_path / "cut"), expected)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="scikit-learn"):
        opened(None, "digits")


def test_paths_that_are_nothing(tmp_path: Path) -> None:
    tree(tmp_path / "flowers")
    with pytest.raises(DataMissing) as caught:
        opened(tmp_path / "flower" / "train")
    assert f"did you mean {tmp_path / 'flowers'}?" in caught.value.hint
    with pytest.raises(DataMissing) as caught:
        opened(None)
    assert "--data" in caught.value.hint
    with pytest.raises(UnknownName) as unknown:
        opened(None, "digit")
    assert "digits" in unknown.value.hint
    with pytest.raises(DataMissing):
        opened(tmp_path / ("x" * 300))
    with pytest.raises(DataMissing):
        opened(tmp_path / "a\0b")
    with pytest.raises(DataMissing):
        opened(Path("~nobody-of-that-name/x"))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "notes.txt", tmp_path / "empty", Path("/dev/zero")):
        for as_pixels in (True, False):
            with pytest.raises(DataInvalid):
                opened(path, resident=as_pixels)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_a_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(BadValue):
        open_dataset("digits", None, resident=True, test_fraction=fraction, seed=0, skip_broken=False)


def test_an_npz_by_content_and_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((8, 4, 4), np.uint8), y=np.arange(8) % 2)
    shutil.copy(tmp_path / "a.npz", tmp_path / "b.zip")
    for name in ("a.npz", "b.zip"):
        for as_pixels in (True, False):
            data = opened(tmp_path / name, resident=as_pixels)
            assert (data.train.images, data.test.images, data.classes) == (6, 2, ("0", "1"))
    (tmp_path / "c.npz").write_bytes(b"garbage")
    with pytest.raises(DataInvalid, match=r"c\.npz"):
        opened(tmp_path / "c.npz")


def test_a_folder_name_of_another_file_name_in_an_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a/1.jpg", "b/1.jpg", "a/1.jpg/2.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"12345"))
    for as_pixels in (True, False):
        with pytest.raises(StokerError):
            opened(tmp_path / "a.tar", resident=as_pixels)
