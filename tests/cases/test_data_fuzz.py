"""Hostile and damaged archives from end to end: a refusal or a right data set, and never a file outside the cache."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stoker.data.sets import Files, Resident
from stoker.data.sources import open_dataset
from stoker.errors import StokerError, UnsafeArchive


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (16, 16, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def write(path: Path, entries: list[tuple[str, bytes]], links: list[tuple[str, str, bytes]] = []) -> None:  # noqa: B006
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries:
                archive.writestr(name, content)
        return
    with tarfile.open(path, f"w:{path.suffix[1:].replace('tar', '')}") as tar:
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


ENTRIES = [(f"train/{name}/{number}.jpg", jpeg(number)) for name in ("a", "b") for number in range(6)]
ENTRIES += [(name.replace("train", "val"), content) for name, content in ENTRIES]


def contents_of(part: Resident | Files) -> list[bytes]:
    if isinstance(part, Resident):
        return [pixels_HWC.tobytes() for pixels_HWC in part.pixels_NHWC]
    return [Path(path).read_bytes() for path in part.paths]


def opened(path: Path, resident: bool) -> tuple[list[bytes], list[int]]:
    data = open_dataset("folder", path, resident=resident, test_fraction=0.2, seed=0, skip_broken=False)
    return contents_of(data.train) + contents_of(data.test), [*data.train.labels_N.tolist(), *data.test.labels_N.tolist()]


def outside(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if "cache" not in path.relative_to(root).parts[:1]}


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz", ".zip"])
def test_cut_off_or_damaged(tmp_path: Path, suffix: str, resident: bool) -> None:
    random.seed(f"{suffix}{resident}")
    path = tmp_path / f"data{suffix}"
    write(path, ENTRIES)
    whole, content, before = opened(path, resident), path.read_bytes(), outside(tmp_path)
    refused = failed = 0
    for number in range(100):
        damaged = bytearray(content)
        if number < 50:
            del damaged[random.randrange(len(content)) :]
        else:
            at = random.randrange(len(content))
            damaged[at : at + 4] = random.randbytes(random.randint(0, 8))
        path.write_bytes(damaged)
        try:
            found = opened(path, resident)
        except StokerError as error:
            failed += 1
            refused += bool(error.message and error.hint)
        else:
            # A tar has no checksum over its data: pixels may differ when a byte of a JPEG does, and names when they do. A cut never passes.
            assert number >= 50 or found == whole
        assert outside(tmp_path) == before
    assert refused == failed >= 40


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("../../outside.jpg", []),
        ("/tmp/stoker-outside.jpg", []),
        ("train/a/link/x.jpg", [("train/a/link", "../../..", tarfile.SYMTYPE)]),
        ("train/a/x.jpg", [("train/a/x.jpg", "/tmp/stoker-outside.jpg", tarfile.SYMTYPE)]),
        ("train/a/x.jpg", [("train/a/y.jpg", "/etc/passwd", tarfile.LNKTYPE)]),
        ("train/a/0.jpg", []),
    ],
)
def test_hostile_members(tmp_path: Path, name: str, links: list[tuple[str, str, bytes]], resident: bool) -> None:
    for suffix in (".tar", ".tar.xz") if links else (".tar", ".zip"):
        path = tmp_path / f"data{suffix}"
        with pytest.warns(UserWarning, match="Duplicate name") if suffix == ".zip" and name == "train/a/0.jpg" else _nothing():
            write(path, [*ENTRIES, (name, jpeg(9))], links)
        before = outside(tmp_path)
        with pytest.raises(UnsafeArchive):
            opened(path, resident)
        assert outside(tmp_path) == before
        assert not Path("/tmp/stoker-outside.jpg").exists()
        assert list((tmp_path / "cache").rglob("*.jpg")) == []


@pytest.mark.parametrize("resident", [True, False])
def test_random_bytes(tmp_path: Path, resident: bool) -> None:
    random.seed(8)
    for start in (b"", b"PK\x03\x04", b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"BZh9", b"\x93NUMPY"):
        for name in ("a.tar", "a.zip", "a.npz", "a.bin"):
            (tmp_path / name).write_bytes(start + random.randbytes(random.randrange(3000)))
            with pytest.raises(StokerError):
                opened(tmp_path / name, resident)


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...
