"""Folders for the moment: what killed processes left goes at the next call, what a living one holds stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stoker.image.temporary import temporary_folder

# Makes one, fills it as apt does, says where it is, and waits to be ended.
HOLDER = """
import sys, time
from stoker.image.temporary import temporary_folder
with temporary_folder("probe") as folder:
    (folder / "lists").mkdir()
    (folder / "lists" / "packages").write_text("x")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The system's temporary folder, as the module tempfile keeps it and as it finds it anew."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def started() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_empty_closed_to_others_and_gone_afterwards(place):
    with temporary_folder("probe") as folder:
        assert folder.parent == place
        assert list(folder.iterdir()) == []
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "some").write_text("thing")
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_goes_at_the_next_call_and_a_living_ones_stays(place):
    (dead, left), (living, held) = started(), started()
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert (left / "lists" / "packages").is_file()
        with temporary_folder("probe") as folder:
            assert sorted(place.iterdir()) == sorted([held, folder])
            assert (held / "lists" / "packages").is_file()
    finally:
        living.kill()
        living.wait()


def test_many_at_once_never_take_each_others(place):
    def use(number: int) -> str:
        with temporary_folder("probe") as folder:
            (folder / "file").write_text(str(number))
            return (folder / "file").read_text()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(400))) == [str(number) for number in range(400)]
    assert list(place.iterdir()) == []


def test_what_others_made_is_left_alone(place):
    (place / "stoker-probe.file").write_text("no folder")
    (place / "stoker-other.abc").mkdir()
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (place / "stoker-probe.link").symlink_to(elsewhere)
    before = sorted(place.iterdir())
    with temporary_folder("probe"):
        pass
    assert sorted(place.iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_another_users_folder_is_left_alone(place):
    theirs = place / "stoker-probe.theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with temporary_folder("probe"):
        assert theirs.is_dir()
