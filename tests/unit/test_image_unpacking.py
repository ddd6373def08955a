"""Layers unpacked into a folder: as engines do, and never outside of it."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from stoker.errors import DiskFull, ImageBroken, UnsafeArchive
from stoker.image.unpacking import place, unpack_layers
from tests.image_layouts import File, tar_of


def unpacked(folder, *layers: dict[str, File]):
    """Unpack layers and return the folder."""
    root = folder / "root"
    root.mkdir()
    unpack_layers((io.BytesIO(tar_of(layer)) for layer in layers), root)
    return root


def link(target: str) -> File:
    """A symbolic link."""
    return File(kind=tarfile.SYMTYPE, target=target, mode=0o777)


def test_files_folders_and_links(tmp_path):
    root = unpacked(
        tmp_path,
        {
            "usr/bin": File(kind=tarfile.DIRTYPE, mode=0o755),
            "usr/bin/a": File(b"a", mode=0o755),
            "usr/bin/b": File(kind=tarfile.LNKTYPE, target="usr/bin/a"),
            "bin": link("usr/bin"),
            "closed": File(kind=tarfile.DIRTYPE, mode=0o500),
            "closed/in": File(b"in"),
            "disk": File(kind=tarfile.BLKTYPE),
        },
    )
    assert (root / "bin/a").read_bytes() == b"a"
    assert os.stat(root / "usr/bin/a").st_ino == os.stat(root / "usr/bin/b").st_ino
    assert (root / "closed/in").read_bytes() == b"in"
    assert (root / "closed").stat().st_mode & 0o777 == 0o500
    assert not (root / "disk").exists()


def test_later_layers_replace_and_delete(tmp_path):
    root = unpacked(
        tmp_path,
        {"a": File(b"1"), "d/x": File(b"1"), "d/y": File(b"1"), "e/x": File(b"1"), "f": File(kind=tarfile.DIRTYPE, mode=0o755), "f/x": File(b"1")},
        {"a": File(b"2"), "d/.wh.x": File(), "e/.wh..wh..opq": File(), "e/new": File(b"2"), "f": File(b"now a file")},
    )
    assert (root / "a").read_bytes() == b"2"
    assert [path.name for path in (root / "d").iterdir()] == ["y"]
    assert [path.name for path in (root / "e").iterdir()] == ["new"]
    assert (root / "f").read_bytes() == b"now a file"


def test_setuid_bits_stay_out_of_the_host(tmp_path):
    root = unpacked(tmp_path, {"su": File(b"x", mode=0o6755), "tmp": File(kind=tarfile.DIRTYPE, mode=0o1777)})
    assert (root / "su").stat().st_mode & 0o7777 == 0o755
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/../b"])
def test_a_path_with_dots_is_refused(name, tmp_path):
    with pytest.raises(UnsafeArchive):
        unpacked(tmp_path, {name: File(b"x")})


@pytest.mark.parametrize("target", ["/", "/etc", "../../..", "../../../etc"])
def test_a_link_of_the_image_leads_into_the_image(target, tmp_path):
    (tmp_path / "etc").mkdir()
    root = unpacked(tmp_path, {"out": link(target)}, {"out/written": File(b"x")})
    assert not (tmp_path / "etc/written").exists()
    assert not (tmp_path / "written").exists()
    assert (root / "etc/written").exists() or (root / "written").exists()


def test_a_link_that_lies_at_the_place_of_a_file_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    root = unpacked(tmp_path, {"file": link(str(victim))}, {"file": File(b"x")})
    assert victim.read_text() == "untouched"
    assert (root / "file").read_bytes() == b"x"


def test_a_hard_link_reaches_nothing_of_the_host(tmp_path):
    (tmp_path / "secret").write_text("host")
    with pytest.raises((ImageBroken, UnsafeArchive)):
        unpacked(tmp_path, {"stolen": File(kind=tarfile.LNKTYPE, target="../secret")})
    with pytest.raises(ImageBroken):
        unpacked(tmp_path / "root", {"stolen": File(kind=tarfile.LNKTYPE, target=str(tmp_path / "secret"))})


def test_links_in_a_circle_are_refused(tmp_path):
    with pytest.raises(UnsafeArchive):
        unpacked(tmp_path, {"a": link("b"), "b": link("a")}, {"a/x": File(b"x")})


@pytest.mark.parametrize("data", [b"", b"garbage" * 200, tar_of({"a": File(b"x" * 5000)})[:2000]], ids=["empty", "garbage", "cut"])
def test_what_is_no_tar_is_refused(data, tmp_path):
    with pytest.raises(ImageBroken):
        unpack_layers([io.BytesIO(data)], tmp_path)


def test_a_file_where_a_folder_should_be_is_refused(tmp_path):
    with pytest.raises(ImageBroken):
        unpacked(tmp_path, {"a": File(b"x"), "a/b": File(b"x")})


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stoker.image.unpacking.shutil.copyfileobj", full)
    with pytest.raises(DiskFull):
        unpacked(tmp_path, {"a": File(b"x")})


def test_places(tmp_path):
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "deep").symlink_to("../../../usr")
    assert place(tmp_path, "./bin/x") == tmp_path / "usr/bin/x"
    assert place(tmp_path, "/deep/bin/x") == tmp_path / "usr/bin/x"
    assert place(tmp_path, "bin") == tmp_path / "bin"
    assert place(tmp_path, ".") == tmp_path
