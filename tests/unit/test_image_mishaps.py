"""What goes wrong around images: each is an error that names the cause, and none a traceback or a hint that leads astray."""

from __future__ import annotations

import errno
import os
import signal
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

from stoker.cli.image import cache, image
from stoker.cli.image.age import age
from stoker.cli.image.check import check
from stoker.cli.image.init import init
from stoker.cli.image.show import show
from stoker.errors import (
    CacheUnwritable,
    DownloadFailed,
    ImageBroken,
    LockBroken,
    LockMissing,
    PackageGone,
    RunFolderUnwritable,
    SpecificationBroken,
    StokerError,
    Terminated,
)
from stoker.files import need_target
from stoker.image import bootstrap, debian
from stoker.image.apt import _complaints
from stoker.image.checks.subject import read_lock_of
from stoker.image.described import describe
from stoker.image.holding import held
from stoker.image.lock import read_lock, write_lock
from stoker.image.oci import read_layout
from stoker.image.specification import read_specification
from stoker.image.store import Store
from stoker.image.uv import explained
from stoker.shell import Outcome
from tests.image_locks import lock


def test_a_folder_in_the_place_of_a_file_is_called_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("stoker.toml", "stoker.lock"):
        (tmp_path / name).mkdir()
    for error, call in ((SpecificationBroken, read_specification), (LockBroken, read_lock)):
        with pytest.raises(error, match="cannot be read: Is a directory") as told:
            call(tmp_path / ("stoker.lock" if call is read_lock else "stoker.toml"))
        assert "TOML" not in told.value.message
        assert "quotes" not in told.value.hint
    done = CliRunner().invoke(init, ["--force"], standalone_mode=False)
    assert isinstance(done.exception, SpecificationBroken)
    assert os.listdir("stoker.toml") == []


def test_a_file_that_is_no_lock_is_called_none(tmp_path):
    (tmp_path / "stoker.toml").write_text('[image]\nname = "x"\n')
    with pytest.raises(LockBroken, match=r"stoker\.toml is no lock of an image"):
        read_lock(tmp_path / "stoker.toml")
    with pytest.raises(LockMissing) as told:
        read_lock(tmp_path / "old.lock")
    assert "folder" in told.value.hint


@pytest.mark.parametrize("command", [check, show])
def test_an_image_that_was_not_built_yet_is_not_looked_for_elsewhere(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lock(Path("stoker.lock"), lock())
    done = CliRunner().invoke(command, [], standalone_mode=False)
    assert isinstance(done.exception, ImageBroken)
    assert "there is no trainer.oci" in done.exception.message
    assert "stoker image build" in done.exception.hint


def test_what_is_no_layout_is_called_what_it_is(tmp_path):
    (tmp_path / "file").touch()
    for name, what in ((".", "holds no OCI layout"), ("file", "is no folder"), ("gone", "is not there")):
        with pytest.raises(ImageBroken, match=what):
            read_layout(tmp_path / name)


def test_a_lock_of_the_future_has_no_age(tmp_path):
    write_lock(tmp_path / "stoker.lock", lock(created=4_000_000_000))
    done = CliRunner().invoke(age, [str(tmp_path / "stoker.lock")], standalone_mode=False)
    assert "days in the future: its age is not known" in done.stdout
    assert "-" not in done.stdout.split("locked 2096-10-02")[1].splitlines()[0]


def test_a_cache_where_no_folder_can_be_made_is_named():
    with pytest.raises(CacheUnwritable, match="/proc/nothing"), Store(Path("/proc/nothing/image")).using():
        pass


def test_a_time_limit_is_a_time(tmp_path):
    for limit in ("-3", "0", "inf", "soon"):
        assert CliRunner().invoke(check, ["x", "--time-limit", limit]).exit_code == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_us_lets_the_work_be_cleared_away(number, monkeypatch):
    """A base half made lies in /dev/shm, and would stay there until the next build."""
    before, cleared = signal.getsignal(number), []

    class Busy:
        folder = Path("x")

        def kept(self):
            try:
                os.kill(os.getpid(), number)
                signal.pause()
            finally:
                cleared.append(True)

    monkeypatch.setattr(cache, "Store", Busy)
    signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Terminated, match=signal.Signals(number).name):
            image.main(["cache"], standalone_mode=False)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert cleared


