"""Libraries without debug information: cut after their last segment, loadable, and left alone where that cannot be done."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.errors import HashMismatch
from stoker.image.elf import loaded
from stoker.image.placement import place
from stoker.image.wheel import Member, read_wheel, record_digest
from tests.conftest import need
from tests.image_wheels import write_wheel


def library(*, segments: list[tuple[int, int]], size: int = 4096, magic: bytes = b"\x7fELF\x02\x01\x01", at: int = 64) -> bytes:
    """Return an ELF file whose segments (offset, size) are those; the rest is filled with bytes that differ."""
    head = bytearray(64)
    head[: len(magic)] = magic
    struct.pack_into("<QQ", head, 32, at, size - 64)
    struct.pack_into("<HHHHH", head, 54, 56, len(segments), 64, 3, 2)
    table = b"".join(struct.pack("<IIQQQQQQ", 1, 5, begin, begin, begin, count, count, 4096) for begin, count in segments)
    return (bytes(head) + table + bytes(range(256)) * 64)[:size]


def member(folder: Path, content: bytes) -> Member:
    found = read_wheel(write_wheel(folder, files={"demo/x.so": content})).member("demo/x.so")
    assert found is not None
    return found


def test_what_stands_after_the_last_segment_is_left_out(tmp_path: Path) -> None:
    content = library(segments=[(0, 500), (600, 1000), (200, 100)])
    found = loaded(member(tmp_path, content))
    assert found is not None
    made = b"".join(found.chunks())
    assert found.size == len(made) == 1600
    assert made[64:] == content[64:1600]
    assert made[:40] + made[48:60] == content[:40] + content[48:60]
    assert not any(made[40:48] + made[60:64])  # no sections
    assert found.digest == record_digest(hashlib.sha256(made).digest())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF",
        b"no library at all" * 100,
        library(segments=[(0, 4096)]),
        library(segments=[(0, 1000), (4000, 96)]),
        library(segments=[(0, 9999)]),
        library(segments=[]),
        library(segments=[(0, 10)]),
        library(segments=[(0, 1000)], magic=b"\x7fELF\x01\x01\x01"),
        library(segments=[(0, 1000)], magic=b"\x7fELF\x02\x02\x01"),
        library(segments=[(0, 1000)], at=2**63),
        library(segments=[(0, 1000)] * 80),
    ],
    ids=["empty", "short", "text", "whole", "ends with a segment", "too long", "no segments", "no header", "32 bit", "big endian", "far", "many"],
)
def test_what_cannot_be_cut_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    assert loaded(member(tmp_path, content)) is None


def test_the_hash_of_the_whole_is_still_checked(tmp_path: Path) -> None:
    whole = member(tmp_path, library(segments=[(0, 1000)]))
    found = loaded(replace(whole, digest=record_digest(hashlib.sha256(b"other").digest())))
    assert found is not None
    with pytest.raises(HashMismatch):
        list(found.chunks())


def test_a_wheel_with_symbols_left_out(tmp_path: Path) -> None:
    content = library(segments=[(0, 1000)])
    archive = read_wheel(write_wheel(tmp_path, files={"triton/_C/libtriton.so": content, "triton/_C/other.so": content}))
    whole, cut = (place(archive, stack="cu130", python="3.13", prune=prune) for prune in ((), ("symbols",)))
    sizes = {path.rpartition("/")[2]: placed.entry.size for path, placed in cut.files.items() if path.endswith(".so")}
    assert sizes == {"libtriton.so": 1000, "other.so": 4096}
    assert {placed.entry.size for path, placed in whole.files.items() if path.endswith(".so")} == {4096}
    record = next(entry for entry in cut.entries({}) if entry.path.endswith("RECORD"))
    assert isinstance(record.content, bytes)
    row = next(line for line in record.content.decode().splitlines() if line.startswith("triton/_C/libtriton.so"))
    content_of = next(placed.entry.content for path, placed in cut.files.items() if path.endswith("libtriton.so"))
    made = b"".join(content_of.chunks())  # type: ignore[union-attr]
    assert row == f"triton/_C/libtriton.so,sha256={record_digest(hashlib.sha256(made).digest())},1000"


def test_a_library_of_the_compiler_is_loaded_all_the_same(tmp_path: Path) -> None:
    need(shutil.which("cc") is not None, "cc")
    source, built = tmp_path / "a.c", tmp_path / "a.so"
    source.write_text("static int four(void) { return 4; }\nint answer(int n) { return n * 10 + four() - 2; }\n")
    subprocess.run(["cc", "-g", "-O0", "-shared", "-fPIC", "-o", built, source], check=True)
    found = loaded(member(tmp_path, built.read_bytes()))
    assert found is not None
    assert found.size < built.stat().st_size
    (tmp_path / "cut.so").write_bytes(b"".join(found.chunks()))
    assert ctypes.CDLL(str(tmp_path / "cut.so")).answer(4) == 42
