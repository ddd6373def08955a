"""The cache under two at once, kill -9 and a full disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import need

OPEN = """
import sys, json, hashlib
from pathlib import Path
from stoker.data.sources import open_dataset
from stoker.errors import StokerError
try:
    data = open_dataset("folder", Path(sys.argv[1]), resident=sys.argv[2] == "pixels", test_fraction=0.2, seed=0, skip_broken=False)
except StokerError as error:
    print(json.dumps({"error": type(error).__name__}))
else:
    pixels = data.train.pixels_NHWC.tobytes() if sys.argv[2] == "pixels" else b"".join(Path(path).read_bytes() for path in data.train.paths)
    print(json.dumps({"images": data.train.images, "sha256": hashlib.sha256(pixels).hexdigest(), "fingerprint": data.fingerprint}))
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "images.tar.gz"
    noise = np.random.RandomState(0)
    with tarfile.open(path, "w:gz") as tar:
        for number in range(600):
            file = io.BytesIO()
            Image.fromarray(noise.randint(0, 256, (64, 64, 3), np.uint8)).save(file, "JPEG")
            info = tarfile.TarInfo(f"{'ab'[number % 2]}/{number:04}.jpg")
            info.size = file.tell()
            file.seek(0)
            tar.addfile(info, file)
    return path


def start(path: Path, kind: str, cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "STOKER_CACHE": str(cache)}
    return subprocess.Popen([sys.executable, "-c", OPEN, str(path), kind], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    value: dict[str, object] = json.loads(out)
    return value


@pytest.mark.parametrize("kind", ["pixels", "files"])
def test_two_at_once_make_one_entry(archive: Path, tmp_path: Path, kind: str) -> None:
    processes = [start(archive, kind, tmp_path) for _ in range(3)]
    outcomes = [outcome(process) for process in processes]
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0]["images"] == 480
    folder = tmp_path / ("datasets" if kind == "pixels" else "unpacked")
    assert len([entry for entry in folder.iterdir() if entry.is_dir()]) == 1


@pytest.mark.parametrize("kind", ["pixels", "files"])
def test_kill_9_at_any_moment(archive: Path, tmp_path: Path, kind: str) -> None:
    random.seed(1)
    outcome(start(archive, kind, tmp_path / "warm"))
    began = time.monotonic()
    expected = outcome(start(archive, kind, tmp_path / "whole"))
    took_s = time.monotonic() - began
    folder = tmp_path / "cache" / ("datasets" if kind == "pixels" else "unpacked")
    midway = 0
    for _ in range(8):
        process = start(archive, kind, tmp_path / "cache")
        until = time.monotonic() + 30
        while not list(folder.glob("*.lock")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(random.random() * took_s / 2)
        process.kill()
        out, _ = process.communicate()
        midway += not out
        if any(entry.is_dir() and ".tmp-" not in entry.name for entry in folder.iterdir()):
            assert outcome(start(archive, kind, tmp_path / "cache")) == expected
            for entry in folder.iterdir():
                entry.rename(tmp_path / f"old{time.monotonic_ns()}")
    assert outcome(start(archive, kind, tmp_path / "cache")) == expected
    assert not list(folder.glob("*.tmp-*"))
    assert midway > 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True).returncode == 0
    need(mounted, "the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_the_cache_not_the_run(archive: Path, tmp_path: Path, small_disk: Path) -> None:
    expected = outcome(start(archive, "pixels", tmp_path / "whole"))
    process = start(archive, "pixels", small_disk)
    out, err = process.communicate(timeout=120)
    assert json.loads(out) == expected
    assert "STOKER_CACHE" in err
    assert "Traceback" not in err
    assert outcome(start(archive, "files", small_disk)) == {"error": "DiskFull"}
    assert [entry for entry in small_disk.rglob("*") if entry.is_file() and entry.suffix != ".lock"] == []


def test_a_file_that_ends_the_name_of_another_run_is_left_alone(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "note.tmp-1").write_text("mine")
    outcome(start(archive, "pixels", tmp_path))
    assert hashlib.sha256((tmp_path / "datasets" / "note.tmp-1").read_bytes()).hexdigest() == hashlib.sha256(b"mine").hexdigest()
