"""The real pictures: CIFAR-10 as 60,000 JPEGs in a .tar.xz, and photos of all sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stoker.data.decode import decode
from stoker.data.sets import Dataset, Files, Resident
from stoker.data.sources import open_dataset
from stoker.errors import DataInvalid

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for this session, so that the pictures are decoded once."""
    return tmp_path_factory.mktemp("cifar10-cache")


@pytest.fixture
def cifar10(data_folder: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("STOKER_CACHE", str(shared_cache))
    return open_dataset("cifar10", data_folder / "cifar10-jpeg.tar.xz", resident=True, test_fraction=0.2, seed=0, skip_broken=False)


def test_all_pictures_are_there(cifar10: Dataset) -> None:
    assert cifar10.classes == CLASSES
    assert cifar10.skipped == ()
    for part, count in ((cifar10.train, 50_000), (cifar10.test, 10_000)):
        assert isinstance(part, Resident)
        assert part.pixels_NHWC.shape == (count, 32, 32, 3)
        assert np.bincount(part.labels_N).tolist() == [count // 10] * 10
        assert (np.diff(part.labels_N) >= 0).all()
    mean = cifar10.train.pixels_NHWC[::7].mean((0, 1, 2)) / 255  # type: ignore[union-attr]
    np.testing.assert_allclose(mean, (0.4914, 0.4822, 0.4465), atol=0.01)  # the published means of CIFAR-10


def test_the_second_time_needs_neither_torch_nor_pillow(cifar10: Dataset, data_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stoker.data.sources import open_dataset; import numpy\n"
        f"path = Path({str(data_folder / 'cifar10-jpeg.tar.xz')!r})\n"
        "data = open_dataset('cifar10', path, resident=True, test_fraction=.2, seed=0, skip_broken=False)\n"
        "assert isinstance(data.train.pixels_NHWC, numpy.memmap)\n"
        "print(data.fingerprint, sorted({'torch', 'PIL', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [cifar10.fingerprint, "[]"], done.stderr


def test_photos_of_many_sizes(data_folder: Path, tmp_path: Path) -> None:
    photos = sorted((data_folder / "photos").glob("*.JPEG"))[:12]
    assert len(photos) == 12
    for index, photo in enumerate(photos):
        folder = tmp_path / "photos" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / photo.name).symlink_to(photo)
        with Image.open(photo) as image:
            np.testing.assert_array_equal(decode(str(photo)), np.asarray(image.convert("RGB")))
    with pytest.raises(DataInvalid, match="differ in size"):
        open_dataset("folder", tmp_path / "photos", resident=True, test_fraction=0.2, seed=0, skip_broken=False)
    data = open_dataset("folder", tmp_path / "photos", resident=False, test_fraction=0.2, seed=0, skip_broken=False)
    assert isinstance(data.train, Files)
    assert (data.train.images, data.test.images) == (10, 2)
