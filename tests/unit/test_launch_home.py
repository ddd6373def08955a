"""The home inside of containers: made for its account, and read with distrust."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from stoker import settings
from stoker.errors import MountRefused
from stoker.launch.home import home_for, prepare, read_kept
from stoker.launch.request import Account
from tests.conftest import need

ME = Account(uid=1000, gid=1000, name="stoker", keep_id=False, known=True, host_uid=os.getuid(), host_gid=os.getgid())


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STOKER_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_for(None, ME) == settings.home_folder() == tmp_path / "share/stoker/home"
    assert home_for("none", ME) is None
    assert home_for(str(tmp_path / "x"), ME) == tmp_path / "x"
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "mine"))
    assert home_for(None, ME) == tmp_path / "mine"


def test_it_is_made_for_its_account_alone(tmp_path: Path) -> None:
    home = tmp_path / "a/b/home"
    prepare(home, ME)
    prepare(home, ME)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert home.stat().st_uid == os.getuid()


def test_root_makes_it_for_somebody_else_and_mends_what_a_crash_left(tmp_path: Path) -> None:
    need(os.getuid() == 0, "root")
    other = replace(ME, host_uid=12345, host_gid=12345)
    home = tmp_path / "home"
    home.mkdir()
    prepare(home, other)
    assert (home.stat().st_uid, home.stat().st_gid) == (12345, 12345)


def test_root_gives_each_person_a_home_of_their_own() -> None:
    need(os.getuid() == 0, "root")
    first, second = (replace(ME, host_uid=uid) for uid in (12345, 12346))
    for who in (first, second, first, second):
        home = home_for(None, who)
        assert home is not None
        prepare(home, who)
        assert home.stat().st_uid == who.host_uid


def test_a_home_of_somebody_else_is_refused(tmp_path: Path) -> None:
    need(os.getuid() == 0, "root")
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").write_text("")
    with pytest.raises(MountRefused, match="belongs to uid 0, and what is started runs as uid 12345"):
        prepare(home, replace(ME, host_uid=12345))


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file/home", Path("/proc/nothing/home")):
        with pytest.raises(MountRefused, match="home"):
            prepare(path, ME)


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    (tmp_path / ".stoker/notebook").mkdir(parents=True)
    (tmp_path / ".stoker/notebook/token").write_bytes(b"secret")
    assert read_kept(tmp_path, ".stoker/notebook/token") == b"secret"
    assert read_kept(tmp_path, ".stoker/notebook/nothing") is None
    assert read_kept(tmp_path / "nowhere", "token") is None


def test_a_link_that_the_container_put_in_the_way_is_not_followed(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    for folder in (home, outside / "notebook"):
        folder.mkdir(parents=True)
    (outside / "notebook/token").write_text("a secret of the host")
    (home / "token").symlink_to(outside / "notebook/token")
    (home / ".stoker").symlink_to(outside)
    os.mkfifo(home / "pipe")
    assert read_kept(home, "token") is None
    assert read_kept(home, ".stoker/notebook/token") is None
    assert read_kept(home, "pipe") is None
