"""Libraries without symbols and debug information: shorter, loaded and linked all the same, and left alone where that cannot be done."""

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

NAMES = b"\0.text\0.symtab\0.shstrtab\0"
PROGRAM_BITS, SYMBOLS, STRINGS, NO_BITS = 1, 2, 3, 8
Segment = tuple[int, int]


def section(kind: int, flags: int, place: int, size: int) -> bytes:
    return struct.pack("<IIQQQQIIQQ", 1, kind, flags, 0, place, size, 0, 0, 1, 0)


def library(
    *,
    segments: list[Segment],
    kinds: list[int] | None = None,
    size: int = 4096,
    magic: bytes = b"\x7fELF\x02\x01\x01",
    at: int = 64,
    alignment: int = 4096,
    text: Segment = (500, 50),
    names: int | None = None,
) -> bytes:
    """Return an ELF file whose segments (offset, size) are those, with sections at its end; the rest is filled with bytes that differ."""
    rows = [bytes(64), section(PROGRAM_BITS, 6, *text), section(NO_BITS, 3, 9**9, 100), section(SYMBOLS, 0, 2100, 200)]
    rows.append(section(STRINGS, 0, size - 400 - len(NAMES) if names is None else names, len(NAMES)))
    head = bytearray(64)
    head[: len(magic)] = magic
    struct.pack_into("<QQ", head, 32, at, size - 64 * len(rows))
    struct.pack_into("<HHHHH", head, 54, 56, len(segments), 64, len(rows), len(rows) - 1)
    table = b"".join(
        struct.pack("<IIQQQQQQ", kind, 5, begin, begin, begin, count, count, alignment if kind == 1 else 8)
        for kind, (begin, count) in zip(kinds or [1] * len(segments), segments, strict=True)
    )
    content = bytearray((bytes(head) + table + bytes(range(256)) * 512)[:size])
    content[size - 64 * len(rows) :] = b"".join(rows)
    if names is None:
        content[size - 400 - len(NAMES) : size - 400] = NAMES
    return bytes(content)


def member(folder: Path, content: bytes) -> Member:
    found = read_wheel(write_wheel(folder, files={"demo/x.so": content})).member("demo/x.so")
    assert found is not None
    return found


def sections_of(made: bytes) -> list[tuple[int, int, int]]:
    """Type, place and size of each section."""
    begin, size, count = struct.unpack_from("<Q10xHH", made, 40)
    assert begin % 8 == 0
    assert begin + size * count == len(made)
    return [struct.unpack_from("<4xI16xQQ", made, begin + size * number) for number in range(count)]


def test_what_stands_after_the_last_segment_is_left_out(tmp_path: Path) -> None:
    content = library(segments=[(0, 600), (600, 1000), (700, 100)], kinds=[1, 1, 2])
    found = loaded(member(tmp_path, content))
    assert found is not None
    made = b"".join(found.chunks())
    assert found.size == len(made) < 2048
    assert made[64:1600] == content[64:1600]
    assert made[:40] + made[48:64] == content[:40] + content[48:64]
    kinds = sections_of(made)
    assert kinds[:4] == [(0, 0, 0), (PROGRAM_BITS, 500, 50), (NO_BITS, 0, 100), (0, 0, 0)]
    _, names, count = kinds[4]
    assert made[names : names + count] == NAMES
    assert found.digest == record_digest(hashlib.sha256(made).digest())


def test_what_stands_between_segments_is_left_out_and_they_keep_their_places_in_pages(tmp_path: Path) -> None:
    content = library(segments=[(0, 1000), (4200, 500), (30_000, 700), (30_100, 50), (0, 0)], kinds=[1, 1, 1, 2, 4], size=40_000, text=(30_200, 100))
    found = loaded(member(tmp_path, content))
    assert found is not None
    made = b"".join(found.chunks())
    places = [struct.unpack_from("<Q", made, 64 + 56 * number + 8)[0] for number in range(5)]
    at = places[2]
    assert places == [0, 4200, 5424, 5524, 0]
    assert at % 4096 == 30_000 % 4096
    assert at >= 4700
    assert made[400:1000] == content[400:1000]
    assert made[4200:4700] == content[4200:4700]
    assert made[at : at + 700] == content[30_000:30_700]
    assert not any(made[1000:4200] + made[4700:at])
    assert sections_of(made)[1] == (PROGRAM_BITS, at + 200, 100)
    assert found.size == len(made)


