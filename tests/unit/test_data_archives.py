"""Archives from strangers: everything unsafe is refused, everything damaged is named."""

from __future__ import annotations

import gzip
import io
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from stoker.data import archives
from stoker.data.archives import is_hidden, members, printable
from stoker.errors import DataInvalid, StokerError, UnsafeArchive

FILES = {f"train/{name}/{number}.jpg": f"{name}{number}".encode() * 300 for name in ("cat", "dog") for number in range(20)}


def tar(path: Path, files: dict[str, bytes], mode: str = "w", extra: list[tarfile.TarInfo] | None = None, kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=kind) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra or []:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def read(path: Path) -> dict[str, bytes]:
    return {member.name: member.content for member in members(path, lambda name: True) if member.content is not None}


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz"), ("a.tar.bz2", "w:bz2"), ("a.bin", "w:gz")])
def test_tar_of_every_compression(tmp_path: Path, name: str, mode: str) -> None:
    assert read(tar(tmp_path / name, FILES, mode)) == FILES


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_of_every_format_with_long_and_foreign_names(tmp_path: Path, kind: int) -> None:
    files = {"a/" + "long" * 20 + "/" + "name" * 20 + ".jpg": b"1", "katze/ü.jpg": b"2"}
    if kind != tarfile.USTAR_FORMAT:
        files["b/" + "long" * 100 + ".jpg"] = b"3"
    assert read(tar(tmp_path / "a.tar", files, kind=kind)) == files


def test_zip_and_names_with_backslashes(tmp_path: Path) -> None:
    assert read(zipped(tmp_path / "a.zip", FILES)) == FILES
    assert read(zipped(tmp_path / "b.zip", {"cat\\1.jpg": b"1"})) == {"cat/1.jpg": b"1"}


def test_names_are_cleaned_and_hidden_ones_passed_over(tmp_path: Path) -> None:
    files = {"./a//1.jpg": b"1", "a/.DS_Store": b"", "__MACOSX/a/._1.jpg": b"", "a/Thumbs.db": b"", ".git/x": b""}
    assert read(tar(tmp_path / "a.tar", files)) == {"a/1.jpg": b"1"}
    assert read(zipped(tmp_path / "a.zip", files)) == {"a/1.jpg": b"1"}
    assert is_hidden("a/.x/b")
    assert not is_hidden("a/x.y/b")


def test_unwanted_content_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MEMBER_LIMIT_BYTES", 10)
    files = {"a/1.txt": b"x" * 1000, "a/2.jpg": b"2"}
    for path in (tar(tmp_path / "a.tar", files), zipped(tmp_path / "a.zip", files)):
        found = list(members(path, lambda name: name.endswith(".jpg")))
        assert [(member.name, member.content) for member in found] == [("a/1.txt", None), ("a/2.jpg", b"2")]


@pytest.mark.parametrize("name", ["/etc/x.jpg", "../x.jpg", "a/../../x.jpg", "a/..", "C:/x.jpg"])
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    back = zipped(tmp_path / "b.zip", {name.replace("/", "\\"): b"x"})
    for path in (tar(tmp_path / "a.tar", {name: b"x"}), zipped(tmp_path / "a.zip", {name: b"x"}), back):
        with pytest.raises(UnsafeArchive):
            read(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])
