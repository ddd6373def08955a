"""Compressed layers: right hashes, the same bytes however the tar came, and nothing left behind by a failure."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.errors import DiskFull, MissingExtra
from stoker.image import compression
from stoker.image.compression import Blob, compressed, compressor_name

zstandard = pytest.importorskip("zstandard")

CONTENT = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() * (1 + number % 7) for number in range(12_000))


def made(content: bytes, target: Path, *, kind: compression.Compression = "zstd", cuts: tuple[int, ...] = ()) -> Blob:
    def write(out: BinaryIO) -> None:
        at = 0
        for cut in (*sorted(cuts), len(content)):
            out.write(content[at:cut])
            at = cut

    return compressed(write, target, kind=kind)


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["zstd", "gzip"])
@pytest.mark.parametrize("size", [0, 1, 1023, 2**18, 2**18 + 1, len(CONTENT)])
def test_hashes_and_sizes_are_right(tmp_path: Path, kind: compression.Compression, size: int) -> None:
    blob = made(CONTENT[:size], tmp_path / "blob", kind=kind)
    packed = blob.path.read_bytes()
    assert (blob.digest, blob.size) == (digest(packed), len(packed))
    assert (blob.diff_id, blob.unpacked_size) == (digest(CONTENT[:size]), size)
    assert blob.media_type == f"application/vnd.oci.image.layer.v1.tar+{kind}"
    unpacked = gzip.decompress(packed) if kind == "gzip" else zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read()
    assert unpacked == CONTENT[:size]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, len(CONTENT)), max_size=40))
@pytest.mark.parametrize("kind", ["zstd", "gzip"])
def test_how_the_tar_was_written_changes_nothing(tmp_path: Path, kind: compression.Compression, cuts: list[int]) -> None:
    assert made(CONTENT, tmp_path / "cut", kind=kind, cuts=tuple(cuts)).digest == made(CONTENT, tmp_path / "whole", kind=kind).digest


def test_many_at_once_change_nothing(tmp_path: Path) -> None:
    alone = made(CONTENT, tmp_path / "alone").digest
    with ThreadPoolExecutor(6) as pool:
        assert {blob.digest for blob in pool.map(lambda number: made(CONTENT, tmp_path / str(number)), range(12))} == {alone}


def test_the_bytes_are_those_of_every_other_machine(tmp_path: Path) -> None:
    # Of zstandard 0.25.0: another version is another `compression` in the lock.
    assert compressor_name() == "zstandard 0.25.0 level 3"
    assert made(CONTENT, tmp_path / "blob").digest == "sha256:3eace1ee3e837fb671dd92c7c6ee13c0e7cd3fa560380b334786c5f90c1f9e5c"


def test_the_same_package_on_another_library_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstandard, "ZSTD_VERSION", (1, 5, 4))
    assert compressor_name() == "zstandard 0.25.0 on zstd 1.5.4 level 3"


def test_threads_of_zstd_would_change_the_bytes(tmp_path: Path) -> None:
    """Why there are none: as many processors, as many bytes."""
    content = random.Random(0).randbytes(2**20) * 12
    ours = made(content, tmp_path / "blob").path.read_bytes()
    threaded = zstandard.ZstdCompressor(level=3, threads=2, write_content_size=False).compressobj()
    assert threaded.compress(content) + threaded.flush() != ours


@pytest.mark.parametrize("at", [0, 100, len(CONTENT)])
def test_a_tar_that_breaks_off_leaves_nothing(tmp_path: Path, at: int) -> None:
    before = threading.active_count()

    def write(out: BinaryIO) -> None:
        out.write(CONTENT[:at])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compressed(write, tmp_path / "blob")
    assert [*tmp_path.iterdir()] == []
    assert threading.active_count() == before


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compression._Consumer, "_keep", full)
    with pytest.raises(DiskFull):
        made(CONTENT * 20, tmp_path / "blob")
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot be written"):
        made(CONTENT, tmp_path / "none" / "blob")


def test_without_zstandard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "zstandard", None)
    with pytest.raises(MissingExtra):
        made(CONTENT, tmp_path / "blob")
    assert made(CONTENT, tmp_path / "blob", kind="gzip").size


def test_progress_counts_the_bytes_of_the_tar(tmp_path: Path) -> None:
    told: list[int] = []
    blob = compressed(lambda out: out.write(CONTENT) and None, tmp_path / "blob", progress=told.append)
    assert told == sorted(told)
    assert told[-1] == blob.unpacked_size == len(CONTENT)
