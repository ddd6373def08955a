"""The store on a disk that is full, read-only or another user's, and what an ordinary user may remove."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.errors import CacheUnwritable, DiskFull
from stoker.image.fetching import Wanted, fetch
from stoker.image.store import Store
from tests import image_server as servers
from tests.conftest import need
from tests.image_server import sha256

CONTENT = random.Random(3).randbytes(3_000_000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], capture_output=True).returncode == 0
    need(mounted, "the right to mount a small tmpfs (root)")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_a_fetch_and_more_room_goes_on_with_it(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, sha = Store(small_disk / "store"), sha256(CONTENT)
    with servers.serving() as server:
        server.answers["/thing"] = servers.whole(CONTENT)
        # Its size is not known before, so that it is found out on the way.
        wanted = Wanted(file="thing", sha256=sha, size=None, addresses=(f"{server.address}/thing",))
        with pytest.raises(DiskFull, match="no space left"):
            fetch([wanted], store)
        assert store.file(sha) is None
        assert store.partial(sha).stat().st_size > 1_000_000
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        assert fetch([wanted], store)[sha].read_bytes() == CONTENT
        assert int(server.asked[-1].headers["range"].removeprefix("bytes=").removesuffix("-")) > 1_000_000


def test_a_size_that_does_not_fit_is_refused_at_once(small_disk: Path) -> None:
    wanted = Wanted(file="thing", sha256=sha256(CONTENT), size=len(CONTENT), addresses=("http://127.0.0.1:9/thing",))
    with pytest.raises(DiskFull, match=r"0\.00 GB are to be fetched"):
        fetch([wanted], Store(small_disk / "store"))


def test_a_full_disk_keeps_no_half_of_a_copy(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    store = Store(small_disk / "store")
    with pytest.raises(DiskFull):
        store.add_file(tmp_path / "source", sha256=sha256(CONTENT), name="thing")
    assert not [path for path in store.folder.rglob("*") if path.is_file() and path.stat().st_size]


def test_a_store_that_can_only_be_read_is_read(small_disk: Path) -> None:
    store, sha = Store(small_disk / "store"), sha256(CONTENT[:1000])
    store.partial(sha).write_bytes(CONTENT[:1000])
    store.adopt(sha, name="thing")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert store.file(sha)
    assert fetch([Wanted(file="thing", sha256=sha, size=1000, addresses=())], store)
    with pytest.raises(CacheUnwritable), store.lock("new"):
        pass
    with pytest.raises(CacheUnwritable):
        store.prune()
    with pytest.raises(CacheUnwritable):
        fetch([Wanted(file="other", sha256="0" * 64, size=1, addresses=("http://127.0.0.1:9/x",))], store)


def test_a_lock_of_another_user_is_waited_for(tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    need(setpriv is not None, "setpriv")
    store = Store(tmp_path / "store")
    with store.lock("thing"), store.using():
        pass
    for lock in (store.folder / "locks").iterdir():
        lock.chmod(0o444)
    script = """if True:
        import sys
        from pathlib import Path
        from stoker.image.store import Store
        store = Store(Path(sys.argv[1]))
        with store.using(), store.lock("thing"):
            print("held", flush=True)
    """
    command = [str(setpriv), "--inh-caps=-all", "--bounding-set=-all", sys.executable, "-c", script, str(store.folder)]
    with store.lock("thing"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        said = process.stderr.readline()
        need("Operation not permitted" not in said, "the right to give up capabilities")
        assert "another process works on thing" in said
    out, err = process.communicate(timeout=20)
    assert (out, process.returncode) == ("held\n", 0), err


def test_without_the_powers_of_root_closed_folders_are_removed_too(tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    need(setpriv is not None, "setpriv")
    script = """if True:
        import sys
        from pathlib import Path
        from stoker.image.store import Store
        store = Store(Path(sys.argv[1]))
        with store.new_root("key") as folder:
            (folder / "a/b/c").mkdir(parents=True)
            (folder / "a/b/c/file").write_text("x")
            for closed in ("a/b/c", "a/b", "a"):
                (folder / closed).chmod(0o000 if closed == "a" else 0o500)
        try:
            list((store.root("key") / "a").iterdir())
            sys.exit("the powers are still there: this shows nothing")
        except PermissionError:
            pass
        store.prune()
        sys.exit("still there" if (store.folder / "roots/key").exists() else 0)
    """
    done = subprocess.run(
        [str(setpriv), "--inh-caps=-all", "--bounding-set=-all", sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
    )
    need("Operation not permitted" not in done.stderr, "the right to give up capabilities")
    assert done.returncode == 0, done.stderr