def test_links_and_devices_in_tar(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("train/cat/link.jpg")
    info.type, info.linkname = kind, "0.jpg"
    with pytest.raises(UnsafeArchive, match=r"link\.jpg"):
        read(tar(tmp_path / "a.tar", FILES, extra=[info]))


def test_a_pax_header_cannot_hide_a_bad_name_or_a_sparse_file(tmp_path: Path) -> None:
    for header in ({"path": "../x.jpg"}, {"path": "/x.jpg"}, {"GNU.sparse.realsize": "99999999999"}):
        info = tarfile.TarInfo("a/1.jpg")
        info.pax_headers = header
        with pytest.raises(UnsafeArchive):
            read(tar(tmp_path / "a.tar", {}, extra=[info]))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_zip(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("cat/1.jpg")
    info.create_system, info.external_attr = 3, (kind | 0o644) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UnsafeArchive, match=r"cat/1\.jpg"):
        read(tmp_path / "a.zip")


def test_a_name_twice(tmp_path: Path) -> None:
    again = tarfile.TarInfo("./train//cat/0.jpg")
    with pytest.raises(UnsafeArchive, match="twice"):
        read(tar(tmp_path / "a.tar", FILES, extra=[again]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/1.jpg", "1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/1.jpg", "2")
    with pytest.raises(UnsafeArchive, match="twice"):
        read(tmp_path / "a.zip")


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "TOTAL_FLOOR_BYTES", 2**20)
    zeros = {f"a/{number}.jpg": bytes(2**20) for number in range(8)}
    paths = (tar(tmp_path / "a.tar.gz", zeros, "w:gz"), tar(tmp_path / "a.tar.xz", zeros, "w:xz"), zipped(tmp_path / "a.zip", zeros))
    for path in paths:
        with pytest.raises(UnsafeArchive, match="bomb"):
            for _ in members(path, lambda name: False):
                pass
    monkeypatch.setattr(archives, "TOTAL_FLOOR_BYTES", 2**30)
    monkeypatch.setattr(archives, "MEMBER_LIMIT_BYTES", 2**20 - 1)
    for path in paths:
        with pytest.raises(UnsafeArchive, match="more than 1,048,575"):
            read(path)


def test_zeros_behind_the_end_mark_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "TOTAL_FLOOR_BYTES", 2**20)
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(bytes(2**24))
    with pytest.raises(UnsafeArchive, match="bomb"):
        read(tmp_path / "a.tar.gz")


def test_a_giant_name_is_not_read_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**30
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UnsafeArchive, match="more than 1,048,576"):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz"), ("a.tar.bz2", "w:bz2"), ("a.zip", "")])
def test_cut_off_anywhere_it_is_an_error_or_whole(tmp_path: Path, name: str, mode: str) -> None:
    random.seed(2)
    path = tar(tmp_path / name, FILES, mode) if mode else zipped(tmp_path / name, FILES)
    content = path.read_bytes()
    offsets = [random.randrange(len(content)) for _ in range(50)] + [512 * number for number in range(min(60, len(content) // 512))]
    outcomes = []
    for offset in offsets:
        path.write_bytes(content[:offset])
        try:
            assert read(path) == FILES  # only zeros behind the end mark are missing
            outcomes.append(True)
        except DataInvalid as error:
            outcomes.append(name not in error.message)
    assert outcomes.count(False) >= 50


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz"), ("a.zip", "")])
def test_damaged_anywhere_it_is_never_another_exception(tmp_path: Path, name: str, mode: str) -> None:
    random.seed(3)
    path = tar(tmp_path / name, FILES, mode) if mode else zipped(tmp_path / name, FILES)
    content = path.read_bytes()
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(random.randint(1, 8)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        path.write_bytes(damaged)
        try:
            read(path)
        except StokerError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("start", [b"", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh9", b"\x28\xb5\x2f\xfd"])
def test_garbage(tmp_path: Path, start: bytes) -> None:
    random.seed(4)
    path = tmp_path / "a.tar"
    for size in (0, 1, 100, 511, 512, 5000):
        path.write_bytes(start + random.randbytes(size))
        with pytest.raises(DataInvalid):
            read(path)


def test_the_member_reached_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", FILES)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataInvalid, match=r"after the member train/cat/1\.jpg"):
        read(path)


def test_two_archives_in_a_row_are_not_half_read(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", FILES)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(DataInvalid, match="after the end mark"):
        read(path)


def test_an_encrypted_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a/1.jpg": b"1"})
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataInvalid, match="encrypted"):
        read(path)


def test_names_do_not_reach_the_terminal_raw() -> None:
    assert printable("a\x1b[31m\nü\udcff") == "a\\x1b[31m\\nü\\udcff"
