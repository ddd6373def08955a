"""An unpacked root is compared with its tar once in each boot of the machine, and made anew where it differs."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from stoker.image import baselayer, rootrecord
from stoker.image.rootrecord import is_sound, remember
from stoker.image.specification import Mirrors
from stoker.image.store import Store
from tests.image_locks import deb, lock


def made(folder: Path) -> Path:
    """A root of a folder, a program, a link and a file of another user, as it lies in the cache."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "base.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content in (("usr", tarfile.DIRTYPE, b""), ("usr/python", tarfile.REGTYPE, b"program"), ("bin", tarfile.SYMTYPE, b"")):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.size, member.uid = kind, 0o755, len(content), 1000
            member.linkname, member.mtime = "usr" if kind == tarfile.SYMTYPE else "", 1577836800
            tar.addfile(member, io.BytesIO(content))
    baselayer._unpack(folder / "base.tar", folder / "root")
    remember(folder)
    return folder


def rebooted(folder: Path) -> Path:
    """The same after another start of the machine."""
    record = folder / "made.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "boot": "an earlier one"}))
    return folder


def nothing_left(path: Path) -> None:
    """What a power cut leaves of a file that was not on the disk yet."""
    path.write_bytes(bytes(path.stat().st_size))


def test_what_was_made_is_sound_and_after_a_reboot_too(tmp_path):
    folder = made(tmp_path / "a")
    assert is_sound(folder)
    assert is_sound(rebooted(folder))
    assert json.loads((folder / "made.json").read_text())["boot"] != "an earlier one"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: nothing_left(folder / "root/usr/python"),
        lambda folder: (folder / "root/usr/python").unlink(),
        lambda folder: (folder / "root/usr/python").chmod(0o644),
        lambda folder: shutil.rmtree(folder / "root"),
        lambda folder: nothing_left(folder / "base.tar"),
        lambda folder: (folder / "base.tar").unlink(),
        lambda folder: nothing_left(folder / "made.json"),
        lambda folder: (folder / "made.json").unlink(),
    ],
)
def test_what_a_power_cut_spoilt_is_not(spoil, tmp_path):
    folder = rebooted(made(tmp_path / "a"))
    spoil(folder)
    assert not is_sound(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_may_not_be_read_is_not_called_spoilt(tmp_path):
    folder = rebooted(made(tmp_path / "a"))
    (folder / "root/usr/python").chmod(0o700)
    with tarfile.open(folder / "base.tar", "w") as tar:
        tar.add(folder / "root/usr", "usr")
    remember(folder)
    rebooted(folder)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(4242)
        os.setuid(4242)
        try:
            os._exit(0 if is_sound(folder) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_spoilt_base_is_made_anew_and_a_sound_one_is_not(tmp_path, monkeypatch):
    store, wanted = Store(tmp_path / "store"), lock(debs=(deb("python3.13", "3.13.5-2"),))
    asked = []

    def make(key, *_):
        asked.append(key)
        with store.new_root(key) as folder:
            made(folder)
        return store.root(key)

    monkeypatch.setattr(baselayer, "_make_debian", make)
    first = baselayer.make_base(wanted, store, mirrors=Mirrors())
    assert baselayer.make_base(wanted, store, mirrors=Mirrors()).tar == first.tar
    nothing_left(rebooted(first.root.folder.parent) / "root/usr/python")
    again = baselayer.make_base(wanted, store, mirrors=Mirrors())
    assert len(asked) == 2
    assert rootrecord.is_sound(again.root.folder.parent)
    assert (again.root.folder / "usr/python").read_bytes() == b"program"
