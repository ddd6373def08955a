"""Tar streams: the same bytes from the same entries, read back by another implementation, and what no layer may hold."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.errors import BuildFailed, UnsafeArchive
from stoker.image.entries import Entry, FileSource, file, folder, symlink
from stoker.image.tarball import write_tar
from tests.conftest import need

TIME = 1577836800


def tar(*entries: Entry) -> bytes:
    out = io.BytesIO()
    write_tar(entries, out, mtime=TIME)
    return out.getvalue()


def read(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        return {one.name: one for one in archive.getmembers()}


class Lying:
    """A source that gives other than it says."""

    size = 10

    def __init__(self, given: int) -> None:
        self._given = given

    def chunks(self) -> Iterator[bytes]:
        yield bytes(self._given)


PARTS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="/\\\x7f", exclude_categories=("Cc",)), min_size=1, max_size=90
)
PATHS = st.lists(PARTS.filter(lambda part: part not in (".", "..") and not part.startswith(".wh.")), min_size=1, max_size=4).map("/".join)


@settings(max_examples=80, deadline=None)
@given(contents=st.dictionaries(PATHS, st.binary(max_size=1500), max_size=6), seed=st.integers())
def test_any_paths_in_any_order_give_the_same_tar_and_are_read_back(contents: dict[str, bytes], seed: int) -> None:
    # A path below another is no file's place.
    contents = {path: content for path, content in contents.items() if not any(other.startswith(path + "/") for other in contents)}
    entries = [file(path, content, mode=0o755 if len(content) % 2 else 0o644) for path, content in contents.items()]
    first = tar(*entries)
    random.Random(seed).shuffle(entries)
    assert tar(*entries) == first
    with tarfile.open(fileobj=io.BytesIO(first), mode="r:") as archive:
        names = archive.getnames()
        assert {name: archive.extractfile(name).read() for name in contents} == contents  # type: ignore[union-attr]
        assert all((one.uid, one.gid, one.mtime, one.uname) == (0, 0, TIME, "") for one in archive.getmembers())
        assert all(archive.getmember(path).mode == (0o755 if len(content) % 2 else 0o644) for path, content in contents.items())
    assert names == sorted(names, key=lambda name: name.encode().split(b"/"))
    assert {name.rpartition("/")[0] for name in names} <= {"", *names}


def test_folders_links_and_owners() -> None:
    found = read(tar(folder("home/stoker", mode=0o700, uid=1000, gid=1000), symlink("bin/python", "/usr/bin/python3.13"), file("a/b", b"x", uid=7)))
    assert [*found] == ["a", "a/b", "bin", "bin/python", "home", "home/stoker"]
    assert (found["home"].mode, found["home"].uid) == (0o755, 0)
    assert (found["home/stoker"].mode, found["home/stoker"].uid, found["home/stoker"].gid) == (0o700, 1000, 1000)
    assert found["bin/python"].issym()
    assert found["bin/python"].linkname == "/usr/bin/python3.13"
    assert found["a/b"].uid == 7


@pytest.mark.parametrize("length", [99, 100, 101, 155, 156, 254, 255, 256, 257, 700])
def test_long_paths_and_links_survive(length: int) -> None:
    path = ("d" * 49 + "/") * (length // 50) + "f" * (length % 50 or 1)
    found = read(tar(file(path, b"x"), symlink("link", path)))
    assert path in found
    assert found["link"].linkname == path


def test_a_pax_header_stands_only_where_it_is_needed() -> None:
    assert b"PaxHeader" not in tar(file("a" * 100, b""), file("d" * 80 + "/" + "a" * 90, b""), symlink("b", "c" * 100))
    assert b"PaxHeader" in tar(file("a" * 101, b""))
    assert b"PaxHeader" in tar(file("ä", b""))
    assert b"PaxHeader" in tar(symlink("b", "c" * 101))


def test_a_file_of_more_than_8_gib_keeps_its_size() -> None:
    class Endless:
        size = 9 * 2**30

        def chunks(self) -> Iterator[bytes]:
            raise InterruptedError

    out = io.BytesIO()
    with pytest.raises(InterruptedError):
        write_tar([file("large", Endless())], out, mtime=TIME)
    assert tarfile.TarInfo.frombuf(out.getvalue()[:512], "utf-8", "strict").name == "././@PaxHeader"
    assert b" size=9663676416\n" in out.getvalue()


@pytest.mark.parametrize(
    "path",
    ["", "/a", "../a", "a/../b", "a/./b", "a//b", "a/", ".", "a\0b", "a\nb", "a\\b", ".wh.a", "d/.wh..wh..opq", "d/.wh.x/y", "a\ud800", "x" * 256],
)
def test_paths_that_no_layer_may_hold(path: str) -> None:
    with pytest.raises(UnsafeArchive):
        tar(file(path, b""))


@pytest.mark.parametrize(
    "entries",
    [
        (file("a", b"1"), file("a", b"1")),
        (folder("a"), folder("a")),
        (file("a", b""), file("a/b", b"")),
        (symlink("a", "/etc"), file("a/passwd", b"")),
        (symlink("a", ""),),
    ],
)
def test_entries_that_do_not_go_together(entries: tuple[Entry, ...]) -> None:
    with pytest.raises(UnsafeArchive):
        tar(*entries)


@pytest.mark.parametrize("given", [9, 11, 0])
def test_a_source_that_gives_other_than_it_said(given: int) -> None:
    with pytest.raises(BuildFailed, match="than the 10"):
        tar(file("a", Lying(given)))


def test_a_file_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    content = tar(file("a", FileSource(path=tmp_path / "a", size=3_000_000)))
    assert content == tar(file("a", b"x" * 3_000_000))


def test_the_bytes_are_those_of_every_other_machine() -> None:
    content = tar(file("opt/stoker/a", b"content", mode=0o755), symlink("ä", "ö"), folder("home/x", mode=0o700, uid=1000), file("d" * 120, b""))
    assert hashlib.sha256(content).hexdigest() == "88dc142bc5bcabf5f44003c34bf4938bd56250402a64418e50ccd25979e80b8b"


def test_gnu_tar_reads_it(tmp_path: Path) -> None:
    need(shutil.which("tar") is not None, "tar")
    long = "/".join(["folder" * 10] * 5) + "/ä"
    (tmp_path / "a.tar").write_bytes(tar(file(long, b"deep"), symlink("link", "target" * 30), file("plain", b"x" * 513)))
    done = subprocess.run(["tar", "-xf", "a.tar"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / long).read_bytes() == b"deep"
    assert (tmp_path / "plain").read_bytes() == b"x" * 513
    assert (tmp_path / "link").readlink() == Path("target" * 30)