class _Apt:
    """Stands in for apt: it has no package at all, or only newer ones than those that are locked."""

    suite = "trixie"

    def __init__(self, *, empty: bool) -> None:
        self.empty, self.pinned = empty, {}

    def pin(self, pins):
        self.pinned = pins

    def resolve(self, names):
        if self.empty or "1" in {version for version, _ in self.pinned.values()}:
            raise PackageGone("no such package", hint="look for its name")
        return {
            name: types.SimpleNamespace(version="2", architecture="all", file=f"{name}.deb", sha256="", size=1, archive="debian") for name in names
        }


def test_a_misspelt_package_is_not_blamed_on_the_lock(capsys):
    with pytest.raises(PackageGone):
        debian._solution(_Apt(empty=True), {"cli": ["bassh"]}, {"bash": "1"})
    assert capsys.readouterr().err == ""
    assert debian._solution(_Apt(empty=False), {"cli": ["bash"]}, {"bash": "1"})[0].version == "2"
    assert "resolved anew" in capsys.readouterr().err


def test_what_is_no_index_is_not_taken_for_a_missing_package():
    arguments = ["pip", "compile"]
    said = "error: No solution found\n  cause: Because {} and you require it, we can conclude that your requirements are unsatisfiable."
    for words in ("click was not found in the package registry", "there are no versions of click"):
        assert "no package index" in explained(arguments, said.format(words), 1).hint
    assert "is the name right" in explained(arguments, said.format("einopps was not found in the package registry"), 1).hint


def test_an_answer_that_breaks_off_is_a_failed_download():
    said = "error: Request failed after 3 retries in 0.0s\n  cause: error decoding response body for url (http://h/simple/a/)"
    assert isinstance(explained(["pip", "compile"], said, 2), DownloadFailed)


def test_apt_is_quoted_without_what_it_says_about_our_own_folder():
    said = "W: Unable to read /tmp/stoker-apt-x/etc/apt/apt.conf.d/ - DirectoryExists (2: No such file or directory)\nE: it failed"
    assert _complaints(Outcome(command="apt-get", code=100, out="", err=said)) == "E: it failed"


def test_the_full_one_of_two_disks_is_named(tmp_path, monkeypatch):
    """mmdebstrap says `No space left on device` for its root as for the tar, which lies in the cache."""
    free = {"root": 10, "tar": 20}
    disk = types.SimpleNamespace
    monkeypatch.setattr(bootstrap.os, "statvfs", lambda place: disk(f_bavail=free["root"], f_frsize=1))
    monkeypatch.setattr(bootstrap.os, "fstatvfs", lambda descriptor: disk(f_bavail=free["tar"], f_frsize=1))
    with open(tmp_path / "raw.tar", "wb") as out:
        assert "TMPDIR" in bootstrap._full(tmp_path, out).hint
        free["tar"] = 0
        full = bootstrap._full(tmp_path, out)
    assert "image cache" in full.message
    assert "STOKER_CACHE" in full.hint


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder that may not be looked into, for root too: the system's refusal is played where that is asked."""
    folder = tmp_path / "closed"
    folder.mkdir()
    real = {name: getattr(os, name) for name in ("stat", "lstat", "open")}

    def refusing(name):
        def call(path, *arguments, **options):
            if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(f"{folder}/"):
                raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
            return real[name](path, *arguments, **options)

        return call

    for name in real:
        monkeypatch.setattr(os, name, refusing(name))
    return folder


def test_a_closed_folder_is_called_closed(closed):
    with pytest.raises(ImageBroken, match="cannot be read \\(Permission denied\\)"):
        read_layout(closed)
    for call in (read_lock_of, describe):
        with pytest.raises(StokerError):
            call(str(closed))
    with pytest.raises(RunFolderUnwritable):
        need_target(closed / "x" / "sbom.json")


def test_a_lock_that_cannot_be_made_in_anothers_cache_is_a_refusal(tmp_path, monkeypatch):
    """It is opened for reading then, and "no such file" would be said of that."""
    real = os.open

    def call(path, flags, *arguments, **options):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", call)
    with pytest.raises(PermissionError), held(tmp_path / "new.lock"):
        pass


def test_a_misspelt_table_is_pointed_at(tmp_path):
    path = tmp_path / "stoker.toml"
    path.write_text('# mine\n[immage]\nname = "x"\n')
    with pytest.raises(SpecificationBroken, match=r"is \[immage\] \(stoker.toml, line 2\) meant for it"):
        read_specification(path)
    path.write_text('[launch]\nengine = "auto"\n')
    with pytest.raises(SpecificationBroken, match=r"has no table \[image\]$"):
        read_specification(path)