def test_names_of_sections_that_stand_far_before_their_table(tmp_path: Path) -> None:
    content = bytearray(library(segments=[(0, 1000)], size=100_000, names=1500))
    content[1500 : 1500 + len(NAMES)] = NAMES
    found = loaded(member(tmp_path, bytes(content)))
    assert found is not None
    made = b"".join(found.chunks())
    _, names, count = sections_of(made)[4]
    assert made[names : names + count] == NAMES


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
        library(segments=[(0, 1000), (500, 1000)]),
        library(segments=[(0, 1000), (2000, 100)], kinds=[1, 2]),
        library(segments=[(100, 1000)]),
        library(segments=[(0, 1000)], alignment=0),
        library(segments=[(0, 1000)], alignment=2**40),
        library(segments=[(0, 1000)], text=(1500, 100)),
        library(segments=[(0, 1000)], names=2**62),
        library(segments=[(0, 1000)])[:3900],
    ],
    ids=[
        *("empty", "short", "text", "whole", "ends with a segment", "too long", "no segments", "no header", "32 bit", "big endian", "far", "many"),
        *("overlapping", "outside", "no beginning", "unaligned", "too aligned", "section in no segment", "names outside", "cut short"),
    ],
)
def test_what_cannot_be_shortened_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    assert loaded(member(tmp_path, content)) is None


def test_the_hash_of_the_whole_is_still_checked(tmp_path: Path) -> None:
    found = loaded(member(tmp_path, library(segments=[(0, 1000)])))
    assert found is not None
    other = replace(found.member, digest=record_digest(hashlib.sha256(b"other").digest()))
    with pytest.raises(HashMismatch):
        list(replace(found, member=other).chunks())


def test_a_wheel_with_symbols_left_out(tmp_path: Path) -> None:
    content = library(segments=[(0, 1000)])
    archive = read_wheel(write_wheel(tmp_path, files={"triton/_C/libtriton.so": content, "triton/_C/other.so": content}))
    whole, cut = (place(archive, stack="cu130", python="3.13", prune=prune) for prune in ((), ("symbols",)))
    assert {placed.entry.size for path, placed in whole.files.items() if path.endswith(".so")} == {4096}
    libraries = {path.rpartition("/")[2]: placed.entry for path, placed in cut.files.items() if path.endswith(".so")}
    assert libraries["other.so"].size == 4096
    assert libraries["libtriton.so"].size < 1500
    made = b"".join(libraries["libtriton.so"].content.chunks())  # type: ignore[union-attr]
    record = next(entry for entry in cut.entries({}) if entry.path.endswith("RECORD"))
    assert isinstance(record.content, bytes)
    row = next(line for line in record.content.decode().splitlines() if line.startswith("triton/_C/libtriton.so"))
    assert row == f"triton/_C/libtriton.so,sha256={record_digest(hashlib.sha256(made).digest())},{len(made)}"


def test_a_library_of_the_compiler_is_loaded_and_linked_all_the_same(tmp_path: Path) -> None:
    need(shutil.which("cc") is not None, "cc")
    source, built, cut = tmp_path / "a.c", tmp_path / "a.so", tmp_path / "libcut.so"
    source.write_text("static int four(void) { return 4; }\nint answer(int n) { return n * 10 + four() - 2; }\n")
    subprocess.run(["cc", "-g", "-O0", "-shared", "-fPIC", "-o", built, source], check=True)
    found = loaded(member(tmp_path, built.read_bytes()))
    assert found is not None
    assert found.size < built.stat().st_size
    cut.write_bytes(b"".join(found.chunks()))
    assert ctypes.CDLL(str(cut)).answer(4) == 42
    (tmp_path / "main.c").write_text("int answer(int); int main(void) { return answer(4); }\n")
    program = tmp_path / "program"
    subprocess.run(["cc", "-o", program, tmp_path / "main.c", f"-L{tmp_path}", "-lcut", f"-Wl,-rpath,{tmp_path}"], check=True)
    assert subprocess.run([program]).returncode == 42
