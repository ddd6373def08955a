"""Zip files from strangers: what is read, and everything that is refused."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.errors import UnsafeArchive
from stoker.image import ziparchive
from stoker.image.ziparchive import read_directory
from tests.image_wheels import member, zipped

LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


def archive(folder: Path, content: bytes) -> Path:
    path = folder / "a.zip"
    path.write_bytes(content)
    return path


def refused(folder: Path, content: bytes) -> str:
    with pytest.raises(UnsafeArchive) as caught:
        contents_of(archive(folder, content))
    return caught.value.message


def contents_of(path: Path) -> dict[str, bytes]:
    return {one.name: b"".join(one.chunks()) for one in read_directory(path)}


def patched(content: bytes, mark: bytes, offset: int, form: str, value: int, *, nth: int = 0) -> bytes:
    """`content` with the number at `offset` behind the nth `mark` replaced."""
    at = -1
    for _ in range(nth + 1):
        at = content.index(mark, at + 1)
    changed = bytearray(content)
    struct.pack_into(form, changed, at + offset, value)
    return bytes(changed)


PLAIN = zipped([("a", b"first" * 100), ("b/c", b"second"), ("d", b"")])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.dictionaries(st.text("abcdeé/.", min_size=1, max_size=12), st.binary(max_size=3000), max_size=8), stored=st.booleans())
def test_what_zipfile_writes_is_read_back(tmp_path: Path, members: dict[str, bytes], stored: bool) -> None:
    members = {name.strip("/") or "x": content for name, content in members.items()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    found = read_directory(archive(tmp_path, out.getvalue()))
    assert {one.name: b"".join(one.chunks()) for one in found} == members
    assert all(one.read(10**6) == members[one.name] for one in found)


def test_zip64_and_sizes_behind_the_content_are_read(tmp_path: Path) -> None:
    class Unseekable(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

        def seek(self, *_: int) -> int:
            raise OSError

    out = Unseekable()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("behind", b"x" * 1000)
        with made.open(zipfile.ZipInfo("wide"), "w", force_zip64=True) as file:
            file.write(b"y" * 1000)
    found = read_directory(archive(tmp_path, out.getvalue()))
    assert [(one.name, b"".join(one.chunks())[:2], one.size) for one in found] == [("behind", b"xx", 1000), ("wide", b"yy", 1000)]


def test_a_directory_in_zip64_form_is_read(tmp_path: Path) -> None:
    # As written for more than 65535 members or beyond 4 GB: here made by hand.
    at, count, size, start = PLAIN.index(END), 3, *struct.unpack_from("<2L", PLAIN, PLAIN.index(END) + 12)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    end = struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert [one.name for one in read_directory(archive(tmp_path, PLAIN[:at] + record + locator + end))] == ["a", "b/c", "d"]
    assert "zip64" in refused(tmp_path, PLAIN[:at] + locator + end)
    assert "zip64" in refused(tmp_path, PLAIN[:at] + record + struct.pack("<4sLQL", b"PK\6\7", 0, at - 1, 1) + end)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no zip file"),
        (b"no zip file at all, but longer than the end record", "does not end"),
        (PLAIN + b"\0", "does not end"),
        (PLAIN[:-1], "does not end"),
        (b"#!/bin/sh\n" + PLAIN, "not right before its end"),
        (patched(PLAIN, END, 20, "<H", 0), None),
        (patched(PLAIN, END, 20, "<H", 5) + b"notes", "does not end"),
        (patched(PLAIN, END, 10, "<H", 2), "several files"),
        (patched(PLAIN, END, 4, "<H", 1), "several files"),
        (patched(PLAIN, CENTRAL, 8, "<H", 1), "encrypted"),
        (patched(PLAIN, CENTRAL, 10, "<H", 12), "method 12"),
        (patched(PLAIN, CENTRAL, 10, "<H", 0), "says something else"),
        (patched(PLAIN, LOCAL, 8, "<H", 0), "says something else"),
        (patched(PLAIN, LOCAL, 22, "<L", 7), "says something else"),
        (patched(PLAIN, LOCAL, 26, "<H", 2), "says something else"),
        (patched(PLAIN, CENTRAL, 42, "<L", 0, nth=1), "says something else"),
        (patched(PLAIN, CENTRAL, 42, "<L", 0xFFFFFFF0), "behind the directory"),
        (patched(patched(PLAIN, CENTRAL, 24, "<L", 3), LOCAL, 22, "<L", 3), "larger than announced"),
        (patched(patched(PLAIN, CENTRAL, 24, "<L", 999), LOCAL, 22, "<L", 999), "not as long as announced"),
        (patched(patched(PLAIN, CENTRAL, 20, "<L", 3), LOCAL, 18, "<L", 3), "belong to nothing"),
        (patched(patched(PLAIN, CENTRAL, 20, "<L", 60), LOCAL, 18, "<L", 60), "overlaps"),
    ],
)
def test_what_is_no_plain_zip_file_is_refused(tmp_path: Path, content: bytes, says: str | None) -> None:
    if says is None:
        assert read_directory(archive(tmp_path, content))
    else:
        assert says in refused(tmp_path, content)


def test_two_members_on_the_same_bytes_are_refused(tmp_path: Path) -> None:
    # The bomb of Fifield: many rows of the directory, one kernel of packed bytes.
    once = zipped([("a", b"x" * 10000)])
    at = once.index(CENTRAL)
    row = once[at : once.index(END)]
    twice = once[:at] + row * 2 + struct.pack("<4s4H2LH", END, 0, 0, 2, 2, len(row) * 2, at, 0)
    assert "overlaps" in refused(tmp_path, twice)


def test_bytes_between_members_are_refused(tmp_path: Path) -> None:
    at = PLAIN.index(LOCAL, 4)
    moved = PLAIN[:at] + b"hidden" + PLAIN[at:]
    for nth in (1, 2):
        moved = patched(moved, CENTRAL, 42, "<L", struct.unpack_from("<L", moved, _row(moved, nth) + 42)[0] + 6, nth=nth)
    moved = patched(moved, END, 16, "<L", PLAIN.index(CENTRAL) + 6)
    assert "belong to nothing" in refused(tmp_path, moved)


def _row(content: bytes, nth: int) -> int:
    at = -1
    for _ in range(nth + 1):
        at = content.index(CENTRAL, at + 1)
    return at


def test_content_behind_the_end_of_the_packed_stream_is_refused(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(b"seen") + packer.flush() + b"unseen"
    local = struct.pack("<4s5H3L2H", LOCAL, 20, 0, 8, 0, 33, zlib.crc32(b"seen"), len(packed), 4, 1, 0) + b"a" + packed
    row = struct.pack("<4s6H3L5H2L", CENTRAL, 20, 20, 0, 8, 0, 33, zlib.crc32(b"seen"), len(packed), 4, 1, 0, 0, 0, 0, 0, 0) + b"a"
    end = struct.pack("<4s4H2LH", END, 0, 0, 1, 1, len(row), len(local), 0)
    assert "before its packed bytes" in refused(tmp_path, local + row + end)


@pytest.mark.parametrize("kind", [0o120777, 0o060644, 0o020644, 0o010644, 0o140644])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    assert "link or a device" in refused(tmp_path, zipped([(member("a", kind), b"/etc/passwd")]))


def test_a_folder_with_content_is_refused(tmp_path: Path) -> None:
    content = zipped([(member("xx", 0), b"hidden")]).replace(b"xx", b"x/")
    assert "has content" in refused(tmp_path, content)


def test_names_of_other_alphabets_must_say_that_they_are_utf8(tmp_path: Path) -> None:
    content = zipped([("ä", b"")])
    assert read_directory(archive(tmp_path, content))[0].name == "ä"
    unmarked = patched(patched(content, CENTRAL, 8, "<H", 0), LOCAL, 6, "<H", 0)
    assert "neither ASCII" in refused(tmp_path, unmarked)
    assert "neither ASCII" in refused(tmp_path, content.replace("ä".encode(), b"\xff\xfe"))


def test_a_second_name_is_refused(tmp_path: Path) -> None:
    info = member("a")
    info.extra = struct.pack("<HHBL", 0x7075, 6, 1, zlib.crc32(b"a")) + b"b"
    assert "second name" in refused(tmp_path, zipped([(info, b"")]))


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ziparchive, "TOTAL_FLOOR_BYTES", 10**6)
    monkeypatch.setattr(ziparchive, "TOTAL_RATIO", 2)
    assert "would become 2000000" in refused(tmp_path, zipped([("zeros", bytes(2 * 10**6))]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_changes_nothing(tmp_path: Path, data: st.DataObject) -> None:
    changed = bytearray(PLAIN)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(PLAIN) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = {one.name: one.read(10**6) for one in read_directory(archive(tmp_path, bytes(changed)))}
    except UnsafeArchive:
        return
    # Names are not protected by a checksum, contents are.
    assert sorted(found.values()) == [b"", b"first" * 100, b"second"]
